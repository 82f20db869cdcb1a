"""DistributedDataParallel: the gradient of the mean over the whole batch, whoever computes which part."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import ConfigurationError, DataLoader, DistributedDataParallel, NoiseScale
from allgrad.ddp.data import Batch, Shard

X = generator("parallel").standard_normal((50, 6))
LABELS = np.arange(50) % 3


def mlp(dropout=0.0, seed=7, dtype="float64"):
    ag.manual_seed(seed)
    layers = nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3)
    return nn.Sequential(*layers).to(dtype)


def batch_of(*shards):
    """A batch of shards that are given by their samples."""
    samples = [np.asarray(s, np.float64) for s in shards]
    return Batch(0, 0, sum(map(len, samples)), len(samples), 0, [Shard(v, s, (s,)) for v, s in enumerate(samples)])


class Scalar(nn.Module):
    """One weight: the gradient of `times` is the mean of the samples."""

    def __init__(self):
        self.w, self.unused = nn.Parameter([2.0], "float64"), nn.Parameter([5.0, 5.0], "float64")

    def times(self, x):
        return (x * self.w).mean()


def train(comm, shards, batch, steps=5, dropout=0.0, clip=None, dtype="float64", reduce="canonical", data=X):
    """(hash of the weights, losses) after some steps of momentum SGD."""
    model = mlp(dropout, seed=comm.rank, dtype=dtype)
    parallel = DistributedDataParallel(model, comm, shards, reduce=reduce)
    optimizer = optim.SGD(parallel, lr=0.3, momentum=0.9)
    loader = DataLoader((data.astype(dtype), LABELS), batch, comm, shards)
    losses = []
    for one in loader.steps(0, steps):
        losses.append(parallel.backward(one, lambda x, y: ag.cross_entropy(model(x), y)))
        if clip is not None:
            optim.clip_grad_norm(parallel, clip)
        optimizer.step()
    return parallel.arena.sha256(), losses, parallel.arena.data.copy()


# --- the gradient ------------------------------------------------------------------------------------------------


def test_uneven_shards_count_by_their_samples():
    """Three samples of gradient 1 and one of gradient 5 have the mean 2, and not the mean 3 of the shards' means."""
    model = Scalar()
    parallel = DistributedDataParallel(model, shards=2)
    loss = parallel.backward(batch_of([1.0, 1.0, 1.0], [5.0]), model.times)
    assert model.w.grad == 2.0 and loss == 4.0


def test_losses_of_each_sample_are_averaged():
    model = Scalar()
    parallel = DistributedDataParallel(model, shards=2)
    loss = parallel.backward(batch_of([1.0, 1.0, 1.0], [5.0]), lambda x: x * model.w)
    assert model.w.grad == 2.0 and loss == 4.0


def test_an_unused_parameter_has_gradient_zero():
    model = Scalar()
    parallel = DistributedDataParallel(model, shards=2)
    model.unused.sum().backward()
    parallel.backward(batch_of([1.0], [2.0]), model.times)
    assert model.unused.grad.tolist() == [0.0, 0.0]


def test_a_parameter_that_one_shard_uses_has_its_part_of_the_gradient():
    model = Scalar()
    parallel = DistributedDataParallel(model, shards=2)
    parallel.backward(
        batch_of([1.0, 1.0, 1.0], [5.0]),
        lambda x: model.times(x) + (model.unused.sum() if len(x) == 1 else 0.0),
    )
    assert model.w.grad == 2.0 and model.unused.grad.tolist() == [0.25, 0.25]


def test_shards_without_samples_count_nothing():
    model = Scalar()
    parallel = DistributedDataParallel(model, shards=4, noise=NoiseScale(decay=0.0))
    loss = parallel.backward(batch_of([1.0], [3.0], [], []), model.times)
    assert model.w.grad == 2.0 and loss == 4.0
    assert parallel.noise.trace == 2.0 and parallel.noise.signal == 3.0  # the variance of 1 and 3; 2^2 - 2 / 2


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 10])
def test_the_gradient_is_that_of_the_mean_over_the_batch(shards):
    model, plain = mlp(), mlp()
    parallel = DistributedDataParallel(model, shards=shards)
    loader = DataLoader((X, LABELS), 10, shards=shards)
    for step in range(5, 7):
        loss = parallel.backward(loader.batch(step), lambda x, y: ag.cross_entropy(model(x), y))
        at = loader.sampler.indices(step)
        plain.zero_grad()
        expected = ag.cross_entropy(plain(X[at]), LABELS[at])
        expected.backward()
        np.testing.assert_allclose(loss, expected.item(), rtol=1e-14)
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            np.testing.assert_allclose(p.grad, q.grad, rtol=0, atol=1e-15)
            assert shards > 1 or np.array_equal(p.grad, q.grad)


def test_a_gradient_that_is_looked_at_has_the_same_bits():
    """With a noise scale the gradients of each shard arrive in the arena; without, where the sum keeps them."""
    bits = []
    for noise in (None, NoiseScale()):
        model = mlp(dtype="float32")
        parallel = DistributedDataParallel(model, shards=7, noise=noise)
        for batch in DataLoader((X.astype("f"), LABELS), 50, shards=7).steps(0, 2):
            parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
            bits.append(parallel.arena.grad.tobytes())
    assert bits[:2] == bits[2:]


def test_a_failed_backward_leaves_gradients_to_arrive_in_the_arena():
    model = Scalar()
    parallel = DistributedDataParallel(model, shards=3)
    with pytest.raises(ZeroDivisionError):
        parallel.backward(batch_of([1.0], [1.0], [1.0]), lambda x: 1 / 0)
    parallel.arena.zero_grad()
    (model.w * 4.0).sum().backward()
    assert parallel.arena.grad[0] == 4.0 and model.w.grad[0] == 4.0


def test_a_backward_forgets_the_one_before():
    model = Scalar()
    parallel = DistributedDataParallel(model, shards=2)
    for _ in range(2):
        parallel.backward(batch_of([1.0], [2.0]), model.times)
        assert model.w.grad == 1.5


# --- ranks -------------------------------------------------------------------------------------------------------

GRID = [(8, 16), (6, 7), (5, 13), (7, 60)]  # logical shards, global batch


@pytest.mark.parametrize("shards, batch", GRID)
@pytest.mark.parametrize("dtype, dropout, clip", [("float64", 0.0, None), ("float32", 0.5, 0.1)])
def test_training_does_not_depend_on_the_number_of_ranks(shards, batch, dtype, dropout, clip, simulate):
    results = set()
    for ranks in (1, 2, 3, 4, 5):
        for sha256, losses, _ in simulate(ranks, lambda comm: train(comm, shards, batch, 9, dropout, clip, dtype)):
            results.add((sha256, *losses))
    assert len(results) == 1


def test_dropout_changes_the_training_and_the_seed_its_masks():
    """What makes the test above one of dropout: its masks are there, and differ from shard to shard."""
    model = mlp(0.5)
    parallel = DistributedDataParallel(model, shards=2)
    masks = []

    def loss(x):
        masks.append((ag.dropout(ag.tensor(np.ones((2, 100))), 0.5)).numpy().tobytes())
        return model(x).mean()

    for seed, step in [(0, 0), (0, 0), (1, 0), (0, 1)]:
        batch = batch_of(X[:2], X[2:4])
        batch.seed, batch.step = seed, step
        parallel.backward(batch, loss)
    assert masks[:2] == masks[2:4] and len(set(masks)) == 6


@pytest.mark.parametrize("ranks, each", [(2, 5), (4, 4)])
@pytest.mark.parametrize("reduce", ["canonical", "native"])
def test_ranks_times_their_batch_are_one_process_with_the_whole_batch(ranks, each, reduce, simulate):
    *_, alone = simulate(1, lambda comm: train(comm, 1, ranks * each))[0]
    for *_, weights in simulate(ranks, lambda comm: train(comm, ranks, ranks * each, reduce=reduce)):
        np.testing.assert_allclose(weights, alone, rtol=0, atol=1e-14)


def test_every_rank_starts_from_the_values_of_rank_0(simulate):
    def start(comm):
        model = mlp(seed=comm.rank)
        own = model(X).numpy()
        DistributedDataParallel(model, comm)
        return own, model(X).numpy()

    (first, _), *_ = results = simulate(3, start)
    for rank, (before, after) in enumerate(results):
        assert np.array_equal(after, first) and (rank == 0) == np.array_equal(before, first)


def test_a_graph_of_the_values_before_refuses_to_run_backward():
    model = mlp()
    loss = ag.cross_entropy(model(X), LABELS)
    DistributedDataParallel(model)
    with pytest.raises(RuntimeError, match="modified in place"):
        loss.backward()


@pytest.mark.parametrize(
    "build, text",
    [
        (
            lambda rank: nn.Linear(2, 3 + rank),
            r"rank 0 has 'weight' \[3, 2\] float32 where rank 1 has 'weight' \[4, 2\]",
        ),
        (lambda rank: nn.Linear(2, 3, bias=rank == 0), r"rank 0 has 'bias' \[3\] float32 where rank 1 has nothing"),
        (lambda rank: nn.Linear(2, 3, bias=rank > 0), r"rank 0 has nothing where rank 1 has 'bias' \[3\] float32"),
        (lambda rank: nn.Linear(2, 3).to(f"float{32 << rank}"), r"float32 where rank 1 has 'weight' \[3, 2\] float64"),
        (lambda rank: nn.Sequential(*[nn.ReLU()] * rank, nn.Linear(2, 3)), "'0.weight' .* rank 1 has '1.weight'"),
    ],
)
def test_models_that_differ_are_refused_on_every_rank(build, text, simulate):
    def start(comm):
        with pytest.raises(ConfigurationError, match=text) as caught:
            DistributedDataParallel(build(min(comm.rank, 1)), comm)
        return str(caught.value)

    assert len(set(simulate(3, start))) == 1


# --- errors ------------------------------------------------------------------------------------------------------


def test_a_loader_of_other_ranks_is_refused(simulate):
    def step(comm):
        parallel = DistributedDataParallel(Scalar(), comm, shards=4)
        batch = DataLoader((X,), 8, shards=4).batch(0)
        with pytest.raises(ConfigurationError, match=r"has to compute \[.*\]: give the same comm to DataLoader and"):
            parallel.backward(batch, parallel.model.times)

    simulate(2, step)


def test_refusals():
    model = Scalar()
    parallel = DistributedDataParallel(model, shards=2)
    for loss in (lambda x: (x * model.w).reshape(-1, 1), lambda x: (x * model.w)[:1]):
        with pytest.raises(
            ValueError, match=r"loss of a shard of 3 samples must be a mean .*, one number a sample, .*, got"
        ):
            parallel.backward(batch_of([1.0, 1.0, 1.0], [5.0]), loss)
    with pytest.raises(ConfigurationError, match="cut into 3 logical shards and the model expects 2"):
        parallel.backward(batch_of([1.0], [1.0], [1.0]), model.times)
    with pytest.raises(ConfigurationError, match="canonical, native or adasum, got 'fast'"):
        DistributedDataParallel(Scalar(), reduce="fast")
