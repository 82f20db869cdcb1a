"""Batches and their shards: which rank computes which samples."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from allgrad.ddp import Communicator, ConfigurationError, DataLoader
from allgrad.ddp.comm import Launch

sizes = st.integers(1, 60)


def loaders(samples, batch, shards, ranks, **options):
    data = (np.arange(samples), np.arange(samples) * 10)
    return [
        DataLoader(data, batch, Communicator(Launch("mpirun", "mpi", rank, ranks)), shards, **options)
        for rank in range(ranks)
    ]


@given(sizes, sizes, st.integers(1, 12), st.data())
def test_the_ranks_share_a_batch_without_gap_or_overlap(samples, batch, shards, data):
    batch = max(batch, shards)
    ranks = data.draw(st.integers(1, shards), "ranks")
    alone, *_ = loaders(samples, batch, shards, 1)
    together = loaders(samples, batch, shards, ranks)
    for step in range(2 * len(alone)):
        whole, parts = alone.batch(step), [loader.batch(step) for loader in together]
        assert {(p.step, p.epoch, p.size, p.logical_shards) for p in parts} == {
            (step, step // len(alone), whole.size, shards)
        }
        pieces = [shard for part in parts for shard in part.shards]
        assert [shard.index for shard in pieces] == list(range(shards))
        for piece, shard in zip(pieces, whole.shards, strict=True):
            x, y = piece.arrays
            assert piece.samples.tolist() == shard.samples.tolist() == x.tolist() == (y // 10).tolist()
        assert sum(map(len, pieces)) == whole.size == len({i for piece in pieces for i in piece.samples})


def test_ranks_have_equal_numbers_of_shards_where_they_can():
    for ranks in range(1, 9):
        runs = [loader.own_shards for loader in loaders(50, 40, 8, ranks)]
        lengths = {len(run) for run in runs}
        assert max(lengths) - min(lengths) <= 1 and min(lengths) >= 1


@pytest.mark.parametrize("boundary", ["short", "carry"])
def test_epochs_are_runs_of_steps(boundary):
    loader, *_ = loaders(50, 8, 2, 1, boundary=boundary)
    steps = [batch.step for epoch in range(4) for batch in loader.epoch(epoch)]
    assert steps == list(range(loader.sampler.steps_in(4))) and len(loader) == 7


def test_data_of_different_lengths_and_batches_smaller_than_the_shards_are_refused():
    with pytest.raises(ConfigurationError, match=r"one length, got \[3, 4\]"):
        DataLoader((np.zeros(3), np.zeros(4)), 2)
    with pytest.raises(ConfigurationError, match=r"batch of 3 cannot be cut into 4 .*global_batch=4 or more"):
        DataLoader((np.zeros(9),), 3, shards=4)
