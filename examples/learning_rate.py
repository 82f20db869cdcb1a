"""How the learning rate shapes the loss curve: too small, good, too large, diverging.

    python examples/learning_rate.py
    mpirun -n 2 python examples/learning_rate.py

Trains one network on the digits with several learning rates, each from the same weights and on the same batches,
prints in one sentence where they end, and draws the curves.
"""

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.launch import data

RATES = (0.01, 0.1, 1.0, 2.0, 10.0)  # learning rates to compare; at 2 a rounding error decides where a run ends
COLORS = ("#0072B2", "#009E73", "#000000", "#E69F00", "#D55E00")  # Okabe and Ito's, safe for colour-blind readers
STEPS = 230  # updates of the weights: 10 passes over the 1,437 training images
GLOBAL_BATCH = 64  # images a step, over all ranks
SHARDS = 8  # logical shards a batch is cut into: up to 8 ranks share them out
HIDDEN = 64  # units in each of the two hidden layers
SEED = 0  # of the initial weights and of the order of the images
HOPELESS = 1000.0  # nats: a run whose loss passes this has diverged and is stopped

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default="runs/learning_rate.png", help="the figure [%(default)s]")
out = parser.parse_args().out

comm = ddp.init()
digits = data.load("digits")
loader = ddp.DataLoader((digits.train_x, digits.train_y), GLOBAL_BATCH, comm, SHARDS, SEED)

curves = {}  # learning rate -> loss after each step
for rate in RATES:
    ag.manual_seed(SEED)
    model = nn.Sequential(
        nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)
    )  # fmt: skip
    parallel = ddp.DistributedDataParallel(model, comm, SHARDS)
    optimizer = optim.SGD(parallel, rate)
    losses = curves[rate] = []
    for batch in loader.steps(0, STEPS):
        loss = parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
        if not loss < HOPELESS:
            break
        optimizer.step()
        # The loss of a batch differs from batch to batch; that of all training images shows what the step has done.
        with ag.no_grad():
            losses.append(ag.cross_entropy(model(digits.train_x), digits.train_y).item())

if comm.rank == 0:
    guessing = math.log(10)  # nats: the loss of giving each of the ten digits the same probability
    finished = {rate: losses[-1] for rate, losses in curves.items() if len(losses) == STEPS}
    diverged = {rate: len(losses) for rate, losses in curves.items() if len(losses) < STEPS}
    best = min(finished, key=finished.get)
    others = ", ".join(f"{loss:.3g} at {rate:g}" for rate, loss in finished.items() if rate != best)
    failures = ", ".join(f"{rate:g} after {steps} steps" for rate, steps in diverged.items())
    print(
        f"After {STEPS} steps the training loss is lowest at rate {best:g}, with {finished[best]:.3g} nats; "
        f"it is {others}, and {guessing:.3g} for guessing; diverged: {failures or 'none'}."
    )
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "lines.linewidth": 1.2})
    figure, axes = plt.subplots(figsize=(3.5, 2.6), layout="constrained")  # inches: half a page's width
    axes.axhline(guessing, color="grey", linestyle=":", label="guessing (ln 10)")
    for rate, color in zip(RATES, COLORS):
        axes.plot(range(1, len(curves[rate]) + 1), curves[rate], color=color, label=f"rate {rate:g}")
    axes.set(xscale="log", yscale="log", xlim=(1, STEPS), ylim=(1e-3, 1e2))
    axes.set(xlabel=f"step ({GLOBAL_BATCH} images each)", ylabel="training loss (nats)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(loc="lower left", frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=300)
    print(f"figure: {out}")
