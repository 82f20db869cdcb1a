"""How the batch size shapes the loss curve, at equal epochs and at equal steps.

    python examples/batch_size.py
    mpirun -n 2 python examples/batch_size.py

Trains one network on the digits with several batch sizes: once with a learning rate that grows with the batch (the
linear rule of Goyal et al. 2017) and once with the same rate for all. --out names the figure.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

import autograd as ag
import ddp
from autograd import nn, optim
from launch import data

BATCHES = (8, 32, 128, 512)  # images a step, over all ranks; the first is the base
BASE_RATE = 0.04  # learning rate at the base batch
EPOCHS = 10  # passes over the 1,437 training images
EVERY = 64  # images seen from one point of a curve to the next, or one step if a batch has more
SHARDS = 8  # logical shards a batch is cut into: up to 8 ranks share them out
HIDDEN = 64  # units in each of the two hidden layers
SEED = 0  # of the initial weights and of the order of the images
COLORS = ("#0072B2", "#009E73", "#E69F00", "#D55E00")  # Okabe and Ito: told apart by colour-blind readers

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("runs/batch_size.png"), help="the figure")
out = parser.parse_args().out

comm = ddp.init()
digits = data.load("digits")
images = digits.train_x, digits.train_y

curves = {}  # (batch size, learning rate) -> [(steps, mean loss over all training images), ...]
for batch_size in BATCHES:
    for rate in {BASE_RATE * batch_size / BATCHES[0], BASE_RATE}:
        ag.manual_seed(SEED)
        model = nn.Sequential(
            nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)
        )
        parallel = ddp.DistributedDataParallel(model, comm, SHARDS)
        loader = ddp.DataLoader(images, batch_size, comm, SHARDS, SEED, boundary="carry")  # full batches only
        optimizer = optim.SGD(parallel, rate)
        curves[batch_size, rate] = points = []
        for batch in loader.steps(0, EPOCHS * len(digits.train_x) // batch_size):
            parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
            optimizer.step()
            if (batch.step + 1) % max(1, EVERY // batch_size) == 0:
                means = ddp.evaluate(
                    model, images, lambda x, y: {"loss": ag.cross_entropy(model(x), y, "none")}, comm, SHARDS
                )
                points.append((batch.step + 1, means["loss"]))

if comm.rank == 0:
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "lines.linewidth": 1.2})
    figure, (above, below) = plt.subplots(2, 1, figsize=(3.5, 4.6), sharey=True, layout="constrained")
    for (batch_size, rate), points in curves.items():
        color = COLORS[BATCHES.index(batch_size)]
        style = "-" if batch_size == BATCHES[0] or rate != BASE_RATE else ":"
        steps, losses = zip(*points)
        above.plot([s * batch_size / 1000 for s in steps], losses, style, color=color)
        below.plot(steps, losses, style, color=color, label=f"{batch_size} ({rate:g})")
    above.set(xlabel="samples seen (thousands)", ylabel="training loss (nats)", yscale="log")
    below.set(xlabel="step", ylabel="training loss (nats)", xscale="log")
    below.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=300)
    print({r: curves[r][-1] for r in curves})
