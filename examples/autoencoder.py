"""An autoencoder squeezes each digit into two numbers, and draws it again from them (Hinton and Salakhutdinov 2006).

    python examples/autoencoder.py
    mpirun -n 2 python examples/autoencoder.py

The network has to give back the 64 pixels that it is given, through a layer of two units: the code. It never sees a
label; yet digits that look alike get codes that lie close together, as the figure shows for images that were not in
the training. Two principal components, the best linear code of two numbers, do both worse: they are measured beside.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.autograd import schedule
from allgrad.launch.data import digits

CODE = 2  # numbers that an image is squeezed into
HIDDEN = (128, 64)  # units of the layers down to the code; the same in reverse up to the image
GLOBAL_BATCH = 64  # images a step, over all ranks
SHARDS = 4  # logical shards a batch is cut into: up to 4 ranks share them out
LR = 3e-3  # of Adam at first; it falls to zero along a cosine
SEED = 0  # of the initial weights and of the order of the images

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=150, help="passes over the 1,437 training images [%(default)s]")
parser.add_argument("--out", type=Path, default="runs/autoencoder.png", help="the figure [%(default)s]")
options = parser.parse_args()
epochs, out = options.epochs, options.out

pixels, labels, train, validation = digits.read()
x, unseen = (pixels[part].astype(np.float32) for part in (train, validation))  # (N, 64), from 0 to 1

comm = ddp.init()
ag.manual_seed(SEED)
encoder = nn.Sequential(
    nn.Linear(64, HIDDEN[0]), nn.Tanh(), nn.Linear(HIDDEN[0], HIDDEN[1]), nn.Tanh(), nn.Linear(HIDDEN[1], CODE)
)  # fmt: skip
decoder = nn.Sequential(
    nn.Linear(CODE, HIDDEN[1]), nn.Tanh(), nn.Linear(HIDDEN[1], HIDDEN[0]), nn.Tanh(), nn.Linear(HIDDEN[0], 64),
    nn.Sigmoid(),
)  # fmt: skip
model = nn.Sequential(encoder, decoder)
parallel = ddp.DistributedDataParallel(model, comm, SHARDS)
loader = ddp.DataLoader((x,), GLOBAL_BATCH, comm, SHARDS, SEED)
optimizer = optim.Adam(parallel, schedule.cosine(LR, epochs * len(loader)))
for batch in loader.steps(0, epochs * len(loader)):
    parallel.backward(batch, lambda x: ag.mse_loss(model(x), x))
    optimizer.step()


def rms(difference):
    return np.sqrt((difference**2).mean())


def neighbours_agree(codes, unseen_codes):
    """The part of the unseen images whose label is that of the training image with the nearest code."""
    nearest = ((unseen_codes[:, None] - codes) ** 2).sum(axis=2).argmin(axis=1)
    return (labels[train][nearest] == labels[validation]).mean()


if comm.rank == 0:
    with ag.no_grad():
        codes, unseen_codes = encoder(x).numpy(), encoder(unseen).numpy()
        drawn = decoder(unseen_codes).numpy()
    mean = x.mean(axis=0)
    axes_of_variance = np.linalg.svd(x - mean, full_matrices=False)[2][:CODE]  # (CODE, 64)
    linear, unseen_linear = (x - mean) @ axes_of_variance.T, (unseen - mean) @ axes_of_variance.T
    linearly_drawn = mean + unseen_linear @ axes_of_variance
    print(
        f"After {epochs} epochs unseen images are drawn again from {CODE} numbers with an rms error of "
        f"{rms(drawn - unseen):.3f} of full ink, {rms(linearly_drawn - unseen):.3f} by principal components and "
        f"{rms(mean - unseen):.3f} by the mean image; the nearest code has the same label for "
        f"{neighbours_agree(codes, unseen_codes):.1%}, {neighbours_agree(linear, unseen_linear):.1%} by principal "
        f"components."
    )
    print(f"weights sha256 {parallel.arena.sha256()[:16]}")
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "figure.constrained_layout.use": True})
    figure, (above, *rows) = plt.subplots(4, 1, figsize=(3.5, 4.8), height_ratios=(8, 1, 1, 1))  # inches
    above.set(xlabel="first number of the code", ylabel="second number of the code")
    for digit in range(10):  # the digit itself is the marker: no colour has to be told from another
        above.plot(*unseen_codes[labels[validation] == digit].T, linestyle="", marker=f"${digit}$", markersize=4)
    firsts = [np.flatnonzero(labels[validation] == digit)[0] for digit in range(10)]
    for row, images, title in zip(rows, (unseen, drawn, linearly_drawn), ("image", "from code", "linear")):
        row.imshow(np.hstack(images[firsts].reshape(-1, 8, 8)), cmap="gray_r", vmin=0, vmax=1)
        row.set(xticks=(), yticks=(), ylabel=title)
        row.yaxis.label.set(rotation=0, ha="right", va="center")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=300)
    print(f"figure: {out}")
