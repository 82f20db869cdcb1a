"""Batch normalisation and other running statistics over logical shards: the same on any number of ranks."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import Communicator, ConfigurationError, DataLoader, DistributedDataParallel, Trainer, evaluate
from allgrad.ddp.data import Batch, Shard
from allgrad.ddp.trainer import checkpoint

X = generator("running").standard_normal((53, 6)) * 3.0 + 1.0
LABELS = np.arange(53) % 3


def network(momentum=0.1, dtype="float32", seed=0):
    """Both layers, the second one called twice."""
    ag.manual_seed(seed)
    norm = nn.BatchNorm1d(4, momentum=momentum)
    head = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), Apply(lambda x: x.reshape(-1, 2, 2, 2)))
    body = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 2), nn.Flatten(), norm, nn.ReLU(), norm)
    return nn.Sequential(head, body, nn.Linear(4, 3)).to(dtype)


class Apply(nn.Module):
    def __init__(self, f):
        self.f = f

    def __call__(self, x):
        return self.f(x)


class Normalised(nn.Module):
    """One layer alone: its weight gets the gradient, its statistics are to be looked at."""

    def __init__(self, **options):
        self.norm = nn.BatchNorm1d(2, **options)
        self.to("float64")

    def __call__(self, x):
        return (self.norm(x) ** 2).mean()


def batch_of(*shards):
    """A batch of shards that are given by their samples."""
    return Batch(0, 0, sum(map(len, shards)), len(shards), 0, [Shard(v, s, (s,)) for v, s in enumerate(shards)])


def trainer_of(comm, shards, batch, *, steps=12, momentum=0.1, dtype="float32", seed=0, **options):
    model = network(momentum, dtype, seed)
    parallel = DistributedDataParallel(model, comm, shards)
    loader = DataLoader((X.astype(dtype), LABELS), batch, comm, shards, boundary="carry")

    def metrics(x, y):
        return {"loss": ag.cross_entropy(model(x), y, "none")}

    def loss(x, y):
        return ag.cross_entropy(model(x), y)

    return Trainer(
        parallel, optim.SGD(parallel, 0.1, momentum=0.9), loader, loss, metrics, steps=steps,
        validation=(X[:11].astype(dtype), LABELS[:11]), **options,
    )  # fmt: skip


def outcome(trainer):
    """What must not depend on the ranks: parameters, running statistics, losses."""
    summary = trainer.fit()
    return {k: a.tobytes() for k, a in trainer.model.state_dict().items()}, summary["train_loss"], summary["val_loss"]


@pytest.mark.parametrize("shards, batch", [(5, 13), (6, 24), (7, 33)])
@pytest.mark.parametrize("dtype, momentum", [("float32", 0.1), ("float64", None)])
def test_training_does_not_depend_on_the_number_of_ranks(shards, batch, dtype, momentum, simulate):
    def train(comm):  # every rank begins with other weights: rank 0's count
        return outcome(trainer_of(comm, shards, batch, momentum=momentum, dtype=dtype, seed=comm.rank))

    first, *others = [found for ranks in (1, 2, 3, 4, 5) for found in simulate(ranks, train)]
    assert len(others) == 14 and all(other == first for other in others)
    assert np.frombuffer(first[0]["1.3.num_batches_tracked"], np.int64) == 24


def test_a_resume_on_other_ranks_restores_the_statistics(tmp_path, simulate):
    whole = outcome(trainer_of(Communicator(), 5, 13))
    for ranks, stop in [(2, 5), (4, 9), (3, 12)]:

        def go_on(comm, stop=stop):
            trainer = trainer_of(comm, 5, 13, steps=stop, out=tmp_path, resumes=True, seed=comm.rank)
            if saved := checkpoint.load_latest(tmp_path / "checkpoints"):
                trainer.restore(saved)
            return outcome(trainer)

        found = simulate(ranks, go_on)
    assert found == [whole] * 3


def test_one_shard_is_what_the_layer_does_alone():
    model, plain = network(), network()
    parallel = DistributedDataParallel(model, shards=1)
    for batch in DataLoader((X.astype("f4"), LABELS), 10).steps(0, 4):
        parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
        plain(batch.shards[0].arrays[0])
    for name, buffer in plain.named_buffers():
        assert np.array_equal(model.state_dict()[name], buffer.data), name


@pytest.mark.parametrize("momentum", [0.25, None])
def test_statistics_move_by_the_mean_of_the_shards_moments(momentum):
    model = Normalised(momentum=momentum)
    parallel = DistributedDataParallel(model, shards=4)
    mean, var = np.zeros(2), np.ones(2)
    for step in range(3):
        shards = [X[7 * step :, :2][:4], X[7 * step :, :2][4:6], X[7 * step :, :2][6:9], X[:0, :2]]
        parallel.backward(batch_of(*shards), model)
        by = momentum or 1 / (step + 1)
        mean += by * (sum(len(s) / 9 * s.mean(0) for s in shards[:3]) - mean)
        var += by * (sum(len(s) / 9 * s.var(0, ddof=1) for s in shards[:3]) - var)
        np.testing.assert_allclose(model.norm.running_mean.data, mean, rtol=1e-13)
        np.testing.assert_allclose(model.norm.running_var.data, var, rtol=1e-13)
        assert model.norm.num_batches_tracked.item() == step + 1


def test_each_shard_is_normalised_by_its_own_moments():
    model = Normalised()
    parallel = DistributedDataParallel(model, shards=2)
    shards = X[:4, :2], X[4:10, :2]
    loss = parallel.backward(batch_of(*shards), model)
    each = [((s - s.mean(0)) ** 2 / (s.var(0) + 1e-5)).mean() for s in shards]
    assert loss == pytest.approx(0.4 * each[0] + 0.6 * each[1], rel=1e-13)


def test_a_frozen_layer_keeps_every_bit():
    model = network()
    DistributedDataParallel(model, shards=1).backward(
        DataLoader((X.astype("f4"), LABELS), 10).batch(0), lambda x, y: ag.cross_entropy(model(x), y)
    )
    frozen = model[1][3].eval()
    before, moving = frozen.state_dict(), model[0][1].running_mean.numpy().copy()
    parallel = DistributedDataParallel(model, shards=3)
    for batch in DataLoader((X.astype("f4"), LABELS), 10, shards=3).steps(0, 4):
        parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
    assert all(np.array_equal(before[name], frozen.state_dict()[name]) for name in frozen.running_statistics)
    assert not np.any(moving == model[0][1].running_mean.numpy())


def test_evaluation_uses_the_statistics_and_gives_each_module_its_mode_back():
    model = network()
    model[1][3].eval()
    modes = [module.training for module in model.modules()]
    before = model.state_dict()
    x = X.astype("f4")
    found = evaluate(model, (x, LABELS), lambda x, y: {"logits": model(x).sum(1)}, Communicator(), 3, 10)
    assert [module.training for module in model.modules()] == modes
    assert all(np.array_equal(before[name], a) for name, a in model.state_dict().items())
    assert found["logits"] == pytest.approx(model.eval()(x).numpy().sum() / len(x), rel=1e-5)


class Mean(nn.Module):
    """A user's own running statistic, and one that counts."""

    running_statistics = ("mean", "calls")

    def __init__(self):
        self.fc = nn.Linear(6, 3)
        self.mean, self.calls = ag.tensor(np.zeros(6, "f4")), ag.tensor(np.array(0))

    def __call__(self, x):
        if self.training:
            self.mean.assign(0.5 * (self.mean.data + x.mean(0)))
            self.calls.assign(self.calls.data + 1)
        return self.fc(x - self.mean)


def test_a_module_of_the_users_own_names_its_running_statistics(simulate):
    def train(comm):
        model = Mean()
        parallel = DistributedDataParallel(model, comm, 5)
        for batch in DataLoader((X.astype("f4"), LABELS), 12, comm, 5).steps(0, 3):
            parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
        return model.mean.data.tobytes(), model.calls.item()

    found = {result for ranks in (1, 2, 3, 5) for result in simulate(ranks, train)}
    assert len(found) == 1 and found.pop()[1] == 3


def test_without_running_statistics_nothing_more_is_exchanged(simulate):
    def count(comm):
        model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, track_running_stats=False))
        parallel = DistributedDataParallel(model, comm, 2)
        batch = DataLoader((X.astype("f4"), LABELS), 12, comm, 2).batch(0)
        sent = comm.bytes_sent
        parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
        return comm.bytes_sent - sent - parallel.arena.message.nbytes

    assert simulate(2, count) == [0, 0]


def test_every_rank_starts_from_the_buffers_of_rank_0(simulate):
    def start(comm):
        model = nn.BatchNorm1d(3)
        model.scale, model.mask = ag.tensor(2.0 + comm.rank) * 3.0, ag.tensor(comm.rank < np.arange(6).reshape(3, 2).T)
        for tensor in (*model.parameters(), *(getattr(model, name) for name in model.running_statistics)):
            tensor.assign(comm.rank + 1)
        before = model.state_dict()
        DistributedDataParallel(model, comm)
        after = model.state_dict()
        assert [(k, a.dtype, a.shape) for k, a in before.items()] == [(k, a.dtype, a.shape) for k, a in after.items()]
        return {k: a.tobytes() for k, a in before.items()}, {k: a.tobytes() for k, a in after.items()}

    results = simulate(3, start)
    assert all(after == results[0][0] for _, after in results)
    assert all(before[name] != results[0][0][name] for before, _ in results[1:] for name in before)


@pytest.mark.parametrize(
    "build, text",
    [
        (
            lambda rank: nn.BatchNorm1d(3, track_running_stats=rank == 0),
            r"rank 0 has 'running_mean' \[3\] float32 where rank 1 has nothing",
        ),
        (
            lambda rank: nn.Sequential(nn.Linear(2, 2), Constant(np.zeros(2 + rank))),
            r"rank 0 has '1.value' \[2\] float64 where rank 1 has '1.value' \[3\] float64",
        ),
        (
            lambda rank: nn.Sequential(nn.Linear(2, 2), Constant(np.zeros(2, "i4" if rank else "i8"))),
            r"rank 0 has '1.value' \[2\] int64 where rank 1 has '1.value' \[2\] int32",
        ),
    ],
)
def test_buffers_that_differ_are_refused_on_every_rank(build, text, simulate):
    def start(comm):
        with pytest.raises(ConfigurationError, match=text) as caught:
            DistributedDataParallel(build(min(comm.rank, 1)), comm)
        return str(caught.value)

    assert len(set(simulate(3, start))) == 1


class Constant(nn.Module):
    def __init__(self, value):
        self.value = ag.tensor(value)


@pytest.mark.parametrize("shards", [[X[:4, :2], X[:1, :2]], [X[:1, :2]]])
def test_shards_of_one_value_a_channel_are_refused(shards):
    model = Normalised()
    parallel = DistributedDataParallel(model, shards=len(shards))
    size = sum(map(len, shards))
    text = rf"\(1, 2\) has 1 value a channel: .* a shard with 1 of a batch of {size} samples?: give fewer shards"
    with pytest.raises(ConfigurationError, match=text):
        parallel.backward(batch_of(*shards), model)
