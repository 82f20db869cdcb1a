"""Exact means over a data set, computed by all ranks."""

import numpy as np

from allgrad.autograd import no_grad
from allgrad.autograd.arrays import to_numpy
from allgrad.autograd.engine import unwrap
from allgrad.ddp.data import DataLoader
from allgrad.ddp.reduce import ShardSum


def evaluate(model, dataset, metrics, comm, shards, batch=1024, place=None) -> dict[str, float]:
    """The mean of each metric over the data set: every sample once, no padding, the same bits on any number of ranks.

    metrics(*arrays) gets some samples' arrays and returns {name: one number a sample}; if it has a method
    finish({name: mean}), what that returns is the result, as for R2, which follows from several means. The model is in
    evaluation mode meanwhile. place: see `DataLoader`. Sums are taken in float64, over each logical shard in order and
    over the shards as a tree.
    """
    loader = DataLoader(dataset, max(batch, shards), comm, shards, shuffle="never", place=place)
    metric_sum = ShardSum(comm, shards)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    sums: dict = dict.fromkeys(loader.own_shards, 0.0)
    names: list[str] = []
    with no_grad():
        for one in loader.epoch(0):
            for shard in one.shards:
                if len(shard):
                    values = metrics(*shard.arrays)
                    names = list(values)
                    found = [to_numpy(unwrap(v)) for v in values.values()]
                    sums[shard.index] += np.array([np.sum(v, dtype=np.float64) for v in found])
    for module, training in modes:  # each its own: a frozen batch norm stays in evaluation mode
        module.training = training
    if len(loader.dataset) < shards:  # some ranks have seen no sample, and do not know what was measured
        names = next(n for n in comm.all_gather_object(names) if n)
    result = np.zeros(len(names))
    for v, shard_sums in sums.items():
        result = np.zeros(len(names)) + shard_sums
        metric_sum.push(v, result)
    metric_sum.finish(result)
    means = {name: float(x) / len(loader.dataset) for name, x in zip(names, result)}
    return metrics.finish(means) if hasattr(metrics, "finish") else means
