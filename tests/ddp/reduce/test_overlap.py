"""The trial that chooses when gradients are exchanged."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import Communicator, DataLoader, DistributedDataParallel, NoiseScale
from allgrad.ddp.reduce import GAIN, ROUNDS

X = generator("overlap").standard_normal((40, 36)).astype("f4")
LABELS = np.arange(40) % 3


def mlp():
    layers = [nn.Linear(36, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)]
    return nn.Sequential(*layers)


class Large(nn.Module):
    def __init__(self):
        self.layers = nn.Sequential(nn.Linear(36, 1000), nn.ReLU(), nn.Linear(1000, 100), nn.ReLU(), nn.Linear(100, 3))

    def __call__(self, x):
        return self.layers(x)


def tried(comm, seconds):
    """The policy after a trial in which a step of each policy lasts what `seconds(policy, rank, turn)` says."""
    parallel = DistributedDataParallel(Large(), comm)
    overlap, names = parallel.overlap, ["after", "bucket"]
    for turn in range(ROUNDS + 1):
        for name in names:
            assert overlap.policy is None and type(overlap.current()) is type(overlap.exchanges[name])
            overlap.record_time(seconds(name, comm.rank, turn))
    assert list(overlap.exchanges) == [overlap.policy]
    return overlap.policy, overlap.why


@pytest.mark.parametrize(
    "seconds, policy",
    [(lambda name, rank, turn: {"after": 1.0, "bucket": 0.9}[name], "bucket"),
     (lambda name, rank, turn: {"after": 1.0, "bucket": 1.1}[name], "after"),
     (lambda name, rank, turn: {"after": 1.0, "bucket": (1.0 + GAIN) / 2}[name], "after"),
     # fast on one rank is not enough; and neither the first step of a policy nor two slow ones count
     (lambda name, rank, turn: {"after": 1.0, "bucket": 0.5 + 0.6 * rank}[name], "after"),
     (lambda name, rank, turn: {"after": 1.0, "bucket": 9.0 if turn in (0, 2, 3) else 0.9}[name], "bucket")],
)  # fmt: skip
def test_the_trial_takes_what_is_fastest_on_the_slowest_rank(seconds, policy, simulate):
    results = simulate(2, lambda comm: tried(comm, seconds))
    assert results[0] == results[1] and results[0][0] == policy
    assert "measured: after 1e+03 ms, bucket" in results[0][1]


@pytest.mark.parametrize(
    "options, ranks, model, why",
    [({}, 1, Large, "there is one rank"), ({}, 2, mlp, "bytes are soon exchanged"),
     ({"bucket": 10**9}, 2, Large, "all gradients fit in a bucket of 1,000,000,000 bytes"),
     ({"reduce": "native"}, 2, Large, "reduce='native' takes all gradients at once")],
)  # fmt: skip
def test_where_nothing_can_be_gained_nothing_is_tried(options, ranks, model, why, simulate):
    for overlap in simulate(ranks, lambda comm: DistributedDataParallel(model(), comm, **options).overlap):
        assert overlap.policy == "after" and overlap.why.endswith(why)


def test_the_trial_changes_no_bits(simulate):
    def run(comm, steps=2 * (ROUNDS + 1) + 2, **options):
        ag.manual_seed(1)
        parallel = DistributedDataParallel(Large(), comm, 2, noise=NoiseScale(), **options)
        optimizer = optim.SGD(parallel, 0.1)
        for one in DataLoader((X, LABELS), 13, comm, 2).steps(0, steps):
            parallel.backward(one, lambda x, y: ag.cross_entropy(parallel.model(x), y))
            optimizer.step()
        return parallel.arena.sha256(), parallel.noise.trace, parallel.overlap.policy in ("after", "bucket")

    assert simulate(2, run) == [run(Communicator(), overlap="after")] * 2
