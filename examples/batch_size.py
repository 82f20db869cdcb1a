"""How the batch size shapes the loss curve, at equal epochs and at equal steps.

    python examples/batch_size.py
    mpirun -n 2 python examples/batch_size.py

Trains one network on the digits with several batch sizes, once with a learning rate that grows in proportion to the
batch (Goyal et al. 2017) and once with the same rate for all, prints in one sentence where they end, and draws the
curves.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.launch import data

BATCHES = (16, 64, 256, 1024)  # images a step, over all ranks; the first is the base
COLORS = ("#56B4E9", "#009E73", "#000000", "#D55E00")  # Okabe and Ito's, safe for colour-blind readers
WIDTHS = (3.2, 2.2, 1.2, 1.0)  # of the curves, in points, so that those on top of each other all show
BASE_RATE = 0.04  # learning rate at the base batch
EPOCHS = 10  # passes over the 1,437 training images
SHARDS = 8  # logical shards a batch is cut into: up to 8 ranks share them out
HIDDEN = 64  # units in each of the two hidden layers
SEED = 0  # of the initial weights and of the order of the images

SCALED = [(batch_size, BASE_RATE * batch_size / BATCHES[0]) for batch_size in BATCHES]  # runs: (batch size, rate)
SAME = [(batch_size, BASE_RATE) for batch_size in BATCHES[1:]]

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default="runs/batch_size.png", help="the figure [%(default)s]")
out = parser.parse_args().out

comm = ddp.init()
digits = data.load("digits")
samples = len(digits.train_x)

curves = {}  # run -> loss after each step, of all training images: the same measure for all batch sizes
for batch_size, rate in SCALED + SAME:
    ag.manual_seed(SEED)
    model = nn.Sequential(
        nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)
    )  # fmt: skip
    parallel = ddp.DistributedDataParallel(model, comm, SHARDS)
    # "carry" fills the last batch of an epoch from the next one, so that every step has as many images.
    loader = ddp.DataLoader((digits.train_x, digits.train_y), batch_size, comm, SHARDS, SEED, boundary="carry")
    optimizer = optim.SGD(parallel, rate)
    losses = curves[batch_size, rate] = []
    for batch in loader.steps(0, EPOCHS * samples // batch_size):
        parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
        optimizer.step()
        with ag.no_grad():
            losses.append(ag.cross_entropy(model(digits.train_x), digits.train_y).item())

if comm.rank == 0:
    base = curves[SCALED[0]]
    sizes = ", ".join(f"{batch_size}" for batch_size in BATCHES[1:])
    scaled = ", ".join(f"{curves[run][-1]:.3g}" for run in SCALED[1:])
    same = ", ".join(f"{curves[run][-1]:.3g}" for run in SAME)
    early = ", ".join(f"{base[len(curves[run]) - 1]:.3g}" for run in SAME)  # of the base, after as many steps
    print(
        f"After {EPOCHS} epochs the training loss is {base[-1]:.3g} nats at batch {BATCHES[0]}; "
        f"at {sizes} it is {scaled} with the rate in proportion, "
        f"and {same} with the same rate, while batch {BATCHES[0]} has {early} after as many steps."
    )
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 8, "lines.solid_capstyle": "butt"})
    figure, (above, below) = plt.subplots(2, 1, figsize=(3.5, 4.4), sharey=True, layout="constrained")  # inches
    for run in SCALED + SAME:
        i = BATCHES.index(run[0])
        style = {"color": COLORS[i], "linewidth": WIDTHS[i], "linestyle": "-" if run in SCALED else ":"}
        steps = range(1, len(curves[run]) + 1)
        above.plot([step * run[0] / samples for step in steps], curves[run], **style)
        below.plot(steps, curves[run], **style, label=f"batch {run[0]}" if run in SCALED else None)
    below.plot([], [], "-", color="grey", label="rate in proportion")
    below.plot([], [], ":", color="grey", label=f"rate {BASE_RATE:g}")
    above.set(
        title="at equal epochs",
        xlabel=f"epochs ({samples:,} images each)",
        ylabel="training loss (nats)",
        yscale="log",
        ylim=(None, 10),
    )
    below.set(title="at equal steps", xlabel="steps", ylabel="training loss (nats)", xscale="log")
    below.xaxis.set_major_formatter("{x:g}")
    below.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, handlelength=1.5)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=300)
    print(f"figure: {out}")
