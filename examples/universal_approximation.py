"""One hidden layer of enough units comes close to any function: a smooth one, and one with jumps.

    python examples/universal_approximation.py
    mpirun -n 2 python examples/universal_approximation.py

Fits networks of growing width to both functions, each width from several initial weights, which the ranks share out;
prints in one sentence how far off they are, and draws the fits and the errors.

A wide enough network is as close as one likes to a continuous function at every point (Cybenko 1989; Hornik et al.
1989), and to one with jumps on average (Hornik 1991): at a jump a continuous fit is off by half of it or more. The
theorems say that such weights exist, and not that training finds them: what one sees is what Adam finds.
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

WIDTHS = (1, 2, 4, 8, 16, 32, 64)  # hidden units
SHOWN = {2: "#E69F00", 8: "#009E73", 64: "#0072B2"}  # widths whose fit is drawn; Okabe and Ito's colors
SEEDS = 3  # initial weights for each width, of which the median counts
STEPS = 3000  # updates of the weights, each with all training points
RATE = 0.03  # learning rate at the start; it falls to zero along a cosine
TRAINING = np.linspace(-5, 5, 301, dtype=np.float32)[:, None]  # x
DENSE = np.linspace(-5, 5, 3001, dtype=np.float32)[:, None]  # where the errors are measured, between them too


def smooth(x):
    return np.sin(x) + 0.5 * np.cos(2.5 * x)


def jumps(x):
    return np.sign(smooth(x))


parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default="runs/universal_approximation.png", help="the figure [%(default)s]")
parser.add_argument("--quick", action="store_true", help="one seed and a tenth of the steps, to see that it works")
args = parser.parse_args()
seeds, steps = (1, STEPS // 10) if args.quick else (SEEDS, STEPS)

comm = ddp.init()


def fit(function, width, seed):
    """Train one network; its answers at the dense points."""
    ag.manual_seed(seed)
    model = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))
    optimizer = optim.Adam(model, schedule.cosine(RATE, steps))
    targets = function(TRAINING)
    for _ in range(steps):
        optimizer.zero_grad()
        ag.mse_loss(model(TRAINING), targets).backward()
        optimizer.step()
    with ag.no_grad():
        return model(DENSE).data


jobs = [(function, width, seed) for function in (smooth, jumps) for width in WIDTHS for seed in range(seeds)]
mine = [fit(*job) for job in jobs[comm.rank :: comm.size]]
fits = [None] * len(jobs)
for rank, theirs in enumerate(comm.all_gather_object(mine)):
    fits[rank :: comm.size] = theirs

if comm.rank == 0:
    median = {}  # (function, width) -> root mean square error, largest error and fit of the median seed
    for function in (smooth, jumps):
        for width in WIDTHS:
            errors = []
            for job, y in zip(jobs, fits):
                if job[:2] == (function, width):
                    off = np.abs(y - function(DENSE))
                    errors.append((float(np.sqrt(np.mean(off**2))), float(off.max()), y))
            median[function, width] = sorted(errors, key=lambda e: e[0])[seeds // 2]
    first, last = WIDTHS[0], WIDTHS[-1]
    rms, largest = (
        [f"from {median[f, first][i]:.3g} to {median[f, last][i]:.3g}" for f in (smooth, jumps)] for i in (0, 1)
    )
    print(
        f"From {first} to {last} hidden units the root mean square error goes {rms[0]} on the smooth function and "
        f"{rms[1]} on the one with jumps, and the largest error {largest[0]} and {largest[1]}, "
        f"where no continuous function gets below 1, half a jump."
    )
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 8, "lines.linewidth": 1.2})
    figure, (*panels, right) = plt.subplots(1, 3, figsize=(7, 2.6), layout="constrained")  # inches: a page's width
    for function, axes in zip((smooth, jumps), panels):
        axes.plot(DENSE, function(DENSE), color="black", linewidth=2.5, alpha=0.3, label="function")
        for width, color in SHOWN.items():
            axes.plot(DENSE, median[function, width][2], color=color, label=f"{width} units")
        axes.set(title=f"{function.__name__}: fits", xlabel="x", ylabel="y", ylim=(-2.4, 2.1))
        axes.legend(loc="lower center", ncols=2, frameon=False, handlelength=1.2, columnspacing=1)
    for function, color in ((smooth, "#0072B2"), (jumps, "#D55E00")):
        for i, style, name in ((0, "o-", "root mean square"), (1, "s:", "largest")):
            errors = [median[function, width][i] for width in WIDTHS]
            right.plot(WIDTHS, errors, style, color=color, markersize=3, label=f"{function.__name__}, {name}")
    right.set(title="errors", xlabel="hidden units", ylabel="error (median seed)", xscale="log", yscale="log")
    right.set_xticks(WIDTHS, [str(width) for width in WIDTHS])
    right.minorticks_off()
    right.set_ylim(top=60)
    right.yaxis.set_major_formatter("{x:g}")
    right.legend(loc="upper right", frameon=False, fontsize=6)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=300)
    print(f"figure: {args.out}")
