"""Batch normalisation over the global batch: that of the concatenated shards, the same on any number of ranks."""

import threading

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.ops import part_of_batch
from allgrad.autograd.random import generator
from allgrad.ddp import (
    Communicator,
    ConfigurationError,
    DataLoader,
    DistributedDataParallel,
    LossScale,
    NoiseScale,
    Placement,
    Trainer,
)
from allgrad.ddp.data import Batch, Shard
from allgrad.ddp.shards import shards_of_rank
from tests.device.pretend import pretend

X = generator("sync").standard_normal((53, 6)) * 3.0 + 1.0
LABELS = np.arange(53) % 3


class Network(nn.Module):
    """Two layers around dropout, the second one called twice, and a residual path around it."""

    def __init__(self, dropout=0.0, seed=0, momentum=0.1, affine=True):
        ag.manual_seed(seed)
        self.first, self.norm2 = nn.Linear(6, 8), nn.BatchNorm2d(2, momentum=momentum, affine=affine)
        self.dropout, self.convolution = nn.Dropout(dropout), nn.Conv2d(2, 4, 2)
        self.norm1, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def __call__(self, x):
        y = self.dropout(self.norm2(self.first(x).reshape(-1, 2, 2, 2)).tanh())
        y = self.norm1(self.convolution(y).reshape(-1, 4))
        return self.head(y + self.norm1(y.relu()))


def loss_of(model):
    return lambda x, y: ag.cross_entropy(model(x), y)


def batch_for(comm, sizes, dtype="float64"):
    """The batch whose shards have these sizes, as a rank sees it."""
    bounds, mine = np.cumsum([0, *sizes]), range(*shards_of_rank(comm.rank, comm.size, len(sizes)))
    parts = [np.arange(*bounds[v : v + 2]) for v in range(len(sizes))]
    shards = [Shard(v, parts[v], (X[parts[v]].astype(dtype), LABELS[parts[v]])) for v in mine]
    return Batch(0, 0, sum(sizes), len(sizes), 0, shards)


def step_of(comm, sizes, batch_norm, model=None):
    """(loss, {parameter: gradient}, {buffer: value}) of one step."""
    model = model or Network()
    model.to("float64")
    parallel = DistributedDataParallel(model, comm, len(sizes), batch_norm=batch_norm)
    loss = parallel.backward(batch_for(comm, sizes), loss_of(model))
    gradients = {name: p.grad.copy() for name, p in model.named_parameters()}
    return loss, gradients, {name: b.data.copy() for name, b in model.named_buffers()}


def distance(a, b):
    return max(abs(a[0] - b[0]), *(np.abs(a[i][name] - b[i][name]).max() for i in (1, 2) for name in a[i]))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("sizes", [(13, 5), (1, 1, 9), (4, 0, 1, 7, 3), (0, 0, 6), (2, 1, 0, 0, 0)])
def test_it_is_batch_norm_of_the_concatenated_batch_where_that_of_shards_is_not(sizes, momentum, affine, simulate):
    model = lambda: Network(momentum=momentum, affine=affine)
    whole = step_of(Communicator(), [sum(sizes)], "shard", model())
    for ranks in range(1, len(sizes) + 1):
        found = simulate(ranks, lambda comm: step_of(comm, sizes, "sync", model()))
        assert max(distance(one, whole) for one in found) < 1e-10
    if min(s for s in sizes if s) > 1 and sum(map(bool, sizes)) > 1:
        assert distance(step_of(Communicator(), sizes, "shard", model()), whole) > 1e-3


def of_parts(parts, weight, bias):
    """Value and gradients of `batch_norm` over parts, in threads that meet at a barrier."""
    n, results, meeting, sums = len(parts), [None] * len(parts), threading.Barrier(len(parts)), {}

    def total(a):
        me = threading.current_thread().name
        sums[me] = a
        meeting.wait(100)
        whole = sum(sums[str(v)] for v in range(n))
        meeting.wait(100)
        return whole

    def run(v):
        x, w, b = (ag.tensor(a, requires_grad=True) for a in (parts[v], weight, bias))
        with part_of_batch(total):
            y = ag.batch_norm(x, None, None, w, b, training=True)
        (y * y * y).sum().backward()
        results[v] = y.numpy(), x.grad, w.grad, b.grad

    threads = [threading.Thread(target=run, args=(v,), name=str(v)) for v in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 2, 2)])
def test_the_vjp_over_uneven_parts_is_that_of_the_whole(shape):
    rng = generator("parts", shape)
    x, weight, bias = rng.standard_normal((12, *shape)) * 2 + 5, *rng.standard_normal((2, 3))
    leaves = [ag.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    y = ag.batch_norm(leaves[0], None, None, *leaves[1:], training=True)
    (y * y * y).sum().backward()
    ys, by_x, by_weight, by_bias = zip(*of_parts(np.split(x, [1, 8]), weight, bias))
    found = np.concatenate(ys), np.concatenate(by_x), sum(by_weight), sum(by_bias)
    for a, b in zip(found, (y.numpy(), *(leaf.grad for leaf in leaves))):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def test_moments_far_from_zero_lose_no_digits():
    x = (1e4 + generator("far").standard_normal((64, 2))).astype("f4")
    weight, bias = np.ones(2, "f4"), np.zeros(2, "f4")
    found = np.concatenate([part[0] for part in of_parts(np.split(x, [5, 40]), weight, bias)])
    exact = x.astype("f8") - x.mean(0, dtype="f8")
    assert np.abs(found - exact / np.sqrt((exact**2).mean(0) + 1e-5)).max() < 1e-3


def trained(comm, shards, batch, *, device="numpy", dtype="float32", rule=optim.Adam, batch_norm="sync"):
    model = Network(dropout=0.3, seed=comm.rank).to(device=device)
    scale = LossScale(256.0) if dtype == "float16" else None
    parallel = DistributedDataParallel(model, comm, shards, scale=scale, batch_norm=batch_norm)
    if dtype != "float32":
        model.compute_in(dtype)
    loader = DataLoader((X.astype("f4"), LABELS), batch, comm, shards, place=Placement(device, dtype))
    metrics = lambda x, y: {"loss": ag.cross_entropy(model(x), y, "none")}
    trainer = Trainer(parallel, rule(parallel, 0.02), loader, loss_of(model), metrics, steps=7)
    summary = trainer.fit()
    return summary["weights_sha256"], [b.numpy().tobytes() for _, b in model.named_buffers()], summary["train_loss"]


@pytest.mark.parametrize(
    "shards, batch", [(1, 10), (2, 17), (3, 10), (5, 25)]
)  # 53 samples: some last shards are empty
def test_training_does_not_depend_on_the_number_of_ranks(shards, batch, simulate):
    found = [one for ranks in range(1, shards + 1) for one in simulate(ranks, lambda c: trained(c, shards, batch))]
    assert all(one == found[0] for one in found)
    if shards == 1:
        assert found == [trained(Communicator(), 1, batch, batch_norm="shard")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_torch_arrays_and_halves(dtype, simulate):
    found = [
        one
        for ranks in (1, 3)
        for one in simulate(ranks, lambda c: trained(c, 5, 25, device="cpu", dtype=dtype, rule=optim.SGD))
    ]
    assert all(one == found[0] for one in found)
    exact = trained(Communicator(), 5, 25, rule=optim.SGD)
    assert found[0][2] == pytest.approx(exact[2], rel=1e-4 if dtype == "float32" else 0.05)


def test_shards_compute_in_the_stream_of_the_thread_that_gives_them_their_turns():
    with pretend() as device:
        expected = trained(Communicator(), 3, 10, device="cuda", rule=optim.SGD)
        count = device.timeline.default.count
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            assert trained(Communicator(), 3, 10, device="cuda", rule=optim.SGD) == expected
        assert device.timeline.default.count == count


def test_torch_tensors_and_numpy_arrays_have_the_same_gradients():
    found = []
    for convert in (np.array, torch.tensor):
        parts = [convert(X[:4]), convert(X[4:15])]
        for part in of_parts(parts, convert(X[20]), convert(X[21])):
            found += [np.asarray(a) for a in part]
    for a, b in zip(found[:8], found[8:]):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def test_a_layer_in_evaluation_mode_keeps_every_bit():
    model = Network()
    model.norm2.eval()
    before = model.norm2.state_dict()
    step_of(Communicator(), [7, 5, 6], "sync", model)
    assert all(
        np.array_equal(before[name], model.norm2.state_dict()[name]) for name in nn.BatchNorm2d.running_statistics
    )
    assert model.norm1.num_batches_tracked.item() == 2


def test_modes_and_hooks_are_those_of_a_shard_alone():
    """What a forward sets up around a layer is not seen by the others, and a hook fires once a shard."""
    model, seen, fired = Network().to("float64"), [], []
    parallel = DistributedDataParallel(model, shards=3, batch_norm="sync")
    model.head.bias.register_hook(lambda leaf: fired.append(leaf.grad.copy()))

    def loss(x, y):
        seen.append(bool((model.first.weight * 1.0).requires_grad))
        with ag.no_grad():
            model(x)
        return ag.cross_entropy(model(x), y)

    parallel.backward(batch_for(Communicator(), [5, 4, 6]), loss)
    assert seen == [True] * 3 and len(fired) == 3
    np.testing.assert_allclose(sum(fired), model.head.bias.grad, atol=1e-15)
    assert (model.first.weight * 1.0).requires_grad and all(p.node in parallel.arena.leaves for p in model.parameters())


@pytest.mark.parametrize("error", [KeyError("lost"), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("ranks, failing", [(1, 0), (1, 2), (3, 2)])
def test_an_error_in_one_shard_is_raised_as_it_is(error, ranks, failing, simulate):
    def train(comm):
        model = Network().to("float64")
        parallel = DistributedDataParallel(model, comm, 3, batch_norm="sync")

        def loss(x, y):
            z = model.norm2(model.first(x).reshape(-1, 2, 2, 2))
            if len(x) == (5, 4, 6)[failing]:
                raise error
            return (z * z * z).mean()

        try:
            parallel.backward(batch_for(comm, [5, 4, 6]), loss)
        except SystemExit as left:
            raise KeyError("lost", left.code) from None

    before = threading.active_count()
    with pytest.raises(KeyError, match="lost"):
        simulate(ranks, train)
    assert threading.active_count() == before  # no shard is left waiting


def test_shards_that_pass_other_layers_are_told():
    model = Network().to("float64")
    parallel = DistributedDataParallel(model, shards=2, batch_norm="sync")
    for name, samples in (("norm1", 5), ("norm1", 4)):
        skipped = lambda x, y: model(x).mean() if len(x) != samples else model.first(x).mean()
        with pytest.raises(ConfigurationError, match=r"shard \d .* where shard 1 .*: with batch_norm sync, let every"):
            parallel.backward(batch_for(Communicator(), [5, 4]), skipped)
        assert getattr(model, name).training


def test_one_value_a_channel_has_no_variance():
    with pytest.raises(
        ConfigurationError, match=r"1 value a channel: no variance .* of a batch of 1 sample: give a larger"
    ):
        model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
        step_of(Communicator(), [1, 0], "sync", model)


@pytest.mark.parametrize(
    "way, other",
    [({"reduce": "adasum"}, "reduce='adasum'"), ({"sync_every": 2}, "sync_every=2"),
     ({"noise": NoiseScale()}, "a NoiseScale")],
    ids=["adasum", "local", "noise"],
)  # fmt: skip
def test_what_takes_each_shard_by_itself_is_refused(way, other):
    with pytest.raises(ConfigurationError, match=f"depend on all others, and {other} takes each by itself"):
        DistributedDataParallel(Network(), batch_norm="sync", **way)
    with pytest.raises(ConfigurationError, match="batch_norm is shard or sync, got 'global'"):
        DistributedDataParallel(Network(), batch_norm="global")


def test_derivatives_of_derivatives_are_refused():
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)).to("float64")
    parallel = DistributedDataParallel(model, shards=2, batch_norm="sync")

    def loss(x, y):
        return (ag.grad(lambda a: ag.grad(lambda b: (model(b) ** 3).sum())(a).sum())(x) ** 2).sum()

    with pytest.raises(NotImplementedError, match="over the parts of a batch it can be differentiated once"):
        parallel.backward(batch_for(Communicator(), [5, 4]), loss)
