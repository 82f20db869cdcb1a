"""Randomness as a function of what it is for, instead of a state that somebody advanced.

Every generator is made from a key: a tuple such as (seed, "shuffle", epoch). Equal keys give equal numbers on any
process, in any order of asking; different keys give independent numbers, so that (seed 0, epoch 1) shares nothing
with (seed 1, epoch 0). The generator is Philox (Salmon et al. 2011), whose raw output NumPy promises never to change.
"""

import hashlib

import numpy as np

from allgrad.autograd.engine import switch


def philox(*key):
    """The Philox bit generator of a key: integers and strings in any number."""
    key = tuple([k.item() if isinstance(k, np.generic) else k for k in key])  # np.int64(3) is the same key as 3
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, "<u8"))


def generator(*key):
    """A `numpy.random.Generator` for this key."""
    return np.random.Generator(philox(*key))


def permutation(n, *key):
    """The permutation of range(n) that belongs to the key: the order of n random 64-bit words, ties by position."""
    return np.argsort(philox(*key).random_raw(n), kind="stable")


_key: tuple = (0,)
_drawn = 0
switch(__name__, "_key", "_drawn")


def manual_seed(seed):
    """Start the stream from which layers draw initial weights and dropout masks when no other key is in force."""
    global _key, _drawn
    _key, _drawn = (int(seed),), 0


class keyed:
    """Context in which `draw` depends on this key and on how often it was called inside, and on nothing else."""

    def __init__(self, *key):
        self.key = key

    def __enter__(self):
        global _key, _drawn
        self.before = _key, _drawn
        _key, _drawn = self.key, 0

    def __exit__(self, *exc):
        global _key, _drawn
        _key, _drawn = self.before


def draw():
    """The next bit generator of the stream in force."""
    global _drawn
    _drawn += 1
    return philox(*_key, _drawn)


MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox4x32(counter, key):
    """Philox4x32-10 (Salmon et al. 2011) of many counters at once: 4 arrays of 32-bit words in uint64, from as many.

    key: 2 words. A bijection of the counters for each key, that passes the tests of BigCrush.
    """
    a, b, c, d = counter
    for i in range(10):
        k, m = (np.uint64((word + i * step) & 0xFFFFFFFF) for word, step in zip(key, WEYL))
        p, q = a * np.uint64(MULTIPLIERS[0]), c * np.uint64(MULTIPLIERS[1])
        a, b, c, d = (q >> HALF) ^ b ^ k, q & LOW, (p >> HALF) ^ d ^ m, p & LOW
    return a, b, c, d


def uniform_of(numbers, start, stop, *key):
    """Uniform numbers in [0, 1), multiples of 2**-32, as an array (len(numbers), stop - start).

    Row i has the elements start .. stop - 1 of an endless sequence that depends on the key and on the integer
    numbers[i], and on nothing else: not on the other numbers, nor on their order.
    """
    numbers = np.asarray(numbers).astype(np.int64).view(np.uint64)[:, None]
    blocks = np.arange(start // 4, -(-stop // 4), dtype=np.uint64)[None]
    words = philox(*key).state["state"]["key"][0].item()
    counter = numbers & LOW, numbers >> HALF, blocks, np.uint64(0)  # (len(numbers), 1) and (1, blocks)
    drawn = np.stack(philox4x32(counter, (words & 0xFFFFFFFF, words >> 32)), axis=-1)
    return drawn.reshape(len(numbers), 4 * blocks.size)[:, start % 4 :][:, : stop - start] * 2.0**-32
