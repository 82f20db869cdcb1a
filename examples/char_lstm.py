"""An LSTM learns to write Python, one character after the other, and some of its memory cells keep count.

    python examples/char_lstm.py
    mpirun -n 2 python examples/char_lstm.py

It learns from Python's standard library. Of its memory cells, those are chosen that correlate most with the column,
the indentation and the open brackets on half of the validation text, and tried on the other half. (Hardly trained
ones may do so as well: try --steps 20.) Prints the loss, a text that it wrote, the correlations, and the hash of the
weights, the same on any number of ranks; draws the loss, and the chosen cells along a piece of code.
"""

import argparse
from itertools import accumulate
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import entr

import allgrad as ag
from allgrad import ddp, optim
from allgrad.autograd import schedule
from allgrad.launch import data, models

HIDDEN = 128  # memory cells
GLOBAL_BATCH = 32  # windows of 64 characters a step, over all ranks
SHARDS = 4  # logical shards a batch is cut into: up to 4 ranks share them out
RATE = 1e-2  # learning rate at its highest: it rises for a tenth of the steps, and falls to zero along a cosine
SEED = 0  # of the initial weights, of the order of the windows, and of the text that is written
COUNTS = "column in characters", "indentation in spaces", "open brackets"  # of the line, what a memory cell might keep
PIECE = "class Box:\n    def area(self, scale=(1, 1)):\n        return self.width * max(scale[0], scale[1])\n"

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=450, help="updates of the weights [%(default)s]")
parser.add_argument("--temperature", type=float, default=0.7, help="below 1 the text is safer [%(default)s]")
parser.add_argument("--out", type=Path, default="runs/char_lstm.png", help="the figure [%(default)s]")
args = parser.parse_args()

comm = ddp.init()
text = data.load("text")  # windows of 64 characters as codes, and for each character the next one
model = models.build(f"lstm:{HIDDEN}", text, SEED)
parallel = ddp.DistributedDataParallel(model, comm, SHARDS)
loader = ddp.DataLoader((text.train_x, text.train_y), GLOBAL_BATCH, comm, SHARDS, SEED)
optimizer = optim.Adam(parallel, schedule.warmup(schedule.cosine(RATE, args.steps), args.steps // 10))


def bits(x, y):  # per character, a mean for each window
    return ag.cross_entropy(model(x).permute(0, 2, 1), y, "none").mean(1) / float(np.log(2))


@ag.no_grad()
def cells(x):
    """The memory cells (N, T, HIDDEN) after each of the characters x (N, T)."""
    state, kept = None, []
    for codes in x.T:
        _, state = model.lstm(model.embedding(codes[:, None]), state)
        kept.append(state[1].data[0])
    return np.stack(kept, axis=1)


@ag.no_grad()
def written(start, length):
    """A text that goes on from the start; Gumbel noise makes the largest logit a draw from their softmax."""
    codes, rng = [text.vocabulary.index(character) for character in start], ag.random.generator(SEED, "text")
    for _ in range(length):
        logits = model(np.array([codes[-64:]])).data[0, -1, :-1]  # the last code is of the unknown
        codes.append(int(np.argmax(logits / args.temperature + rng.gumbel(size=len(logits)))))
    return "".join(text.vocabulary[code] for code in codes)


def counts(read):
    """COUNTS of the last line of what has been read."""
    line = read[read.rfind("\n") + 1 :]
    return len(line), len(line) - len(line.lstrip(" ")), sum(map(line.count, "([{")) - sum(map(line.count, ")]}"))


part = text.val_x[::6], text.val_y[::6]  # to measure the validation loss on
training, validation = [], {}  # bits per character: of each step's batch, and after some steps
for step, batch in enumerate(loader.steps(0, args.steps), 1):
    training.append(parallel.backward(batch, bits))
    optimizer.step()
    if step % max(args.steps // 10, 1) == 0 or step == args.steps:
        validation[step] = ddp.evaluate(model, part, lambda x, y: {"bits": bits(x, y)}, comm, SHARDS)["bits"]
        if comm.rank == 0:
            print(f"step {step}: training {training[-1]:.3f}, validation {validation[step]:.3f} bits per character")

if comm.rank == 0:
    single, pairs = text.train_x, text.train_x * text.classes + text.train_y
    unigram, both = (entr(np.bincount(x.ravel()) / x.size).sum() / np.log(2) for x in (single, pairs))
    found = []  # correlations (counts, cells), on each half of the validation text
    for half in text.val_x.reshape(-1)[: 2 * 64 * 512].reshape(2, 64, 512):
        rows = [counts(read) for page in np.array([*text.vocabulary, "?"])[half].tolist() for read in accumulate(page)]
        found.append(np.corrcoef(cells(half).reshape(-1, HIDDEN), rows, rowvar=False)[HIDDEN:, :HIDDEN])
    best = np.abs(found[0]).argmax(axis=1)
    r = found[1][range(len(COUNTS)), best]
    print(
        f"After {args.steps} steps a character of the validation text takes {validation[args.steps]:.2f} bits; in the "
        f"training text a unigram takes {unigram:.2f}, a bigram {both - unigram:.2f}. Correlations of these cells: "
        f"{', '.join(f'{r[i]:+.2f} of number {best[i]} with the {COUNTS[i]}' for i in range(len(COUNTS)))}.\n"
        f"--- written at temperature {args.temperature:g} ---\n{written('def ', 200)}\n---"
    )
    plt.rcParams.update({"backend": "Agg", "font.size": 7, "axes.titlesize": 7})
    figure = plt.figure(figsize=(7, 3.8), layout="constrained")  # inches: a page's width
    left, *right = figure.subplot_mosaic("LA;LB;LC", width_ratios=(2, 3)).values()
    left.plot(range(1, args.steps + 1), training, color="#56B4E9", linewidth=0.7, label="training, each batch")
    left.plot(*zip(*validation.items()), "o-", color="#D55E00", markersize=3, label="validation")
    left.axhline(unigram, color="black", linestyle=":", label="unigram entropy")
    left.axhline(both - unigram, color="black", linestyle="--", label="bigram entropy")
    left.set(xlabel=f"step ({GLOBAL_BATCH} windows of 64 characters)", ylabel="bits per character", ylim=(0, None))
    left.legend(frameon=False)
    memory = cells(np.array([[text.vocabulary.index(character) for character in PIECE]]))[0]
    for i, axes in enumerate(right):
        axes.plot(memory[:, best[i]], color="#D55E00")
        axes.twinx().plot([counts(read)[i] for read in accumulate(PIECE)], "--", color="#0072B2")
        axes.set_xticks(range(len(PIECE)), PIECE.translate({32: "\u00b7", 10: "\u21b5"}), size=4.5, family="monospace")
        axes.set(title=f"memory cell {best[i]} (left) and {COUNTS[i]} (right, dashed): correlation {r[i]:+.2f}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=300)
    print(f"weights sha256 {parallel.arena.sha256()[:16]}\nfigure: {args.out}")
