"""Where a batch is cut into logical shards, and which rank owns which of them."""

import numpy as np
from hypothesis import given, strategies as st

from allgrad.ddp.shards import shard_bounds


@given(st.integers(0, 200), st.integers(1, 40))
def test_shards_differ_by_at_most_one_sample(size, shards):
    lengths = np.diff(shard_bounds(size, shards))
    assert len(lengths) == shards and sum(lengths) == size
    assert lengths.tolist() == sorted(lengths, reverse=True) and lengths[0] - lengths[-1] <= 1
