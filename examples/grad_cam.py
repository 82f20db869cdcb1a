"""Where a convolutional network looks: gradient-weighted class activation maps (Selvaraju et al. 2017).

    python examples/grad_cam.py
    mpirun -n 2 python examples/grad_cam.py

A small network learns to name a digit that lies anywhere on an empty canvas. The gradient of a class's score by the
feature maps of the last convolution, averaged over their area, says how much each counts for the class; the ReLU of
their sum with these weights is the heat map. That it shows where the network looks is measured: by erasing the hottest
quarter of the pixels, and by asking for each of two digits on one canvas. The figure shows both, the digits in white.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.autograd import init, random, schedule
from allgrad.launch.data import digits

SIDE, CANVAS = 12, 24  # pixels along a digit, enlarged from 8, and along the canvas
GLOBAL_BATCH = 64  # images a step, over all ranks
SHARDS = 4  # logical shards a batch is cut into: up to 4 ranks share them out
LR = 5e-3  # of Adam at first; it falls to zero along a cosine
SEED = 0  # of the places, the initial weights, the order of the images and what is erased

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=25, help="passes over the 1,437 training images [%(default)s]")
parser.add_argument("--out", type=Path, default="runs/grad_cam.png", help="the figure [%(default)s]")
options = parser.parse_args()


def enlarged(images, size):
    """(N, H, H) to (N, size, size), by linear interpolation along both axes."""
    side = images.shape[-1]
    weights = np.maximum(0, 1 - abs(np.linspace(0, side - 1, size)[:, None] - np.arange(side)))  # (size, H)
    return weights @ images @ weights.T


pixels, labels, train, validation = digits.read()
images = enlarged(pixels.reshape(-1, 8, 8), SIDE)
canvases = np.zeros((len(images), 1, CANVAS, CANVAS), np.float32)
corners = random.generator(SEED, "corners").integers(CANVAS - SIDE + 1, size=(len(images), 2))
for canvas, image, (row, column) in zip(canvases, images, corners):
    canvas[0, row : row + SIDE, column : column + SIDE] = image

comm = ddp.init()
ag.manual_seed(SEED)
features = nn.Sequential(
    nn.Dropout(0.25),  # of pixels: so that the network knows images with a quarter erased
    nn.Conv2d(1, 16, 5, padding=2, init=init.kaiming), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1, init=init.kaiming), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 32, 3, padding=1, init=init.kaiming), nn.ReLU(),  # (N, 32, 6, 6)
)  # fmt: skip
head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
model = nn.Sequential(features, head)
parallel = ddp.DistributedDataParallel(model, comm, SHARDS)
loader = ddp.DataLoader((canvases[train], labels[train]), GLOBAL_BATCH, comm, SHARDS, SEED)
steps = options.epochs * len(loader)
optimizer = optim.Adam(parallel, schedule.cosine(LR, steps))
for batch in loader.steps(0, steps):
    parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
    optimizer.step()
model.eval()


def heat_maps(x, classes):
    """Grad-CAM of one class for each image: (N, CANVAS, CANVAS), not negative."""
    with ag.no_grad():
        maps = features(x).numpy()  # (N, 32, 6, 6)
    gradient = ag.grad(lambda maps: head(maps)[np.arange(len(x)), classes].sum())(maps).numpy()
    weights = gradient.mean(axis=(2, 3), keepdims=True)
    return enlarged(np.maximum((weights * maps).sum(axis=1), 0), CANVAS)


def probability(x, classes):
    with ag.no_grad():
        return ag.softmax(model(x)).numpy()[np.arange(len(x)), classes].mean()


def erased(x, order):
    """The images without the quarter of the pixels for which `order` (N, CANVAS, CANVAS) has the largest numbers."""
    ranks = order.reshape(len(x), -1).argsort(axis=1, kind="stable").argsort(axis=1)
    return x * (ranks < 0.75 * CANVAS**2).reshape(x.shape)


if comm.rank == 0:
    x, y = canvases[validation], labels[validation]
    heat = heat_maps(x, y)
    orders = (heat, random.generator(SEED, "erased").random(heat.shape), np.roll(heat, 1, axis=0))
    hot, anywhere, another = (probability(erased(x, order), y) for order in orders)
    a, b = validation[:-1], validation[1:]
    a, b = a[labels[a] != labels[b]], b[labels[a] != labels[b]]
    both = np.zeros((len(a), 1, CANVAS, CANVAS), np.float32)
    both[:, 0, :SIDE, :SIDE], both[:, 0, SIDE:, SIDE:] = images[a], images[b]
    maps = np.stack([heat_maps(both, labels[a]), heat_maps(both, labels[b])])
    hottest = maps.reshape(2, len(a), -1).argmax(axis=2)
    own = (hottest // CANVAS // SIDE == [[0], [1]]) & (hottest % CANVAS // SIDE == [[0], [1]])  # its row, its column
    print(
        f"After {options.epochs} epochs the class of an unseen digit has a probability of {probability(x, y):.1%}, "
        f"{hot:.1%} without the hottest quarter of the pixels, {anywhere:.1%} without a random one and {another:.1%} "
        f"without that of another image; with two, {own.mean():.1%} of the maps are hottest in their own quarter."
    )
    print(f"weights sha256 {parallel.arena.sha256()[:16]}")
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 8})
    figure, axes = plt.subplots(2, 4, figsize=(3.5, 2.4), sharex=True, sharey=True, layout="constrained")
    shown = [(x[i, 0], heat[i], y[i]) for i in range(4)]
    shown += [(both[i, 0], maps[k, i], labels[(a, b)[k][i]]) for i in range(2) for k in range(2)]
    for panel, (image, hot, digit) in zip(axes.flat, shown):
        panel.imshow(hot, cmap="viridis")
        panel.contour(image, levels=[0.5], colors="white", linewidths=0.8)
        panel.set(title=f"heat for {digit}", xticks=(0, 12, 23), yticks=(0, 12, 23))
    axes[1, 0].set(xlabel="column (pixels)", ylabel="row (pixels)")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=300)
    print(f"figure: {options.out}")
