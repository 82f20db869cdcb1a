"""A hypernetwork (Ha, Dai and Le 2016): a network whose output is the weights of another network.

    python examples/hypernetwork.py
    mpirun -n 2 python examples/hypernetwork.py

The task is a sine wave, its code the frequency. The hypernetwork turns a code into the weights of a small network
from x to y; the loss is that of the small network, and its gradient flows back through the computed weights. It is
trained on a few frequencies; the figure shows the functions for others, and the error for all of them. Between those
of the training it beats the weights of the nearest trained code; beyond their range its error grows fast.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.autograd import random, schedule

TASKS = 7  # frequencies of the training, evenly spaced
LOWEST, HIGHEST = 0.5, 2.0  # of them, in periods over the length 1 of the inputs
POINTS = 32  # points (x, y) of a sample, which is one task
SAMPLES = 2016  # in the data set: TASKS in turn, each with points of its own
INNER = 32  # hidden units of the small network
HIDDEN = 128  # units in each of the two hidden layers of the hypernetwork
GLOBAL_BATCH = 36  # tasks a step, over all ranks
SHARDS = 4  # logical shards a batch is cut into: up to 4 ranks share them out
LR = 3e-3  # of Adam at first; it falls to zero along a cosine
SEED = 0  # of the data, the initial weights and the order of the samples

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=6000, help="updates of the weights [%(default)s]")
parser.add_argument("--out", type=Path, default="runs/hypernetwork.png", help="the figure [%(default)s]")
options = parser.parse_args()
steps, out = options.steps, options.out


def wave(codes, x):
    return np.sin(2 * np.pi * codes * x)


trained = np.linspace(LOWEST, HIGHEST, TASKS, dtype=np.float32)  # periods
codes = np.resize(trained, (SAMPLES, 1))
x = random.generator(SEED, "points").uniform(-1, 1, (SAMPLES, POINTS)).astype(np.float32)


class Hypernetwork(nn.Module):
    """y(x) = v . tanh(w x + b) + c, where w, b, v (INNER numbers each) and c are computed from the code."""

    def __init__(self):
        self.body = nn.Sequential(nn.Linear(1, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())
        self.head = nn.Linear(HIDDEN, 3 * INNER + 1)

    def __call__(self, codes, x):
        weights = self.head(self.body(codes))  # (N, 3 INNER + 1), from codes (N, 1)
        w, b, v = ag.split(weights[:, 1:, None], INNER, axis=1)  # (N, INNER, 1): those of N small networks
        hidden = (w * x[:, None, :] + b).tanh()  # (N, INNER, POINTS), from x (N, POINTS)
        return (v * hidden).sum(axis=1) + weights[:, :1]


comm = ddp.init()
ag.manual_seed(SEED)
model = Hypernetwork()
parallel = ddp.DistributedDataParallel(model, comm, SHARDS)
loader = ddp.DataLoader((codes, x, wave(codes, x)), GLOBAL_BATCH, comm, SHARDS, SEED)
optimizer = optim.Adam(parallel, schedule.cosine(LR, steps))
for batch in loader.steps(0, steps):
    loss = parallel.backward(batch, lambda codes, x, y: ag.mse_loss(model(codes, x), y))
    optimizer.step()


def answers(codes, x):
    """What the small networks of some codes (N,) say at the inputs x (POINTS,): (N, POINTS)."""
    with ag.no_grad():
        return model(codes[:, None], np.tile(x, (len(codes), 1))).numpy()


def error(tasks, codes):
    """The rms error in each task of the network for a code, which need not be the task's own."""
    return np.sqrt(((answers(codes, line) - wave(tasks[:, None], line)) ** 2).mean(axis=1))


def nearest(codes):
    return trained[abs(codes[:, None] - trained).argmin(axis=1)]


if comm.rank == 0:
    line = np.linspace(-1, 1, 201, dtype=np.float32)
    spacing = trained[1] - trained[0]
    between, beyond = (trained[1:] + trained[:-1]) / 2, np.array([LOWEST - spacing, HIGHEST + spacing], np.float32)
    own, unseen, outside = (error(codes, codes).mean() for codes in (trained, between, beyond))
    print(
        f"After {steps} steps the rms error of a wave of amplitude 1 is {own:.3g} for the {TASKS} trained frequencies "
        f"and {unseen:.3g} for the {len(between)} unseen ones half-way between them, where the weights of the nearest "
        f"trained one have {error(between, nearest(between)).mean():.3g}; beyond their range it is {outside:.3g}."
    )
    print(f"weights sha256 {parallel.arena.sha256()[:16]}")
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 8, "lines.linewidth": 1.2})
    figure, axes = plt.subplot_mosaic("012;eee", figsize=(3.5, 4.0), height_ratios=(1, 1.6), layout="constrained")
    shown = between[[0, len(between) // 2, -1]]
    for place, code, y in zip("012", shown, answers(shown, line)):
        axes[place].plot(line[::8], wave(code, line[::8]), "o", color="#999999", markersize=2.5)
        axes[place].plot(line, y, color="#D55E00")
        axes[place].set(
            title=f"code {code:.3g}", xlabel="x", ylim=(-1.2, 1.2), yticks=(-1, 0, 1) if place == "0" else ()
        )
    axes["0"].set(ylabel="y")
    sweep = np.linspace(*beyond, 241, dtype=np.float32)
    axes["e"].plot(sweep, error(sweep, nearest(sweep)), ":", color="black", label="weights of the nearest trained code")
    axes["e"].plot(sweep, error(sweep, sweep), color="#D55E00", label="weights computed for the code")
    axes["e"].plot(trained, error(trained, trained), "o", color="#0072B2", markersize=4, label="trained codes")
    axes["e"].set(xlabel="code: frequency of the wave (periods per unit of x)", ylabel="rms error", yscale="log")
    figure.legend(loc="outside lower center", frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=300)
    print(f"figure: {out}")
