"""LeNet-5, as lectures draw it: two convolutions and three dense layers with sigmoids (LeCun et al. 1998).

    python examples/lenet5.py
    mpirun -n 2 python examples/lenet5.py

With --data-dir DIR it trains on MNIST, if its four files are in DIR; otherwise on the embedded 8x8 digits, enlarged to
28x28. The figure shows the loss, which with sigmoids starts at that of guessing and stays there for a while (their
gradients are small, and five layers multiply them), the validation accuracy, and the filters of the first convolution.
"""

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.autograd import init
from allgrad.launch.data import digits, idx

GLOBAL_BATCH = 64  # images a step, over all ranks
SHARDS = 4  # logical shards a batch is cut into: up to 4 ranks share them out
LR = 3e-3  # of Adam
SEED = 0  # of the initial weights and of the order of the images

parser = argparse.ArgumentParser()
parser.add_argument("--data-dir", type=Path, help="where the files of MNIST are, if you have them")
parser.add_argument("--epochs", type=int, help="passes over the training images [25 for the digits, 2 for MNIST]")
parser.add_argument("--out", type=Path, default="runs/lenet5.png", help="the figure [%(default)s]")
options = parser.parse_args()


def has_mnist(folder):
    """Whether all four files lie where `idx.mnist` looks: it would download those that do not."""
    places = (folder / "mnist", folder / "MNIST" / "raw", folder)
    found = ({path.name.removesuffix(".gz").replace(".idx", "-idx") for path in p.glob("*-ubyte*")} for p in places)
    return any(names.issuperset(idx.FILES) for names in found)


def enlarged(images, size):
    """(..., H, H) to (..., size, size), by linear interpolation along both axes."""
    side = images.shape[-1]
    weights = np.maximum(0, 1 - abs(np.linspace(0, side - 1, size)[:, None] - np.arange(side)))  # (size, H)
    return weights @ images @ weights.T


comm = ddp.init()
if options.data_dir and has_mnist(options.data_dir):
    data, epochs = idx.mnist(options.data_dir), options.epochs or 2
    x, unseen = (images.reshape(-1, 1, 28, 28) for images in (data.train_x, data.val_x))
    y, unseen_y = data.train_y, data.val_y
    source = f"MNIST from {options.data_dir}"
else:
    pixels, labels, train, validation = digits.read()
    images = enlarged(pixels.reshape(-1, 1, 8, 8), 28)
    images = ((images - images[train].mean()) / images[train].std()).astype(np.float32)
    (x, y), (unseen, unseen_y) = ((images[part], labels[part]) for part in (train, validation))
    source, epochs = "the embedded digits, enlarged from 8x8 to 28x28", options.epochs or 25
    if options.data_dir:
        source += f" (no MNIST in {options.data_dir})"

ag.manual_seed(SEED)
xavier = init.xavier_uniform  # keeps the signal through the nearly linear middle of a sigmoid (Glorot and Bengio 2010)
model = nn.Sequential(
    nn.Conv2d(1, 6, 5, padding=2, init=xavier), nn.Sigmoid(), nn.AvgPool2d(2),  # (N, 6, 14, 14)
    nn.Conv2d(6, 16, 5, init=xavier), nn.Sigmoid(), nn.AvgPool2d(2),  # (N, 16, 5, 5)
    nn.Flatten(),
    nn.Linear(400, 120, init=xavier), nn.Sigmoid(),
    nn.Linear(120, 84, init=xavier), nn.Sigmoid(),
    nn.Linear(84, 10, init=xavier),
)  # fmt: skip
parallel = ddp.DistributedDataParallel(model, comm, SHARDS)
loader = ddp.DataLoader((x, y), GLOBAL_BATCH, comm, SHARDS, SEED)
optimizer = optim.Adam(parallel, LR)
losses, accuracies = [], []  # one of each for an epoch
for epoch in range(epochs):
    total = 0.0
    for batch in loader.epoch(epoch):
        total += batch.size * parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
        optimizer.step()
    losses.append(total / len(x))
    metrics = ddp.evaluate(model, (unseen, unseen_y), lambda x, y: {"right": model(x).argmax(1) == y}, comm, SHARDS)
    accuracies.append(metrics["right"])

if comm.rank == 0:
    guessing = math.log(10)  # nats: the loss of giving each of the ten digits the same probability
    print(f"Data: {source}; {len(x)} images to train, {len(unseen)} to validate.")
    print(
        f"LeNet-5 with {sum(p.size for p in model.parameters())} weights: after {epochs} epochs the training loss is "
        f"{losses[-1]:.3g} nats, after one {losses[0]:.3g}, and {guessing:.3g} for guessing; of the validation images "
        f"{accuracies[-1]:.1%} are right, after one epoch {accuracies[0]:.1%}."
    )
    print(f"weights sha256 {parallel.arena.sha256()[:16]}")
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "lines.linewidth": 1.2, "figure.constrained_layout.use": True})
    figure, axes = plt.subplot_mosaic("llllll;aaaaaa;012345", figsize=(3.5, 4.0), height_ratios=(3, 3, 1.5))  # inches
    axes["l"].axhline(guessing, color="grey", linestyle=":", label="guessing (ln 10)")
    axes["l"].plot(range(1, epochs + 1), losses, "o-", color="#D55E00", markersize=3, label="training loss")
    axes["l"].set(xlabel="epoch", ylabel="loss (nats)", ylim=(0, None))
    axes["l"].legend(frameon=False)
    axes["a"].plot(range(1, epochs + 1), [100 * a for a in accuracies], "o-", color="#0072B2", markersize=3)
    axes["a"].set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(0, 102))
    filters = model[0].weight.numpy()[:, 0]  # (6, 5, 5)
    for place, image in zip("012345", filters):
        axes[place].imshow(image, cmap="gray", vmin=-abs(filters).max(), vmax=abs(filters).max())
        axes[place].set(xticks=(), yticks=(), xlabel=f"filter {int(place) + 1}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=300)
    print(f"figure: {options.out}")
