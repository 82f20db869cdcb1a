"""Augmentation keyed by sample: what happens to a sample in an epoch depends on neither batch, shards nor ranks."""

import numpy as np

from autograd.random import uniform_of
from ddp.errors import ConfigurationError


class Draws:
    """Uniform numbers for each of some samples, a function of (seed, epoch, sample) alone.

    draws(k) returns k new ones for each sample: an array (samples, k) in [0, 1).
    """

    def __init__(self, seed, samples, epochs):
        self.seed, self.samples, self.epochs = seed, samples, epochs
        self.drawn = 0

    def __call__(self, k):
        start, self.drawn = self.drawn, self.drawn + k
        found = np.empty((len(self.samples), k))
        for epoch in np.unique(self.epochs).tolist():  # one, or two where a batch goes over the end of an epoch
            of = self.epochs == epoch
            found[of] = uniform_of(self.samples[of], start, self.drawn, self.seed, "augment", epoch)
        return found


def crop(x, draws, padding=4):
    """Images (N, C, H, W), each moved by up to `padding` pixels along both axes, with zeros where nothing comes from.

    That is a random crop after padding with zeros, as is usual for CIFAR (Lee et al. 2015).
    """
    height, width = x.shape[2:]
    down, right = (draws(2) * (2 * padding + 1)).astype(np.int64).T
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    return windows[np.arange(len(x)), :, down, right]


def flip(x, draws):
    """Images (N, C, H, W), each mirrored from left to right with probability 1/2."""
    return np.where(draws(1)[:, :, None, None] < 0.5, x[..., ::-1], x)


AUGMENTATIONS = {"crop": crop, "flip": flip}


def augmentation(names, image):
    """What "crop,flip" or either of them makes of images of shape `image`, (C, H, W), which may lie flat in a row."""
    unknown = [name for name in names.split(",") if name not in AUGMENTATIONS]
    if unknown or len({*names.split(",")}) < len(names.split(",")):
        raise ConfigurationError(f"--augment {names} is not {', '.join(AUGMENTATIONS)}, or several, each once")

    def augment(x, draws):
        images = x.reshape(-1, *image)
        for name in names.split(","):
            images = AUGMENTATIONS[name](images, draws)
        return images.reshape(x.shape)

    return augment
