"""A small Transformer learns to write Python, one character after the other, from Python's own standard library.

    python examples/char_transformer.py
    mpirun -n 2 python examples/char_transformer.py

Each character is predicted from at most 64 before it. The loss, in bits per character, first falls to that of knowing
how often each character occurs (unigram), then how often it follows the one before (bigram), and further as attention
looks further back. Prints the loss, a text that the network wrote, and the hash of the weights, which are the same
bits on any number of ranks; draws the loss, and where one head of the network looks.
"""

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import entr

import allgrad as ag
from allgrad import ddp, optim
from allgrad.autograd import schedule
from allgrad.launch import data, models

WIDTH, HEADS, LAYERS = 64, 4, 2  # of the Transformer
GLOBAL_BATCH = 32  # windows of 64 characters a step, over all ranks
SHARDS = 4  # logical shards a batch is cut into: up to 4 ranks share them out
RATE = 6e-3  # learning rate at its highest: it rises for a tenth of the steps, and falls to zero along a cosine
SEED = 0  # of the initial weights, of the order of the windows, and of the text that is written
PIECE = "def area(width, height):\n    return width * height\n"  # at most 64 characters, to see where a head looks

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=700, help="updates of the weights [%(default)s]")
parser.add_argument("--temperature", type=float, default=0.8, help="below 1 the text is safer [%(default)s]")
parser.add_argument("--out", type=Path, default="runs/char_transformer.png", help="the figure [%(default)s]")
args = parser.parse_args()

comm = ddp.init()
text = data.load("text")  # windows of 64 characters as codes, and for each character the next one
model = models.build(f"transformer:{WIDTH},{HEADS},{LAYERS}", text, SEED)
parallel = ddp.DistributedDataParallel(model, comm, SHARDS)
loader = ddp.DataLoader((text.train_x, text.train_y), GLOBAL_BATCH, comm, SHARDS, SEED)
optimizer = optim.Adam(parallel, schedule.warmup(schedule.cosine(RATE, args.steps), args.steps // 10))


def bits(x, y):
    """Per character, a mean for each window: the logarithm to base 2 of its probability, negative."""
    return ag.cross_entropy(model(x).permute(0, 2, 1), y, "none").mean(1) / math.log(2)


@ag.no_grad()
def attention(x):
    """Weights (heads, T, T) with which, in the last layer, each of T characters looks at itself and those before it."""
    y = (model.tokens(x) + model.positions(np.arange(len(x)))).unsqueeze(0)  # the inputs of the first block
    *blocks, last = model.blocks
    for block in blocks:
        y = block(y, is_causal=True)
    qkv = ag.linear(last.norm1(y), last.self_attn.in_proj_weight, last.self_attn.in_proj_bias)
    q, k, _ = (each.reshape(len(x), HEADS, -1) for each in ag.chunk(qkv, 3, -1))
    scores = ag.einsum("qhe,khe->hqk", q, k) / math.sqrt(WIDTH // HEADS)
    return ag.softmax(scores.masked_fill(~np.tri(len(x), dtype=bool), -math.inf)).data


@ag.no_grad()
def written(start, length):
    """A text that goes on from the start; Gumbel noise makes the largest logit a draw from their softmax."""
    codes, rng = [text.vocabulary.index(character) for character in start], ag.random.generator(SEED, "text")
    for _ in range(length):
        logits = model(np.array([codes[-64:]])).data[0, -1, :-1]  # the last code is of the unknown
        codes.append(int(np.argmax(logits / args.temperature + rng.gumbel(size=len(logits)))))
    return "".join(text.vocabulary[code] for code in codes)


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
    heads = attention(np.array([text.vocabulary.index(character) for character in PIECE]))
    sharpest = heads.max(axis=2).mean(axis=1).argmax()
    back = heads[sharpest] * np.subtract.outer(range(len(PIECE)), range(len(PIECE)))
    print(
        f"After {args.steps} steps a character of the validation text takes {validation[args.steps]:.2f} bits; in the "
        f"training text a unigram takes {unigram:.2f}, a bigram {both - unigram:.2f}. The sharpest head of the last "
        f"layer, number {sharpest}, looks {back.sum(1).mean():.1f} characters back on average.\n"
        f"--- written at temperature {args.temperature:g} ---\n{written('def ', 200)}\n---\n"
        f"weights sha256 {parallel.arena.sha256()[:16]}"
    )
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 8, "axes.titlesize": 8})
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")  # inches: a page's width
    left.plot(range(1, args.steps + 1), training, color="#56B4E9", linewidth=0.7, label="training, each batch")
    left.plot(*zip(*validation.items()), "o-", color="#D55E00", markersize=3, label="validation")
    left.axhline(unigram, color="black", linestyle=":", label="unigram entropy")
    left.axhline(both - unigram, color="black", linestyle="--", label="bigram entropy")
    left.set(xlabel=f"step ({GLOBAL_BATCH} windows of 64 characters each)", ylabel="bits per character", ylim=(0, None))
    left.legend(frameon=False)
    image = right.imshow(heads[sharpest], cmap="cividis", vmin=0, vmax=1)
    letters = PIECE.replace(" ", "\u00b7").replace("\n", "\u21b5")  # a dot and an arrow, to be seen
    for axis in (right.xaxis, right.yaxis):
        axis.set_ticks(range(len(PIECE)), letters, family="monospace", fontsize=4.5)
        axis.set_tick_params(length=0, pad=1)
    right.set(title=f"head {sharpest} of the last layer", xlabel="looks at", ylabel="character")
    figure.colorbar(image, label="attention weight", shrink=0.8)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=300)
    print(f"figure: {args.out}")
