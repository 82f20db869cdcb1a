"""A generative adversarial network (Goodfellow et al. 2014) learns to draw from a ring of eight Gaussians.

    python examples/gan.py
    mpirun -n 2 python examples/gan.py

The discriminator learns to tell the data from what the generator makes of noise; the generator learns to pass for
data. It sees no sample itself: all it knows of the ring is the gradient that comes back through the discriminator.
The figure shows what it draws as training goes on, and who is winning: at 2 ln 2 nats the discriminator is guessing.
`parallel.backward` keys what is drawn in it by step and logical shard: the noise is the same on any number of ranks.
"""

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.autograd import random

MODES, RADIUS, STD = 8, 2.0, 0.1  # Gaussians on the ring, its radius, and their standard deviation
SAMPLES = 4096  # points in the data set
NOISE = 4  # dimensions of the noise; the points have two
HIDDEN = 128  # units in each of the two hidden layers
GLOBAL_BATCH = 256  # points a step, over all ranks
SHARDS = 4  # logical shards a batch is cut into: up to 4 ranks share them out
LR, BETAS = 1e-3, (0.5, 0.999)  # of Adam, for both; less momentum than usual, since the opponent moves too
TESTS = 2000  # points drawn to look at the generator
SEED = 0  # of the data, the initial weights and the noise

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=3000, help="of each network [%(default)s]")
parser.add_argument("--out", type=Path, default="runs/gan.png", help="the figure [%(default)s]")
options = parser.parse_args()
steps, out = options.steps, options.out

angles = 2 * np.pi * np.arange(MODES) / MODES
centres = RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (MODES, 2)
rng = random.generator(SEED, "data")
data = (centres[rng.integers(MODES, size=SAMPLES)] + rng.normal(0.0, STD, (SAMPLES, 2))).astype(np.float32)


def network(inputs, outputs):
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
    )  # fmt: skip


comm = ddp.init()
ag.manual_seed(SEED)
generator, discriminator = network(NOISE, 2), network(2, 1)  # the discriminator's output is the logit of "data"
parallel_g, parallel_d = (ddp.DistributedDataParallel(model, comm, SHARDS) for model in (generator, discriminator))
optimizer_g, optimizer_d = (optim.Adam(parallel, LR, BETAS) for parallel in (parallel_g, parallel_d))
loader = ddp.DataLoader((data,), GLOBAL_BATCH, comm, SHARDS, SEED, boundary="carry")


def forge(count):
    return generator(np.random.Generator(random.draw()).standard_normal((count, NOISE), dtype=np.float32))


def discriminator_loss(x):
    """-log D(x) - log(1 - D(G(z))), each as a softplus of the logit; detach keeps the generator out of it."""
    return ag.softplus(-discriminator(x)).mean() + ag.softplus(discriminator(forge(len(x)).detach())).mean()


def generator_loss(x):
    """-log D(G(z)). What this leaves in the discriminator's gradients, its own next backward starts by forgetting."""
    return ag.softplus(-discriminator(forge(len(x)))).mean()


def look():
    """Points that the generator draws, the number of modes with 1 % of them within 3 STD, and the part within 3 STD."""
    with ag.no_grad():
        points = generator(random.generator(SEED, "test").standard_normal((TESTS, NOISE), dtype=np.float32)).numpy()
    close = np.linalg.norm(points[:, None] - centres, axis=2) < 3 * STD  # (TESTS, MODES)
    return points, (close.mean(axis=0) >= 0.01).sum(), close.any(axis=1).mean()


looks, losses = {0: look()}, []  # by steps done; (discriminator's, generator's) of each step
moments = (0, steps // 30, steps // 6, steps)
for batch in loader.steps(0, steps):
    loss_d = parallel_d.backward(batch, discriminator_loss)
    optimizer_d.step()
    loss_g = parallel_g.backward(batch, generator_loss)
    optimizer_g.step()
    losses.append((loss_d, loss_g))
    if (batch.step + 1) % 50 == 0 or batch.step + 1 in moments:
        looks[batch.step + 1] = look()

if comm.rank == 0:
    guessing = 2 * math.log(2)  # nats: the discriminator's loss if it gives everything the probability 1/2
    print(
        f"After {steps} steps the generator covers {looks[steps][1]} of {MODES} modes, before training {looks[0][1]}; "
        f"{looks[steps][2]:.1%} of its points lie within 3 standard deviations of one, before training "
        f"{looks[0][2]:.1%}; the discriminator's loss is {losses[-1][0]:.3f} nats, and {guessing:.3f} for guessing."
    )
    print(f"weights sha256: generator {parallel_g.arena.sha256()[:16]}, discriminator {parallel_d.arena.sha256()[:16]}")
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 8, "figure.constrained_layout.use": True})
    figure, axes = plt.subplot_mosaic("0123;llll;mmmm", figsize=(3.5, 4.2), height_ratios=(0.8, 1, 1))  # inches
    for place, step in zip("0123", moments):
        axes[place].plot(*data.T, ",", color="#999999")
        axes[place].plot(*looks[step][0].T, ",", color="#D55E00")
        axes[place].set(title=f"step {step}", aspect="equal", xlim=(-3, 3), ylim=(-3, 3), xticks=(-2, 2), yticks=[])
    for curve, label, color in zip(zip(*losses), ("discriminator", "generator"), ("#0072B2", "#D55E00")):
        axes["l"].plot(range(1, steps + 1), curve, color=color, linewidth=0.8, label=label)
    axes["l"].axhline(guessing, color="black", linestyle=":", label="guessing")
    axes["l"].set(xlabel="step", ylabel="loss (nats)", ylim=(0, 2))
    _, covered, close = zip(*looks.values())
    axes["m"].plot(looks.keys(), 100 * np.array(covered) / MODES, "k--", label="modes covered")
    axes["m"].plot(looks.keys(), 100 * np.array(close), "k", label="points close to one")
    axes["m"].set(xlabel="step", ylabel="part (%)", ylim=(0, 105))
    for place in "lm":
        axes[place].legend(loc="lower right", ncols=3, frameon=False, handlelength=1.5, columnspacing=1)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=300)
    print(f"figure: {out}")
