"""Random numbers as functions of a key, instead of a state that every draw advances.

A key is any number of integers and strings that say what the numbers are for, as in `generator(seed, "shuffle", 3)`.
Equal keys give equal numbers, in any process and in any order of asking; different keys give independent numbers: those
of (0, "shuffle", 1) and (1, "shuffle", 0) have nothing in common. All come from Philox (Salmon et al. 2011, "Parallel
Random Numbers: As Easy as 1, 2, 3"), whose raw output NumPy promises never to change.

Layers draw initial weights and dropout masks from one stream, whose key `manual_seed` sets, or, in a thread's `keyed`
context, from that key's.
"""

import hashlib
import threading

import numpy as np

from allgrad.autograd.arrays import xp
from allgrad.autograd.engine import declare_modes, here


def philox(*key):
    """The NumPy bit generator of a key, from a hash of it."""
    key = tuple([k.item() if isinstance(k, np.generic) else k for k in key])  # np.int64(3) is the same key as 3
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, "<u8"))


def generator(*key):
    """A `numpy.random.Generator` for this key."""
    return np.random.Generator(philox(*key))


def permutation(n, *key):
    """The permutation of range(n) that belongs to the key, as an int64 array."""
    return np.argsort(philox(*key).random_raw(n), kind="stable")


class _Stream:
    """A key, and how often layers have drawn from its stream.

    states  {device: the state that its generator had when another stream began to draw there}
    """

    def __init__(self, *key):
        self.key = key
        self.restart()

    def restart(self):
        """Begin again, also on devices."""
        self.draws, self.states = 0, {}
        if _drawing_on:
            for device in [device for device, stream in [*_drawing_on.items()] if stream is self]:
                del _drawing_on[device]


_drawing_on: dict = {}  # device: the stream whose numbers its generator gives


declare_modes(stream=_Stream(0))  # one for all threads that are in no `keyed` context
_drawing = threading.Lock()


def manual_seed(seed):
    """Restart the stream from which layers draw initial weights and dropout masks; its key is the seed, an integer.

    All threads draw from it in turn, except those inside a `keyed` context.
    """
    with _drawing:
        here.stream.key = (int(seed),)
        here.stream.restart()


class keyed(_Stream):
    """Context in which a thread's layers draw from a stream of its own: their numbers depend on this key alone."""

    def __enter__(self):
        self.restart()
        self.before, here.stream = here.stream, self

    def __exit__(self, *exc):
        here.stream = self.before
        self.restart()


def draw():
    """The next bit generator of the stream in force: that of its key and the number of draws so far."""
    stream = here.stream
    with _drawing:
        stream.draws += 1
        key = *stream.key, stream.draws
    return philox(*key)


def seed_device(like):
    """Let the default generator of the CUDA device of a tensor go on with the stream in force; False if it has none.

    The stream seeds it with its key when it first draws there, and afterwards leaves it alone: kernels count by
    themselves. `dropout` calls this; whoever replays a graph of captured kernels does so before each replay.
    """
    generator = getattr(xp[type(like)], "generator_on", lambda device: None)(like.device)
    stream, device = here.stream, str(like.device)
    if generator is None:
        return False
    with _drawing:
        last = _drawing_on.get(device)
        if last is stream:
            return True
        if last is not None:
            last.states = {**last.states, device: generator.get_state()}
        _drawing_on[device] = stream
    if device in stream.states:
        generator.set_state(stream.states[device])
    else:
        generator.manual_seed(int(philox(*stream.key, "device").random_raw()) >> 1)
    return True


MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)  # the constants of Philox4x32
LOW_32_BITS, WORD_BITS = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox4x32(counter, key):
    """Philox4x32-10 (Salmon et al. 2011) of many counters at once.

    counter: 4 arrays of 32-bit words, held in uint64, that broadcast together; key: 2 words. Returns 4 such arrays of
    random words: for each key a bijection of the counters, whose output passes BigCrush.
    """
    a, b, c, d = counter
    for i in range(10):
        k, m = (np.uint64((word + i * step) & 0xFFFFFFFF) for word, step in zip(key, WEYL))
        p, q = a * np.uint64(MULTIPLIERS[0]), c * np.uint64(MULTIPLIERS[1])
        a, b, c, d = (q >> WORD_BITS) ^ b ^ k, q & LOW_32_BITS, (p >> WORD_BITS) ^ d ^ m, p & LOW_32_BITS
    return a, b, c, d


def uniform_of(numbers, start, stop, *key):
    """Uniform numbers in [0, 1), multiples of 2**-32, as an array (len(numbers), stop - start).

    Row i has the elements start .. stop - 1 of an endless sequence that depends on the key and on the integer
    numbers[i], and on nothing else: not on the other numbers, nor on their order.
    """
    numbers = np.asarray(numbers).astype(np.int64).view(np.uint64)[:, None]
    blocks = np.arange(start // 4, -(-stop // 4), dtype=np.uint64)[None]
    words = philox(*key).state["state"]["key"][0].item()
    counter = numbers & LOW_32_BITS, numbers >> WORD_BITS, blocks, np.uint64(0)  # (len(numbers), 1) and (1, blocks)
    drawn = np.stack(philox4x32(counter, (words & 0xFFFFFFFF, words >> 32)), axis=-1)
    return drawn.reshape(len(numbers), 4 * blocks.size)[:, start % 4 :][:, : stop - start] * 2.0**-32
