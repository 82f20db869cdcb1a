"""How the learning rate shapes the loss curve: too small, good, too large, diverging.

    python examples/learning_rate.py
    mpirun -n 2 python examples/learning_rate.py --out runs/learning_rate.png

Trains one network on the digits with several learning rates, all from the same weights and on the same batches.
"""

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt

import autograd as ag
import ddp
from autograd import nn, optim
from launch import data

RATES = (0.01, 0.1, 1.0, 2.0, 10.0)  # learning rates to compare, rising
STEPS = 230  # updates of the weights: 10 passes over the training images
GLOBAL_BATCH = 64  # images a step, over all ranks
SHARDS = 2  # logical shards a batch is cut into
HIDDEN = 64  # units in each of the two hidden layers
SEED = 0  # of the initial weights and of the order of the images
HOPELESS = 1000.0  # nats: a run whose loss is above this has diverged and is stopped
COLORS = ("#0072B2", "#009E73", "#000000", "#E69F00", "#D55E00")  # Okabe and Ito, told apart by colour-blind readers

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("runs/learning_rate.png"), help="the figure")
out = parser.parse_args().out

comm = ddp.init()
digits = data.load("digits")
images = digits.train_x, digits.train_y
loader = ddp.DataLoader(images, GLOBAL_BATCH, comm, SHARDS, SEED)

curves = {}
for rate in RATES:
    ag.manual_seed(SEED)
    model = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
    parallel = ddp.DistributedDataParallel(model, comm, SHARDS)
    optimizer = optim.SGD(parallel, rate)
    curves[rate] = losses = []
    for batch in loader.steps(0, STEPS):
        parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
        optimizer.step()
        # The loss of one batch jumps up and down; that of all training images shows the curve itself.
        means = ddp.evaluate(model, images, lambda x, y: {"loss": ag.cross_entropy(model(x), y, "none")}, comm, SHARDS)
        losses.append(means["loss"])
        if not losses[-1] < HOPELESS:
            break

if comm.rank == 0:
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8})
    figure, axes = plt.subplots(figsize=(3.5, 2.8), layout="constrained")
    for rate, color in zip(RATES, COLORS):
        axes.plot(range(1, len(curves[rate]) + 1), curves[rate], color=color, label=f"{rate:g}")
    axes.axhline(math.log(10), color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="step", ylabel="training loss (nats)", xscale="log", yscale="log", ylim=(1e-3, 1e2))
    axes.legend(title="learning rate")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=300)
    print({r: curves[r][-1] for r in RATES})
