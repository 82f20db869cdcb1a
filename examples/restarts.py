"""Many starts of one small network, of which some get stuck: the ranks share them out, and the best one wins.

    python examples/restarts.py
    mpirun -n 2 python examples/restarts.py

Tells two spirals apart with hardly more hidden units than that takes. Where training ends depends on the initial
weights alone: most starts stop in a poor local minimum or on a plateau, and starting again is the cure. Every start
trains on one rank, without a word to the others; the one with the lowest validation loss wins, its rank sends the
weights to all, and all evaluate them on test points that had no say in the choice. It prints in one sentence how far
apart the starts end, and draws their losses and the winner's answers.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.autograd import schedule

try:
    import matplotlib.pyplot as plt
except ModuleNotFoundError:
    sys.exit("there is no matplotlib here to draw the figure with: pip install 'allgrad[study]'")

STARTS = 32  # initial weights
STEPS = 1000  # updates of the weights, each with all training points
RATE = 0.03  # learning rate at the start; it falls to zero along a cosine
UNITS = 3  # in each of the two hidden layers
TURNS = 1.25  # of each spiral
NOISE = 0.06  # standard deviation of a point's distance from its spiral, whose radius is 3
SHARDS = 8  # logical shards the test points are cut into: up to 8 ranks share them out

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default="runs/restarts.png", help="the figure [%(default)s]")
parser.add_argument("--quick", action="store_true", help="4 starts and a fifth of the steps, to see that it works")
args = parser.parse_args()
starts, steps = (4, STEPS // 5) if args.quick else (STARTS, STEPS)


def spirals(part, n):
    """n points (n, 2) of two spirals, and to which one each belongs (n, 1)."""
    rng = ag.random.generator(part)
    which = np.arange(n) % 2
    radius = 3 * np.sqrt(rng.uniform(0.05, 1, n))
    angle = 2 * np.pi * TURNS * radius / 3 + np.pi * which
    points = radius * np.stack([np.cos(angle), np.sin(angle)]) + NOISE * rng.normal(size=(2, n))
    return points.T.astype(np.float32), which[:, None].astype(np.float32)


def network():
    return nn.Sequential(
        nn.Linear(2, UNITS), nn.Tanh(), nn.Linear(UNITS, UNITS), nn.Tanh(), nn.Linear(UNITS, 1)
    )  # fmt: skip


comm = ddp.init()
x, y = spirals("training", 200)
validation_x, validation_y = spirals("validation", 200)

mine, states = [], {}
for start in range(starts)[comm.rank :: comm.size]:
    ag.manual_seed(start)
    model = network()
    optimizer = optim.Adam(model, schedule.cosine(RATE, steps))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ag.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with ag.no_grad():
        mine.append((losses, ag.binary_cross_entropy_with_logits(model(validation_x), validation_y).item()))
    states[start] = model.state_dict()

runs = [None] * starts  # of all ranks
for rank, theirs in enumerate(comm.all_gather_object(mine)):
    runs[rank :: comm.size] = theirs
validation = [loss for _, loss in runs]
winner = int(np.argmin(validation))
model = network()
model.load_state_dict(comm.broadcast_object(states.get(winner), root=winner % comm.size))
test_x, test_y = test = spirals("test", 2000)
accuracy = ddp.evaluate(model, test, lambda x, y: {"%": 100 * ((model(x).data > 0) == y)}, comm, SHARDS)["%"]

if comm.rank == 0:
    print(
        f"Of {starts} starts the best, number {winner}, ends with a validation loss of {min(validation):.3g} nats, "
        f"the median with {np.median(validation):.3g} and the worst with {max(validation):.3g}, where guessing has "
        f"{np.log(2):.3g}; the best is right about {accuracy:.4g} % of {len(test_x)} test points."
    )
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 8, "lines.linewidth": 0.8})
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(7, 2.5), layout="constrained")  # a page's width
    for losses, _ in runs:
        left.plot(range(1, steps + 1), losses, color="#999999", alpha=0.7)
    left.plot(range(1, steps + 1), runs[winner][0], color="#D55E00", linewidth=2, label=f"start {winner}, the best")
    left.set(xlabel=f"step ({len(x)} points each)", ylabel="training loss (nats)", ylim=(0, 0.75))
    left.legend(loc="upper right", frameon=False)
    middle.plot(range(1, starts + 1), sorted(validation), "o", color="#999999", markersize=3)
    middle.plot(1, validation[winner], "o", color="#D55E00", markersize=5)
    middle.set(xlabel="starts, the best first", ylabel="validation loss (nats)", ylim=(0, None))
    side = np.linspace(-3.5, 3.5, 141, dtype=np.float32)
    with ag.no_grad():
        answers = model(np.stack(np.meshgrid(side, side), axis=-1)).sigmoid().data[..., 0]
    right.contourf(side, side, answers, 10, cmap="PuOr", alpha=0.4)
    for which, marker, color in ((0, "^", "#B35806"), (1, "o", "#542788")):
        right.plot(*test_x[test_y[:, 0] == which][:150].T, marker, color=color, markersize=1.5)
    right.set(title=f"start {winner} and test points", xlabel="x", ylabel="y", aspect="equal")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=300)
    print(f"figure: {args.out}")
