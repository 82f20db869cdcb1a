"""How the spread of the initial weights carries through a deep network: it dies out, holds, or blows up.

    python examples/initialisation.py
    mpirun -n 2 python examples/initialisation.py

Draws the weights of a deep network, with ReLU and with tanh, in five ways, which the ranks share out; measures on the
digits, layer by layer, the activations and their gradients before training; trains; prints and draws the results.

A layer of n inputs multiplies the variance of its activations by about n var(w), and a ReLU halves the mean square: so
1/n (LeCun et al. 1998; Xavier, of Glorot and Bengio 2010, is the same in equally wide layers) suits nearly linear
units, and 2/n (Kaiming, of He et al. 2015) suits ReLU. Any other factor is raised to the power of the depth.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.autograd import init
from allgrad.launch import data

try:
    import matplotlib.pyplot as plt
except ModuleNotFoundError:
    sys.exit("there is no matplotlib here to draw the figure with: pip install 'allgrad[study]'")

UNITS = 64  # in each hidden layer: as many as an image has pixels
DEPTH = 20  # hidden layers
WEIGHTS = {  # name: (how weights are drawn, Okabe and Ito's color, line style)
    "too small": (init.normal(0.05), "#56B4E9", "-"),  # 1/n is a standard deviation of 0.125 here, and 2/n one of 0.177
    "1/n": (init.gaussian, "#E69F00", "-"),
    "Xavier": (init.xavier, "#000000", ":"),
    "Kaiming": (init.kaiming, "#009E73", "-"),
    "too large": (init.normal(0.5), "#D55E00", "-"),
}
STEPS = 400  # updates of the weights
BATCH = 64  # images a step
RATE = 0.01  # learning rate
EVERY = 10  # steps between two measurements of the training loss
HOPELESS = 1000.0  # nats: a run whose loss passes this is stopped and counts as infinite
SEED = 0  # of the initial weights and of the batches
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default="runs/initialisation.png", help="the figure [%(default)s]")
parser.add_argument("--quick", action="store_true", help="a tenth of the steps, to see that it works")
args = parser.parse_args()
steps = STEPS // 10 if args.quick else STEPS
comm = ddp.init()
digits = data.load("digits")


def run(activation, weights):
    """Standard deviations of the activations and of their gradients by layer; the training loss every few steps."""
    ag.manual_seed(SEED)
    hidden = [layer for _ in range(DEPTH) for layer in (nn.Linear(UNITS, UNITS, init=weights), activation())]
    model = nn.Sequential(*hidden, nn.Linear(UNITS, 10, init=weights))
    x, activations, probes = digits.train_x, [], []
    for layer in model:
        x = layer(x)
        if isinstance(layer, activation):
            activations.append(float(np.std(x.data, dtype=np.float64)))
            probes.append(ag.tensor(np.zeros_like(x.data), requires_grad=True))
            x = x + probes[-1]  # adds nothing, and its gradient is that of the activations
    ag.cross_entropy(x, digits.train_y, reduction="sum").backward()
    gradients = [float(np.std(probe.grad, dtype=np.float64)) for probe in probes]
    optimizer, losses = optim.SGD(model, RATE), []
    for step in range(steps + 1):
        if step % EVERY == 0:
            with ag.no_grad():
                losses.append(ag.cross_entropy(model(digits.train_x), digits.train_y).item())
            if not losses[-1] < HOPELESS:
                return activations, gradients, [*losses, math.inf]
        batch = ag.random.permutation(len(digits.train_x), SEED, step)[:BATCH]
        optimizer.zero_grad()
        ag.cross_entropy(model(digits.train_x[batch]), digits.train_y[batch]).backward()
        optimizer.step()
    return activations, gradients, losses


jobs = [(activation, name) for activation in (nn.ReLU, nn.Tanh) for name in WEIGHTS]
mine = [run(activation, WEIGHTS[name][0]) for activation, name in jobs[comm.rank :: comm.size]]
runs = [None] * len(jobs)
for rank, theirs in enumerate(comm.all_gather_object(mine)):
    runs[rank :: comm.size] = theirs

if comm.rank == 0:
    guessing = math.log(10)  # nats: the loss of giving each of the ten digits the same probability
    print(f"{'':18}activations, layer  gradients, layer     training loss, step")
    print(f"{'':18}" + "".join(f"{column:>10}" for column in (1, DEPTH, 1, DEPTH, 0, steps)))
    for (kind, name), (a, g, loss) in zip(jobs, runs):
        numbers = (a[0], a[-1], g[0], g[-1], loss[0], loss[-1])
        print(f"{kind.__name__:6}{name:12}" + "".join(f"{number:10.2g}" for number in numbers))
    both = runs[: len(WEIGHTS)], runs[len(WEIGHTS) :]
    relu, tanh = (min((loss[-1], name) for name, (*_, loss) in zip(WEIGHTS, half)) for half in both)
    print(
        f"After {steps} steps the training loss is lowest with {relu[1]} for ReLU, {relu[0]:.3g} nats, "
        f"and with {tanh[1]} for tanh, {tanh[0]:.3g} nats; guessing has {guessing:.3g}."
    )
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 8, "lines.linewidth": 1.4})
    figure, rows = plt.subplots(2, 3, figsize=(7, 4.4), sharex="col", sharey="col", layout="constrained")  # inches
    labels = "activations (std)", "their gradients (std)", "training loss (nats)"
    for (activation, name), curves in zip(jobs, runs):
        xs = *[range(1, DEPTH + 1)] * 2, range(0, EVERY * len(curves[2]), EVERY)
        for axes, x, y, label in zip(rows[0 if activation is nn.ReLU else 1], xs, curves, labels):
            axes.plot(x, y, color=WEIGHTS[name][1], linestyle=WEIGHTS[name][2], label=name)
            axes.set(yscale="log", title=activation.__name__, ylabel=label)
    for axes, label in zip(rows[1], ["layer, counted from the input"] * 2 + [f"step ({BATCH} images each)"]):
        axes.set_xlabel(label)
    for axes in rows[:, 2]:
        axes.axhline(guessing, color="grey", linewidth=0.8, linestyle="--", label="guessing (ln 10)")
    axes.set_ylim(None, 10)
    figure.legend(*rows[0, 2].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=300)
    print(f"figure: {args.out}")
