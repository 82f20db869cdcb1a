"""Who computes what: logical shards of a batch, and the ranks' runs of them."""


def shard_bounds(size, shards):
    """Where a batch is cut into logical shards: shards + 1 positions; the first size % shards have one sample more."""
    each, more = divmod(size, shards)
    return [v * each + min(v, more) for v in range(shards + 1)]


def shards_of_rank(rank, size, shards):
    """The contiguous run [first, last + 1) of logical shards that a rank owns."""
    return rank * shards // size, (rank + 1) * shards // size
