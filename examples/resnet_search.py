"""Random search: which learning rate, batch size and width suit a small residual network on the handwritten digits?

    python examples/resnet_search.py
    mpirun -n 2 python examples/resnet_search.py

Each trial draws its learning rate (log-uniformly), batch size and width at random, which finds good values in fewer
trials than a grid does where one of the three matters most (Bergstra and Bengio 2012). The ranks share out the trials,
and each trains its own without a word to the others; what comes out depends on the number of the trial alone, so that
the table is the same on any number of ranks. Prints the best trials, and the accuracy of the first of them on images
that had no say in the choice; draws all of them.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.autograd import schedule
from allgrad.launch import data
from allgrad.launch.models.images import ImageNetwork, Residual

RATES = (1e-3, 10.0)  # learning rates between these
BATCHES = (16, 64, 256)  # images a step, one of these
WIDTHS = (4, 8, 16)  # channels at full resolution, one of these; twice as many at half, four times at a quarter
COLORS = ("#56B4E9", "#D55E00", "#000000")  # of the batch sizes: Okabe and Ito's, safe for colour-blind readers
MARKERS = ("o", "s", "^")
HELD_OUT = 360  # training images for validation, to choose by; the validation images of the data set are for the test
SEED = 0  # of the values that are tried, and of the initial weights

parser = argparse.ArgumentParser()
parser.add_argument("--trials", type=int, default=24, help="networks to train [%(default)s]")
parser.add_argument("--epochs", type=int, default=5, help="passes over the training images in a trial [%(default)s]")
parser.add_argument("--out", type=Path, default="runs/resnet_search.png", help="the figure [%(default)s]")
args = parser.parse_args()


def resnet(width):
    """The residual network of He et al. 2016 with 8 layers, and fewer channels."""
    return ImageNetwork(
        (1, 8, 8),
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        Residual(width, width, 1, None), Residual(width, 2 * width, 2, None), Residual(2 * width, 4 * width, 2, None),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10),
    )  # fmt: skip


def accuracy(model, x, y):
    """In percent, measured by this rank alone."""
    return ddp.evaluate(model, (x, y), lambda x, y: {"%": 100 * (model(x).argmax(1) == y)}, ddp.Communicator(), 1)["%"]


def trial(number):
    """Learning rate, batch size, width, and the accuracies of validation and test in percent."""
    rng = ag.random.generator(SEED, "trial", number)
    rate = float(np.exp(rng.uniform(*np.log(RATES))))
    batch_size, width = int(rng.choice(BATCHES)), int(rng.choice(WIDTHS))
    with ag.random.keyed(SEED, "weights", number):
        model = resnet(width)
    parallel = ddp.DistributedDataParallel(model)  # without a communicator: this rank is alone
    loader = ddp.DataLoader((digits.train_x[HELD_OUT:], digits.train_y[HELD_OUT:]), batch_size, seed=number)
    steps = args.epochs * len(loader)
    optimizer = optim.SGD(parallel, schedule.cosine(rate, steps), momentum=0.9)
    for batch in loader.steps(0, steps):
        parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
        optimizer.step()
    validation = accuracy(model, digits.train_x[:HELD_OUT], digits.train_y[:HELD_OUT])
    return rate, batch_size, width, validation, accuracy(model, digits.val_x, digits.val_y)


comm = ddp.init()
digits = data.load("digits")
trials = [None] * args.trials
for rank, theirs in enumerate(comm.all_gather_object([trial(n) for n in range(args.trials)[comm.rank :: comm.size]])):
    trials[rank :: comm.size] = theirs

if comm.rank == 0:
    ranking = sorted(trials, key=lambda row: -row[3])
    print("learning rate  batch  width  validation  test")
    for rate, batch_size, width, validation, test in ranking[:8]:
        print(f"{rate:13.4f}  {batch_size:5}  {width:5}  {validation:8.2f} %  {test:.2f} %")
    rate, batch_size, width, validation, test = ranking[0]
    print(
        f"The best of {args.trials} trials has rate {rate:.3g}, batch {batch_size}, width {width}: it is right about "
        f"{validation:.2f} % of the validation images and {test:.2f} % of the test images, the median trial about "
        f"{np.median([row[3] for row in trials]):.2f} % of the validation images."
    )
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8})
    figure, axes = plt.subplots(figsize=(3.5, 2.8), layout="constrained")  # inches: half a page's width
    for rate, batch_size, width, validation, _ in trials:
        i = BATCHES.index(batch_size)
        axes.scatter(rate, validation, 6 * width, COLORS[i], marker=MARKERS[i], alpha=0.8, linewidths=0)
    for batch_size, color, marker in zip(BATCHES, COLORS, MARKERS):
        axes.scatter([], [], 40, color, marker=marker, label=f"batch {batch_size}")
    for width in WIDTHS:
        axes.scatter([], [], 6 * width, "grey", label=f"width {width}")
    axes.axhline(10, color="grey", linestyle=":", label="guessing")
    axes.set(xscale="log", xlim=RATES, ylim=(0, 104), xlabel="learning rate", ylabel="validation accuracy (%)")
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=300)
    print(f"figure: {args.out}")
