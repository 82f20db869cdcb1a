"""Random numbers as a function of their key, and of nothing else."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.autograd.random import keyed, philox4x32, uniform_of


def test_manual_seed_repeats_weights_and_masks():
    def draw(seed):
        ag.manual_seed(seed)
        layers = nn.Linear(3, 4), nn.Linear(3, 4)
        return [*(p.data.tolist() for layer in layers for p in layer.parameters()), ag.dropout(np.ones(20)).tolist()]

    assert draw(1) == draw(1) == draw(np.int64(1)) != draw(2)
    first = draw(1)
    assert first[0] != first[2]


@pytest.mark.parametrize(
    "counter, key, words",
    [("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
     ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
     ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1")],
)  # fmt: skip
def test_philox_gives_the_words_of_its_authors(counter, key, words):
    """The known answers of Random123."""
    counter, key, words = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    found = philox4x32([np.full(3, word, np.uint64) for word in counter], key)
    assert [word.tolist() for word in found] == [[word] * 3 for word in words]


def test_uniform_numbers_depend_on_their_number_and_their_place_alone():
    whole = uniform_of(range(100), 0, 11, 3, "augment", 0)
    some = [5, 99, 5, 0]
    assert np.array_equal(uniform_of(some, 3, 10, 3, "augment", 0), whole[some, 3:10])
    assert uniform_of([], 0, 3, 0).shape == (0, 3) and uniform_of([2**40], 0, 1, 0) != uniform_of([0], 0, 1, 0)
    others = [uniform_of(range(100), 0, 11, *key) for key in ((4, "augment", 0), (3, "augment", 1), (3, "mask", 0))]
    assert not any(np.isin(other, whole).any() for other in others)


def test_uniform_numbers_are_uniform_and_independent():
    """Moments, a histogram, and correlations between numbers of neighbours, of places and of epochs: 5 sigma each."""
    u = np.stack([uniform_of(range(50_000), 0, 4, 0, "augment", epoch) for epoch in range(2)])
    bins = np.histogram(u, 64, (0, 1))[0] - u.size / 64
    assert abs((bins**2).sum() / (u.size / 64) - 63) < 5 * np.sqrt(2 * 63)
    centred = (u - 0.5) * np.sqrt(12)
    pairs = (centred[0], centred[1]), (centred[:, 1:], centred[:, :-1]), (centred[..., 1:], centred[..., :-1])
    for a, b in ((centred, np.ones(1)), *pairs):
        assert abs((a * b).sum()) < 5 * np.sqrt(a.size)


def test_threads_share_the_seeded_stream_and_have_keyed_ones_of_their_own():
    def masks(key):
        with keyed(key):
            return [ag.dropout(np.ones(20)).tolist() for _ in range(50)]

    ag.manual_seed(3)
    alone = {key: masks(key) for key in "ab"}
    with ThreadPoolExecutor(2) as pool:
        assert dict(zip("ab", pool.map(masks, "ab"))) == alone
        drawn = [*pool.map(lambda _: ag.dropout(np.ones(20)).tolist(), range(40))]
    ag.manual_seed(3)
    assert sorted(drawn) == sorted(ag.dropout(np.ones(20)).tolist() for _ in range(40))
