"""The ways to add up gradients: which there are, and what adds up the numbers that ride behind the gradients."""

import numpy as np
import pytest

from allgrad import nn
from allgrad.autograd.arena import Arena
from allgrad.ddp import Communicator, ConfigurationError, DistributedDataParallel, ShardSum
from allgrad.ddp.reduce import REDUCTIONS, WIRES, Adasum, Exchange, gradient_sum
from allgrad.ddp.reduce.gradient_sum import SplitSum


def summed(arena, reduce, wire, messages):
    total = gradient_sum(arena, Communicator(), len(messages), Exchange(reduce, wire))
    for shard, given in enumerate(messages):
        arena.message[...] = given
        total.push(shard, arena.message)
    total.finish(arena.message)
    return total


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("wire", WIRES)
def test_what_rides_behind_the_gradients_is_summed_exactly(reduce, wire):
    arena = Arena(nn.Linear(3, 2))
    if reduce == "native" and wire != WIRES[0]:
        with pytest.raises(ConfigurationError, match="native"):
            DistributedDataParallel(nn.Linear(3, 2), reduce=reduce, wire=wire)
        return
    extras = np.float32([1.0 + 2.0**-20, 3.0])  # the first has more digits than a half
    messages = [np.full_like(arena.message, 0.0) for _ in extras]
    for message, extra in zip(messages, extras):
        message[: len(arena.grad)], message[len(arena.grad) :] = 1.0, extra
    total = summed(arena, reduce, wire, messages)
    assert (arena.extras == extras.sum()).all()
    assert (arena.unflatten(arena.grad)["weight"] == (1.0 if reduce == "adasum" else 2.0)).all()  # of equal gradients
    assert type(total) is (ShardSum if reduce != "adasum" and wire == WIRES[0] else SplitSum)
    assert reduce != "adasum" or type(total.gradients) is Adasum
