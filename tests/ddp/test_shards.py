"""Where a batch is cut into logical shards, and which rank owns which of them."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from allgrad.ddp.shards import shard_bounds, shards_of_rank


@given(st.integers(0, 200), st.integers(1, 40))
def test_shards_differ_by_at_most_one_sample(size, shards):
    lengths = np.diff(shard_bounds(size, shards))
    assert len(lengths) == shards and sum(lengths) == size
    assert lengths.tolist() == sorted(lengths, reverse=True) and lengths[0] - lengths[-1] <= 1


@pytest.mark.parametrize("shards", [1, 2, 7, 64])
def test_ranks_own_runs_of_shards_that_differ_by_at_most_one(shards):
    for ranks in range(1, shards + 1):
        runs = [shards_of_rank(rank, ranks, shards) for rank in range(ranks)]
        assert [shard for run in runs for shard in range(*run)] == list(range(shards))
        lengths = [stop - first for first, stop in runs]
        assert min(lengths) >= 1 and max(lengths) - min(lengths) <= 1
