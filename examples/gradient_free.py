"""Search without gradients against SGD: on a smooth objective, and on one made of steps.

    python examples/gradient_free.py
    mpirun -n 2 python examples/gradient_free.py

Looks for the weights of a small network that tells the inside of a circle from the outside: once by its cross-entropy,
which is smooth, and once by its error rate, which is constant until a point changes sides: there the gradient is zero,
and SGD stays where it starts. The ranks share out the methods and seeds. It prints the medians in one sentence, and
draws them, between the quartiles, over the number of evaluations; a value with its gradient counts as three.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy import optimize

import allgrad as ag
from allgrad import ddp, optim

try:
    import matplotlib.pyplot as plt
except ModuleNotFoundError:
    sys.exit("there is no matplotlib here to draw the figure with: pip install 'allgrad[study]'")

HIDDEN = 6  # hidden units
SIZE = 4 * HIDDEN + 1  # weights: of two inputs, a bias and the output for each unit, and the output's bias
EDGE = 5.0  # weights start between -5 and 5, and only SGD may go further
BOX = [(-EDGE, EDGE)] * SIZE
BUDGET = 3000  # evaluations of the objective, each on all points
SEEDS = 9  # runs of each method on each objective
POINTS = ag.random.generator("points").uniform(-1, 1, (200, 2))
INSIDE = (np.hypot(*POINTS.T) < 0.75).astype(float)
OBJECTIVES = {  # functions of the network's answers
    "cross-entropy (nats)": lambda z: ag.binary_cross_entropy_with_logits(z, INSIDE),
    "error rate (%)": lambda z: 50 * (1 - ag.sign(z) * (2 * INSIDE - 1)).mean(),
}


def network(w):
    hidden = ag.tanh(POINTS @ w[: 2 * HIDDEN].reshape(2, HIDDEN) + w[2 * HIDDEN : 3 * HIDDEN])
    return hidden @ w[3 * HIDDEN : 4 * HIDDEN] + w[4 * HIDDEN]


def sgd(f, rng):  # with momentum, and all points in its batch
    w = ag.tensor(rng.uniform(-EDGE, EDGE, SIZE), requires_grad=True)
    optimizer = optim.SGD([w], lr=0.3, momentum=0.9)
    for _ in range(budget // 3):
        optimizer.zero_grad()
        f(w).backward()
        optimizer.step()


def simulated_annealing(f, rng):  # Kirkpatrick et al. 1983, with the jumps of Tsallis and Stariolo 1996
    optimize.dual_annealing(f, BOX, maxiter=budget, maxfun=budget, no_local_search=True, seed=rng)


def differential_evolution(f, rng):  # a genetic search: Storn and Price 1997, with two individuals for each weight
    optimize.differential_evolution(f, BOX, popsize=2, maxiter=budget // SIZE // 2 - 1, tol=0, polish=False, seed=rng)


def particle_swarm(f, rng, n=20):  # Kennedy and Eberhart 1995, with the constants of Clerc and Kennedy 2002
    x, v = rng.uniform(-EDGE, EDGE, (n, SIZE)), np.zeros((n, SIZE))
    own, values = x, np.array([f(w) for w in x])  # the best place of each particle
    for _ in range(budget // n - 1):
        to_own, to_best = rng.random((2, n, SIZE))
        v = 0.73 * v + 1.5 * to_own * (own - x) + 1.5 * to_best * (own[values.argmin()] - x)
        x = np.clip(x + v, -EDGE, EDGE)
        found = np.array([f(w) for w in x])
        own, values = np.where((found < values)[:, None], x, own), np.minimum(found, values)


def best_so_far(objective, method, seed):  # the lowest value met, after each evaluation
    values = []

    def f(w):
        value = OBJECTIVES[objective](network(w if isinstance(w, ag.Tensor) else ag.tensor(w)))
        values.extend([value.item()] * (3 if value.requires_grad else 1))
        return value if value.requires_grad else values[-1]

    method(f, ag.random.generator(seed))
    return np.minimum.accumulate(np.pad(values[:budget], (0, max(0, budget - len(values))), "edge"))


METHODS = {sgd: "#000000", simulated_annealing: "#E69F00", differential_evolution: "#009E73", particle_swarm: "#D55E00"}
NAMES = [method.__name__.replace("_", " ").replace("sgd", "SGD") for method in METHODS]
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default="runs/gradient_free.png", help="the figure [%(default)s]")
parser.add_argument("--quick", action="store_true", help="three seeds and a tenth of the budget, to see that it works")
args = parser.parse_args()
seeds, budget = (3, BUDGET // 10) if args.quick else (SEEDS, BUDGET)
comm = ddp.init()
jobs = [(objective, method, seed) for objective in OBJECTIVES for method in METHODS for seed in range(seeds)]
mine = [best_so_far(*job) for job in jobs[comm.rank :: comm.size]]
curves = [None] * len(jobs)
for rank, theirs in enumerate(comm.all_gather_object(mine)):
    curves[rank :: comm.size] = theirs

if comm.rank == 0:
    lower, median, upper = np.quantile(np.reshape(curves, (2, len(METHODS), seeds, budget)), (0.25, 0.5, 0.75), axis=2)
    smooth, steps = (", ".join(f"{n} {end:.3g}" for n, end in zip(NAMES, ends)) for ends in median[:, :, -1])
    print(
        f"After {budget} evaluations the median of {seeds} seeds is, in nats of cross-entropy: {smooth}; "
        f"in % of points on the wrong side: {steps}, where SGD started from {median[1, 0, 0]:.3g}."
    )
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "lines.linewidth": 1.4})
    figure, panels = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")  # inches: a page's width
    for axes, objective, scale, *of in zip(panels, OBJECTIVES, ("log", "linear"), lower, median, upper):
        for name, color, low, middle, high in zip(NAMES, METHODS.values(), *of):
            axes.plot(np.arange(budget) + 1, middle, color=color, label=name)
            axes.fill_between(np.arange(budget) + 1, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set(xlabel="evaluations of the objective", ylabel=f"lowest {objective}", xscale="log", yscale=scale)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=300)
    print(f"figure: {args.out}")
