"""The binary tree of sums: which subtrees a rank adds up, and how many sums it holds at once."""

import math

import pytest

from allgrad.ddp.reduce import TreeAccumulator, subtrees
from allgrad.ddp.shards import shards_of_rank


def span(level, index, shards):
    return range(index << level, min((index + 1) << level, shards))


def largest_inside(run, level, index, shards):
    """The largest complete subtrees of a node that lie inside a run, by the definition."""
    leaves = span(level, index, shards)
    if not leaves or leaves[0] >= run.stop or leaves[-1] < run.start:
        return []
    if leaves[0] >= run.start and leaves[-1] < run.stop:
        return [(level, index)]
    return [node for i in (2 * index, 2 * index + 1) for node in largest_inside(run, level - 1, i, shards)]


@pytest.mark.parametrize("shards", range(1, 41))
def test_subtrees_are_the_largest_that_cover_the_run_of_each_rank(shards):
    root = (shards - 1).bit_length()
    for ranks in range(1, shards + 1):
        covered = []
        for rank in range(ranks):
            run = range(*shards_of_rank(rank, ranks, shards))
            nodes = subtrees(run.start, run.stop, shards)
            assert nodes == largest_inside(run, root, 0, shards)
            covered += [leaf for node in nodes for leaf in span(*node, shards)]
        assert covered == list(range(shards))


@pytest.mark.parametrize("shards", [1, 2, 3, 40, 98, 1000, 1024])
def test_a_counter_holds_few_sums(shards):
    log = max(1, math.ceil(math.log2(shards)))
    for ranks in {1, 2, 3, 7, shards}:
        for rank in range(min(ranks, shards)):
            counter, held = TreeAccumulator(shards), 0
            for leaf in range(*shards_of_rank(rank, min(ranks, shards), shards)):
                counter.push(0, leaf, None)
                held = max(held, len(counter.stack))
            assert held <= (log if rank == 0 else 2 * log)
