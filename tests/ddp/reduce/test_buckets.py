"""Gradients exchanged in buckets while backward goes on: the same bits as afterwards, whatever is sent when."""

from functools import partial

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.arena import Arena, arena_of
from allgrad.autograd.random import generator
from allgrad.ddp import (
    Communicator,
    ConfigurationError,
    DataLoader,
    DistributedDataParallel,
    LossScale,
    NoiseScale,
    Zero,
)
from allgrad.ddp.reduce import buckets, cut
from allgrad.ddp.reduce.side_stream import SideStream

X = generator("overlap").standard_normal((40, 36)).astype("f4")
CODES = generator("codes").integers(0, 9, (40, 5))
LABELS = np.arange(40) % 3
SIZES = [1, 4, 333, 1000, 10**9]


class Transformer(nn.Module):
    """The embedding is the head as well, and `idle` is never used."""

    def __init__(self):
        self.embedding, self.idle = nn.Embedding(9, 8), nn.Linear(3, 5)
        self.layers = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.2) for _ in range(2)))

    def __call__(self, x):
        return self.layers(self.embedding(x)).mean(axis=1) @ self.embedding.weight.mT


def mlp():
    layers = [nn.Linear(36, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)]
    return nn.Sequential(*layers)


class Convolutional(nn.Module):
    def __init__(self):
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))

    def __call__(self, x):
        return self.body(x.reshape(-1, 1, 6, 6))


MODELS = {"mlp": (mlp, X), "batch norm": (Convolutional, X), "transformer": (Transformer, CODES)}


def ddp_of(comm, kind="mlp", shards=None, noise=True, **options):
    ag.manual_seed(5)
    return DistributedDataParallel(MODELS[kind][0](), comm, shards, noise=NoiseScale(0.5) if noise else None, **options)


def train(comm, kind, shards, batch=13, steps=4, rule=None, **options):
    """All that the ranks must agree in: parameters and buffers, losses, and the noise scale."""
    parallel = ddp_of(comm, kind, shards, **options)
    parallel.on_cpu = True  # where a test has it made for a device, its numbers are here all the same
    if parallel.noise is not None and not parallel.noise.on_cpu:
        parallel.noise.on_cpu, parallel.noise.chunks = True, [[g] for g in parallel.noise.chunks]
    model = parallel.model
    optimizer = rule(parallel, comm) if rule else optim.SGD(parallel, 0.1, momentum=0.9)
    losses = []
    for one in DataLoader((MODELS[kind][1], LABELS), batch, comm, shards).steps(0, steps):
        losses.append(parallel.backward(one, lambda x, y: ag.cross_entropy(model(x), y)))
        norm = optim.clip_grad_norm(parallel, 0.5)
        optimizer.step()
    assert norm > 0.0 and all(leaf.hook is None for leaf in parallel.arena.leaves)
    state = {name: np.asarray(value).tobytes() for name, value in model.state_dict().items()}
    noise = parallel.noise
    return state, losses, parallel.arena.sha256(), noise and (noise.trace, noise.signal)


# --- the same bits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("ranks, shards", [(1, 2), (1, 5), (2, 2), (2, 5), (3, 3), (3, 5), (4, 4), (4, 8), (5, 7)])
def test_any_policy_and_any_size_of_bucket_give_the_same_bits(kind, ranks, shards, simulate):
    """With batches of 13 samples in the 3 steps of an epoch, and of 1 in the next, which leaves shards empty."""
    batch = 13 if kind != "batch norm" else 20 if shards <= 5 else 40  # whose shards need two samples
    expected = train(Communicator(), kind, shards, batch, overlap="after")
    sizes = SIZES if ranks * shards < 12 else SIZES[1:3]
    for options in [{"overlap": "after"}, *({"overlap": "bucket", "bucket": size} for size in sizes)]:
        assert simulate(ranks, lambda comm: train(comm, kind, shards, batch, **options)) == [expected] * ranks
    if ranks == 1:
        for size in SIZES:
            assert train(Communicator(), kind, shards, batch, overlap="thread", bucket=size) == expected


WAYS = [
    {"wire": "float16"}, {"wire": "bfloat16"}, {"scale": True},
    {"rule": lambda parallel, comm: Zero(optim.Adam(parallel, 0.01), comm)},
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids="".join)
@pytest.mark.parametrize("ranks, shards", [(2, 2), (3, 5), (4, 4)])
def test_buckets_go_with_half_precision_with_loss_scaling_and_with_zero(way, ranks, shards, simulate):
    def run(comm, overlap):
        options = {**way, "scale": LossScale(64.0)} if "scale" in way else way
        return train(comm, "mlp", shards, **options, overlap=overlap, bucket=600)

    assert simulate(ranks, lambda comm: run(comm, "bucket")) == [run(Communicator(), "after")] * ranks


@pytest.mark.parametrize("ranks", [1, 2])
def test_torch_tensors_are_exchanged_in_buckets_too(ranks, simulate):
    torch = pytest.importorskip("torch")

    def run(comm, overlap):
        ag.manual_seed(5)
        model = mlp().to(device="cpu")
        parallel = DistributedDataParallel(model, comm, 2, noise=NoiseScale(0.5), overlap=overlap, bucket=600)
        for one in DataLoader((X, LABELS), 13, comm, 2).steps(0, 3):
            for shard in one.shards:
                shard.arrays = tuple(torch.from_numpy(a) for a in shard.arrays)
            parallel.backward(one, lambda x, y: ag.cross_entropy(model(x), y))
        return parallel.arena.grad.numpy().tobytes(), float(parallel.noise.trace)

    assert simulate(ranks, lambda comm: run(comm, "bucket")) == [run(Communicator(), "after")] * ranks


class Deferred(SideStream):
    """A stream that begins with nothing until it is joined."""

    def __init__(self, like):
        self.tasks = []

    def run(self, f, *args):
        self.tasks.append(partial(f, *args))

    def join(self):
        while self.tasks:
            self.tasks.pop(0)()


@pytest.mark.parametrize("stream", [SideStream, Deferred])
@pytest.mark.parametrize("way", [{}, *WAYS], ids=["plain", "float16", "bfloat16", "scale", "zero"])
@pytest.mark.parametrize("ranks, shards", [(1, 3), (2, 2), (2, 5), (3, 3), (4, 4), (6, 9)])
def test_a_stream_exchanges_buckets_by_collectives(stream, way, ranks, shards, simulate, monkeypatch):
    """As soon as they are there, or not before all are; with buckets that are cut at multiples of a unit."""

    def run(comm, **options):
        options |= {**way, "scale": LossScale(64.0)} if "scale" in way else way
        return train(comm, "mlp", shards, noise="wire" not in way, **options)

    def on_device(comm, size):
        comm.collectives = True
        return run(comm, overlap="bucket", bucket=size)

    expected = run(Communicator(), overlap="after")
    monkeypatch.setattr(buckets, "SideStream", stream)
    monkeypatch.setattr(Arena, "on_cpu", False)
    for size in SIZES[1:4]:
        assert simulate(ranks, lambda comm: on_device(comm, size), 3 if ranks == 6 else None) == [expected] * ranks


# --- what is used, and how often ---------------------------------------------------------------------------------


class Scalars(nn.Module):
    def __init__(self):
        self.first, self.twice, self.never, self.last = (nn.Parameter([float(i)], "float64") for i in range(1, 5))


@pytest.mark.parametrize("overlap", ["after", "bucket", "thread"])
def test_a_parameter_used_twice_once_or_never_has_its_gradient(overlap):
    model = Scalars()
    parallel = DistributedDataParallel(model, shards=2, overlap=overlap, bucket=1)
    batch = next(iter(DataLoader((np.array([[1.0], [5.0], [2.0], [4.0]]),), 4, shards=2, shuffle="never").steps(0, 1)))
    parallel.backward(batch, lambda x: (x * model.twice * model.twice * model.last * model.first).mean())
    assert [p.grad[0] for p in model.parameters()] == [3.0 * 4 * 4, 3.0 * 4 * 4, 0.0, 3.0 * 4]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_parameter_that_only_the_shard_of_one_rank_uses_has_its_gradient(ranks, simulate):
    def run(comm):
        model = Scalars()
        parallel = DistributedDataParallel(model, comm, 2, overlap="bucket", bucket=1)
        x = np.array([[1.0], [5.0], [2.0], [4.0]])
        batch = next(iter(DataLoader((x,), 4, comm, 2, shuffle="never").steps(0, 1)))

        def loss(x):
            return (x * (model.twice if x[0] == 1.0 else model.last)).mean()

        parallel.backward(batch, loss)
        return [p.grad[0] for p in model.parameters()]

    assert simulate(ranks, run) == [[0.0, 1.5, 0.0, 1.5]] * ranks


def test_a_gradient_that_comes_twice_in_one_backward_is_refused():
    model = Scalars()

    @ag.primitive
    def again(a):
        def vjp(g):
            (model.last * 2.0).backward(np.ones(1))
            return g

        return a * 1.0, vjp

    loss = lambda x: (again(model.first) * model.last * x).mean()
    batch = next(iter(DataLoader((np.ones((2, 1)),), 2, shards=2).steps(0, 1)))
    with pytest.raises(RuntimeError, match=r"'last' got a second gradient in one backward.*overlap='after'"):
        DistributedDataParallel(model, shards=2, overlap="bucket", bucket=1).backward(batch, loss)
    DistributedDataParallel(model, shards=2, overlap="after").backward(batch, loss)
    assert model.last.grad[0] == 1.0 + 2.0 + 2.0


# --- when --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_buckets_are_whole_parameters_from_the_last_to_the_first(size):
    arena = arena_of(mlp())
    runs = cut(arena, size)
    assert [i for first, stop in runs for i in reversed(range(first, stop))] == [*reversed(range(len(arena.leaves)))]
    sizes = [[4 * (s.stop - s.start) for s in [*arena.spans.values()][first:stop]] for first, stop in runs]
    assert all(sum(run) >= size > sum(run[1:]) for run in sizes[:-1]) and size > sum(sizes[-1][1:])


def test_an_exchange_begins_as_soon_as_a_bucket_is_final_and_in_the_same_order_on_all_ranks(simulate):
    def run(comm, shards):
        parallel = ddp_of(comm, shards=shards, overlap="bucket", bucket=1)
        events, start = [], comm.start
        comm.start = lambda sends, receives, tag: (events.append(tag), start(sends, receives, tag))[1]
        for name, leaf in zip(parallel.arena.parameters, parallel.arena.leaves):
            leaf.hook = lambda leaf, name=name: events.append(name)
        batch = next(DataLoader((X, LABELS), 13, comm, shards).steps(0, 1))
        parallel.backward(batch, lambda x, y: ag.cross_entropy(parallel.model(x), y))
        assert all(leaf.hook is not None for leaf in parallel.arena.leaves)
        return events

    for events in simulate(2, lambda comm: run(comm, 2)):
        assert [e for e in events if isinstance(e, int)] == [1, 2, 3, 4, 5, 6, 7]
        assert events.index(1) < events.index("3.bias") < events.index(4) < events.index("0.bias")
    for events in simulate(2, lambda comm: run(comm, 4)):  # the first of a rank's two shards is kept
        assert events[:6] == [*filter(lambda e: isinstance(e, str), events)][:6]


# --- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap, ranks", [("bucket", 1), ("bucket", 2), ("thread", 1)])
def test_an_exception_in_the_middle_of_backward_is_raised_and_the_next_step_is_right(overlap, ranks, simulate):
    def run(comm, fail):
        parallel = ddp_of(comm, shards=2, overlap=overlap, bucket=1)
        batches = [*DataLoader((X, LABELS), 13, comm, 2).steps(0, 2)]
        loss = lambda x, y: ag.cross_entropy(parallel.model(x), y)
        if fail:
            second = parallel.arena.leaves[2]
            second.hook = lambda leaf: {}["x"]
            with pytest.raises(KeyError, match="x"):
                parallel.backward(batches[0], loss)
            second.hook = None
        parallel.backward(batches[1], loss)
        return parallel.arena.grad.tobytes()

    assert simulate(ranks, lambda comm: run(comm, True)) == [run(Communicator(), False)] * ranks


def test_what_the_thread_fails_with_the_step_raises():
    parallel = ddp_of(Communicator(), shards=2, overlap="thread", bucket=1)
    parallel.overlap.current().parts[2][1].steps = lambda array: {}["x"]
    batches = [*DataLoader((X, LABELS), 13, shards=2).steps(0, 2)]
    with pytest.raises(KeyError, match="x"):
        parallel.backward(batches[0], lambda x, y: ag.cross_entropy(parallel.model(x), y))


def test_ranks_with_other_buckets_are_told(simulate):
    with pytest.raises(ConfigurationError, match=r"do not make the same calls.* in 1 buckets of 9000 bytes"):
        simulate(2, lambda comm: train(comm, "mlp", 2, overlap="bucket", bucket=9000 * (1 + comm.rank)))


@pytest.mark.parametrize(
    "options, text",
    [({"overlap": "never"}, "overlap is auto, after, bucket or thread, got 'never'"),
     ({"bucket": 0}, "a bucket has at least 1 byte, got 0"),
     ({"overlap": "bucket", "reduce": "native"}, "overlap='bucket' .*, and reduce='native' takes them all at once"),
     ({"overlap": "thread", "reduce": "adasum"}, "overlap='thread' .*, and reduce='adasum' takes"),
     ({"overlap": "bucket", "compress": "topk:0.1"}, "overlap='bucket' .*, and compress='topk:0.1' takes"),
     ({"overlap": "bucket", "sync_every": 2, "shards": 1}, "overlap='bucket' .*, and sync_every=2 takes")],
)  # fmt: skip
def test_what_cannot_be_is_refused(options, text):
    with pytest.raises(ConfigurationError, match=text):
        ddp_of(Communicator(), noise=False, **options)


def test_a_device_has_no_threads_that_exchange(monkeypatch):
    monkeypatch.setattr(Arena, "on_cpu", False)
    with pytest.raises(ConfigurationError, match=r"overlap='thread' is for .*, and on device='cuda' a stream"):
        ddp_of(Communicator(), overlap="thread")


def test_ranks_that_must_not_talk_in_a_thread_are_refused(simulate):
    with pytest.raises(ConfigurationError, match=r"overlap='thread' needs .*MPI_THREAD_MULTIPLE"):
        simulate(2, lambda comm: ddp_of(comm, overlap="thread"))
