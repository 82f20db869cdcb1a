"""Gradients exchanged while backward goes on, by every policy, on the ranks of this launch."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import Communicator, DataLoader, DistributedDataParallel, LossScale, NoiseScale

X = generator("overlap").standard_normal((40, 36)).astype("f4")
LABELS = np.arange(40) % 3


class Net(nn.Module):
    """The middle layer is used twice, `idle` never."""

    def __init__(self):
        self.first, self.idle, self.middle, self.last = (nn.Linear(*s) for s in [(36, 70), (3, 5), (70, 70), (70, 3)])

    def __call__(self, x):
        x = self.middle(ag.dropout(self.first(x).tanh(), 0.3)).relu()
        return self.last(self.middle(x))


def train(comm, shards, steps=4, scale=False, device="numpy", **options):
    ag.manual_seed(comm.rank)
    model = Net().to(device=device)
    noise, scale = NoiseScale(0.5), LossScale(64.0) if scale else None
    parallel = DistributedDataParallel(model, comm, shards, noise=noise, scale=scale, **options)
    optimizer = optim.SGD(parallel, 0.1, momentum=0.9)
    for batch in DataLoader((X, LABELS), 13, comm, shards).steps(0, steps):
        if device != "numpy":
            import torch

            for shard in batch.shards:
                shard.arrays = tuple(torch.from_numpy(a) for a in shard.arrays)
        loss = parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
        optimizer.step()
    return loss, parallel.arena.sha256(), float(noise.trace), float(noise.signal)


@pytest.mark.parametrize(
    "more, way", [(0, {}), (3, {}), (2, {"wire": "bfloat16"}), (1, {"scale": True}), (0, {"device": "cpu"})]
)
def test_every_policy_and_every_size_of_bucket_give_the_bits_of_one_process(comm, more, way):
    shards = comm.size + more
    expected = train(Communicator(), shards, overlap="after", **way)
    for overlap, size in [("after", None), *((p, s) for p in ("bucket", "thread") for s in (1, 9_999, 10**9))]:
        found = train(comm, shards, overlap=overlap, bucket=size, **way)
        assert {*comm.all_gather_object(found)} == {expected}, (overlap, size)


def test_the_trial_comes_to_the_same_decision_on_all_ranks_and_changes_no_bits(comm):
    def run(comm, **options):
        ag.manual_seed(1)
        model = nn.Sequential(nn.Linear(36, 1000), nn.ReLU(), nn.Linear(1000, 100), nn.ReLU(), nn.Linear(100, 3))
        parallel = DistributedDataParallel(model, comm, **options)
        for batch in DataLoader((X, LABELS), 13, comm, comm.size).steps(0, 20):
            parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
            optim.clip_grad_norm(parallel, 1.0)
        return parallel.arena.grad.tobytes(), parallel.overlap

    (grad, overlap), (expected, _) = run(comm), run(comm, overlap="after")
    assert grad == expected and len({*comm.all_gather_object((overlap.policy, overlap.why))}) == 1
    assert overlap.policy in ("after", "bucket", "thread") and ("measured" in overlap.why) == (comm.size > 1)


@pytest.mark.parametrize("overlap, other", [("bucket", False), ("bucket", True), ("thread", False)])
def test_after_an_exception_in_the_middle_of_backward_on_all_ranks_the_next_step_is_right(comm, overlap, other):
    """That of the same model, or of another one."""

    def made(comm, shards):
        ag.manual_seed(2)
        model = Net()
        parallel = DistributedDataParallel(model, comm, shards, overlap=overlap, bucket=1)
        return parallel, model.middle.weight, lambda x, y: ag.cross_entropy(model(x), y)

    def run(comm, shards, fail):
        parallel, weight, loss = made(comm, shards)
        batches = [*DataLoader((X, LABELS), 13, comm, shards).steps(0, 2)]
        if fail:
            weight.register_hook(lambda leaf: {}["x"])
            with pytest.raises(KeyError, match="x"):
                parallel.backward(batches[0], loss)
            weight.register_hook(None)
            if other:
                parallel, _, loss = made(comm, shards)
        parallel.backward(batches[1], loss)
        return parallel.arena.grad.tobytes()

    assert run(comm, comm.size, True) == run(Communicator(), comm.size, False)


def test_what_the_thread_fails_with_is_raised_in_the_step(comm):
    shards = comm.size + 1  # of one shard nothing is added up
    parallel = DistributedDataParallel(Net(), comm, shards, overlap="thread", bucket=1)
    parallel.overlap.current().parts[2][1].steps = lambda array: {}["x"]
    batch = DataLoader((X, LABELS), 13, comm, shards).batch(0)
    with pytest.raises(KeyError, match="x"):
        parallel.backward(batch, lambda x, y: ag.cross_entropy(parallel.model(x), y))
