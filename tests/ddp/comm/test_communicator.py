"""Calls of ranks: those that differ are refused alike on every rank, and what was compared once is not again."""

import numpy as np
import pytest

from allgrad.ddp import ConfigurationError, ShardSum
from allgrad.ddp.comm import KNOWN, Communicator, activity


def both_fail(simulate, calls, ranks=2):
    """The text that every rank raises, when rank r makes calls[r]."""

    def run(comm):
        comm.all_reduce(np.ones(3, "f4"))
        with pytest.raises(ConfigurationError) as caught:
            calls[min(comm.rank, len(calls) - 1)](comm)
        assert activity.inside is None
        return str(caught.value)

    (text,) = {*simulate(ranks, run)}
    return text


f4, f8 = np.ones(4, "f4"), np.ones(4)
DIFFERENT = {
    "shape": [lambda c: c.all_reduce(f4.copy()), lambda c: c.all_reduce(f4[:3].copy())],
    "dtype": [lambda c: c.all_reduce(f4.copy()), lambda c: c.all_reduce(f8.copy())],
    "operation": [lambda c: c.all_reduce(f4.copy()), lambda c: c.broadcast(f4.copy())],
    "root": [lambda c: c.broadcast(f4.copy(), 0), lambda c: c.broadcast(f4.copy(), 1)],
    "object's root": [lambda c: c.broadcast_object(1, 0), lambda c: c.broadcast_object(1, 1)],
    "barrier": [lambda c: c.barrier(), lambda c: c.all_gather_object(1)],
}
SEEN = {
    "shape": ["rank 1 calls all_reduce of float32 (3,)", "rank 0 calls all_reduce of float32 (4,)"],
    "dtype": ["rank 1 calls all_reduce of float64 (4,)", "rank 0 calls all_reduce of float32 (4,)"],
    "operation": ["rank 1 calls broadcast of float32 (4,) from rank 0", "rank 0 calls all_reduce of float32 (4,)"],
    "root": [
        "rank 1 calls broadcast of float32 (4,) from rank 1",
        "rank 0 calls broadcast of float32 (4,) from rank 0",
    ],
    "object's root": ["rank 1 calls broadcast_object from rank 1", "rank 0 calls broadcast_object from rank 0"],
    "barrier": ["rank 1 calls all_gather_object", "rank 0 calls barrier"],
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_calls_that_differ_are_refused_alike_on_every_rank(case, simulate):
    for ranks in (2, 3):
        text = both_fail(simulate, DIFFERENT[case], ranks)
        assert not [part for part in SEEN[case] if part not in text], text
        assert text.count(f"{__file__}:") == 2  # where each of the two is


def test_a_call_more_on_one_rank_is_noticed_by_the_next_comparison(simulate):
    again = lambda c: c.all_reduce(np.ones(3, "f4"))

    def run(comm):
        for _ in range(3):
            again(comm)
        if comm.rank:
            comm.count += 1  # as one that was not compared would
        with pytest.raises(
            ConfigurationError, match=r"rank 1 calls barrier \(its call 5\) .* calls barrier \(its call 4"
        ):
            comm.barrier()

    simulate(2, run)


def test_sums_of_different_layouts_are_refused(simulate):
    for lengths, canonical in (([3, 4], [True] * 2), ([3, 3], [True, False])):

        def run(comm):
            total = ShardSum(comm, 2, canonical[comm.rank])
            array = np.ones(lengths[comm.rank])
            total.push(comm.rank, array)
            with pytest.raises(ConfigurationError, match=r"rank 1 calls a sum of float64 .* over 2 shards"):
                total.finish(array)

        simulate(2, run)


def test_what_was_compared_is_not_compared_again_and_little_is_remembered(simulate):
    def run(comm):
        gathered = 0
        gather = comm._gather

        def counting(value):
            nonlocal gathered
            gathered += 1
            return gather(value)

        comm._gather = counting
        for length in range(KNOWN + 10):
            comm.compare("call", np.empty(length))
        assert len(comm._known) == 10 and gathered == KNOWN + 10
        for _ in range(20):
            comm.compare("call", f4)
            comm.compare("call", f8)
        assert gathered == KNOWN + 13  # f4 after another, f8 after f4, f4 after f8

    simulate(2, run)


def test_one_rank_compares_nothing():
    comm = Communicator()
    comm.all_reduce(f4)
    assert comm.broadcast_object("x") == "x" and comm.all_gather_object(1) == [1] and activity.inside is None
