"""Augmentation keyed by sample: what happens to a sample in an epoch depends on neither batch, shards nor ranks."""

import numpy as np

from allgrad.autograd.random import uniform_of
from allgrad.ddp.errors import ConfigurationError

WORDS_AT_ONCE = 4  # of 64 bits, that the generator makes in one go


class Draws:
    """Uniform numbers for each of some samples, a function of (seed, epoch, sample) alone.

    draws(k) returns k new ones for each sample: an array (samples, k) in [0, 1).
    """

    def __init__(self, seed, samples, epochs):
        self.seed, self.samples, self.epochs = seed, samples, epochs
        self.drawn, self.known = 0, np.empty((len(samples), 0))

    def __call__(self, k):
        start, self.drawn = self.drawn, self.drawn + k
        if self.drawn > (had := self.known.shape[1]):
            more = np.empty((len(self.samples), -(-(self.drawn - had) // WORDS_AT_ONCE) * WORDS_AT_ONCE))
            for epoch in np.unique(self.epochs).tolist():  # one, or two where a batch goes over the end of an epoch
                of = self.epochs == epoch
                more[of] = uniform_of(self.samples[of], had, had + more.shape[1], self.seed, "augment", epoch)
            self.known = np.concatenate((self.known, more), axis=1)
        return self.known[:, start : self.drawn]


def crop(x, draws, padding=4):
    """Images (N, C, H, W), each moved by up to `padding` pixels along both axes, with zeros where nothing comes from.

    That is a random crop after padding with zeros, as is usual for CIFAR (Lee et al. 2015).
    """
    height, width = x.shape[2:]
    down, right = (draws(2) * (2 * padding + 1)).astype(np.int64).T
    padded = np.zeros((*x.shape[:2], height + 2 * padding, width + 2 * padding), x.dtype)
    padded[..., padding : padding + height, padding : padding + width] = x
    moved = np.empty(x.shape, x.dtype)
    for n, (i, j) in enumerate(zip(down.tolist(), right.tolist())):
        moved[n] = padded[n, :, i : i + height, j : j + width]
    return moved


def flip(x, draws):
    """Images (N, C, H, W), each mirrored from left to right with probability 1/2."""
    flipped, chosen = x.copy(), draws(1)[:, 0] < 0.5
    flipped[chosen] = x[chosen, :, :, ::-1]
    return flipped


AUGMENTATIONS = {"crop": crop, "flip": flip}


def augmentation(names, image):
    """What "crop,flip" or either of them makes of images of shape `image`, (C, H, W), which may lie flat in a row."""
    unknown = [name for name in names.split(",") if name not in AUGMENTATIONS]
    if unknown or len({*names.split(",")}) < len(names.split(",")):
        raise ConfigurationError(f"{{augment}} is not {', '.join(AUGMENTATIONS)}, or several, each once", augment=names)

    def augment(x, draws):
        images = x.reshape(-1, *image)
        for name in names.split(","):
            images = AUGMENTATIONS[name](images, draws)
        return images.reshape(x.shape)

    return augment
