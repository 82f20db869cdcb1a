"""Exact means over a data set, computed by all ranks."""

import math

import numpy as np

from allgrad.autograd import Tensor, enable_grad, no_grad
from allgrad.ddp.data import DataLoader
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.parallel.consistency import compare_data
from allgrad.ddp.reduce import ShardSum
from allgrad.ddp.weighted import measured


def evaluate(model, dataset, metrics, comm, shards, batch=1024, place=None) -> dict[str, float]:
    """The mean of each metric over the data set: every sample once, no padding, the same bits on any number of ranks.

    metrics(*arrays) gets some samples' arrays and returns {name: value}, each time of the same names. A value is

        one number a sample, or an array (N, ...), of which the mean over all elements is taken
        a mean over the samples; what a loss such as `ag.cross_entropy` returns counts by the weight of its terms
        a pair (sum, weight), or `Weighted`: both are summed before they are divided; nan where all weights are 0

    If it has a method finish({name: mean}), what that returns is the result, as for R2, which follows from several
    means. The model is in evaluation mode meanwhile. place: see `DataLoader`. Sums are taken in float64, over each
    logical shard in order and over the shards as a tree.
    """
    loader = DataLoader(dataset, max(batch, shards), comm, shards, shuffle="never", place=place)
    if comm.size > 1:
        compare_data(comm, loader.origin)
    metric_sum = ShardSum(comm, shards)
    modes = [(module, module.training) for module in model.modules()]
    sums: dict = dict.fromkeys(loader.own_shards, 0.0)
    names: list[str] = []
    whole, recorded = shards == len(loader) == 1, False
    model.eval()
    try:
        for one in loader.epoch(0):
            for shard in one.shards:
                if len(shard):
                    with enable_grad() if recorded else no_grad():
                        values = metrics(*shard.arrays)
                    if not recorded and any(map(_is_unmarked, values.values())):
                        recorded = True  # the graph tells what it is a mean over
                        with enable_grad():
                            values = metrics(*shard.arrays)
                    if names and names != [*values]:
                        raise ConfigurationError(f"metrics returned {names} and then {[*values]}: always the same")
                    names = [*values]
                    found = [measured(v, len(shard), whole) for v in values.values()]
                    sums[shard.index] += np.array(found).reshape(-1)
    finally:
        for module, training in modes:  # each its own: a frozen batch norm stays in evaluation mode
            module.training = training
    if comm.size > 1:  # some ranks may have seen no sample, and do not know what was measured
        everyones = [found for found in comm.all_gather_object(names) if found]
        names = everyones[0]
        if wrong := [found for found in everyones if found != names]:
            raise ConfigurationError(f"the ranks measure different things, {names} and {wrong[0]}: return the same")
    result = np.zeros(2 * len(names))
    for v, shard_sums in sums.items():
        result = np.zeros(2 * len(names)) + shard_sums
        metric_sum.push(v, result)
    metric_sum.finish(result)
    pairs = result.reshape(-1, 2).tolist()
    means = {name: total / weight if weight else math.nan for name, (total, weight) in zip(names, pairs)}
    return metrics.finish(means) if hasattr(metrics, "finish") else means


def _is_unmarked(value):
    """Whether it is a number of which nothing says, without a graph, what it is a mean over."""
    return type(value) is Tensor and value.shape == () and getattr(value, "mean_of", None) is None
