"""Top-k and PowerSGD: what they send, what they keep for later, and the same bits on any number of ranks."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.arena import Arena
from allgrad.autograd.random import generator
from allgrad.ddp import (
    Communicator,
    ConfigurationError,
    DataLoader,
    DistributedDataParallel,
    Exchange,
    LossScale,
    NoiseScale,
    Trainer,
)
from allgrad.ddp.reduce import compression, gradient_sum, sparse_sum
from allgrad.ddp.trainer import checkpoint as checkpoints

X = generator("compression").standard_normal((50, 20)).astype("f4")
LABELS = np.arange(50) % 3
WAYS = ["topk:0.1", "powersgd:1", "powersgd:2"]


def parameters(dtype="float64"):
    """Two matrices, of which one lies transposed in memory, a stack of kernels, and two vectors."""
    ag.manual_seed(0)
    one, two = nn.Linear(14, 9), nn.Conv2d(3, 8, 3)
    plain = nn.Parameter(np.zeros((10, 12)), dtype)
    model = nn.Sequential(one, two).to(dtype)
    return {**dict(model.named_parameters()), "plain": plain}


def summed(way, gradients, comm=None, steps=1, dtype="float64"):
    """(arena, what adds up, [message of each step]); gradients: {shard: flat array} of a step, or f(step) of them."""
    arena, results = Arena(parameters(dtype)), []
    total = gradient_sum(arena, comm or Communicator(), len(gradients(0)), Exchange(compress=way))
    for step in range(steps):
        leaves = gradients(step)
        for shard in range(total.first, total.stop):
            arena.message[...] = leaves[shard]
            total.push(shard, arena.message)
        total.finish(arena.message)
        results.append(arena.message.copy())
    return arena, total, results


def whole_numbers(shards, rng=None):
    rng = rng or generator("whole", shards)
    length = len(Arena(parameters()).message)
    return rng.integers(-50, 50, (shards, length)).astype("f8")


def test_what_is_compressed():
    arena = Arena(parameters())
    total = compression("powersgd:2")(arena, Communicator(), 1)
    shapes = {name: shape for name, (_, *shape) in total.chosen.items()}
    assert {name: sorted(shape) for name, shape in shapes.items()} == {
        "0.weight": [9, 14], "1.weight": [8, 27], "plain": [10, 12]
    }  # fmt: skip
    assert not compression("powersgd:100")(arena, Communicator(), 1).chosen  # of full rank: no gain


@pytest.mark.parametrize("way", ["topk:1.0", "topk:0.5", "powersgd:50"])
@pytest.mark.parametrize("shards", [1, 3, 4])
def test_what_would_send_as_much_as_the_gradient_is_the_exact_sum(way, shards, tree):
    leaves = generator("full", shards).standard_normal((shards, len(Arena(parameters()).message)))
    *_, (result,) = summed(way, lambda step: leaves)
    np.testing.assert_array_equal(result, tree(list(leaves)))


@pytest.mark.parametrize("shards", [1, 3, 4, 7])
def test_topk_of_sparse_gradients_is_the_exact_sum(shards, tree):
    """At most a tenth of the elements is not zero: all of them are sent, and added in the order of the tree."""
    leaves = generator("sparse", shards).standard_normal((shards, len(Arena(parameters()).message)))
    leaves[:, ::10] *= 1e6
    keep = np.zeros(leaves.shape[1], bool)
    keep[::10] = True
    leaves *= keep
    _, total, (result,) = summed("topk:0.12", lambda step: leaves)
    np.testing.assert_array_equal(result, tree(list(leaves)))
    assert total.chosen and not total.residuals.any()


@pytest.mark.parametrize("shards, count", [(1, 4), (2, 5), (3, 7), (8, 3), (9, 20)])
def test_the_sparse_sum_is_the_tree_of_the_dense_arrays(shards, count, tree):
    rng = generator("sparse sum", shards)
    index = np.array([np.sort(rng.permutation(20)[:count]) for _ in range(shards)], "i4")
    value = (rng.standard_normal((shards, count)) * 10.0 ** rng.integers(-3, 4, (shards, count))).astype("f4")
    dense = np.zeros((shards, 20), "f4")
    np.put_along_axis(dense, index.astype(int), value, 1)
    found = np.zeros(20, "f4")
    at, values = sparse_sum(index, value)
    assert len({*at.tolist()}) == len(at)
    found[at] = values
    np.testing.assert_array_equal(found, tree(list(dense)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shards", [1, 3])
def test_sent_and_residual_are_the_sum_of_the_gradients(way, shards):
    rng = generator("feedback")
    steps = [whole_numbers(shards, rng) for _ in range(9)]
    _, total, results = summed(way, steps.__getitem__, steps=9)
    expected, found = sum(step.sum(0) for step in steps), sum(results)
    for (span, *_), part in zip(total.chosen.values(), total.parts, strict=True):
        found[span] += total.residuals[:, part].sum(0)
    if way.startswith("topk"):
        np.testing.assert_array_equal(found, expected)  # whole numbers: no addition rounds
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert total.residuals.any()


def test_topk_sends_the_largest_of_each_matrix():
    leaves = whole_numbers(1)
    _, total, (result,) = summed("topk:0.1", lambda step: leaves)
    for span, rows, columns in total.chosen.values():
        sent, size = result[span], rows * columns
        assert np.count_nonzero(sent) == -(-size // 10)
        assert np.abs(sent[sent != 0]).min() >= np.abs(leaves[0][span][sent == 0]).max()
        assert np.array_equal(sent[sent != 0], leaves[0][span][sent != 0])
    for rest in total.rest:
        np.testing.assert_array_equal(result[rest], leaves[0][rest])


def test_powersgd_of_rank_r_finds_sums_of_rank_r():
    """Matrices u_v w^T of three shards with one w: their sum has rank one, and one step finds it."""
    rng = generator("rank one")
    arena = Arena(parameters())
    total = compression("powersgd:1")(arena, Communicator(), 3)
    leaves = np.zeros((3, len(arena.message)))
    for span, rows, columns in total.chosen.values():
        w = rng.standard_normal(columns)
        for leaf in leaves:
            leaf[span] = np.outer(rng.standard_normal(rows), w).reshape(-1)
    *_, results = summed("powersgd:1", lambda step: leaves, steps=4)
    for result in results:
        np.testing.assert_allclose(result, leaves.sum(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_a_constant_gradient_arrives_in_the_mean(way):
    leaf = generator("constant").standard_normal((1, len(Arena(parameters()).message)))
    *_, results = summed(way, lambda step: leaf, steps=400)
    error = [np.abs(sum(results[:n]) / n - leaf[0]).max() for n in (4, 40, 400)]
    assert error[0] > 4 * error[1] > 16 * error[2] and error[2] < 0.2


def test_powersgd_recovers_from_a_gradient_of_zero():
    """A basis of zeros would stay so for ever."""
    leaf = generator("zero").standard_normal((1, len(Arena(parameters()).message)))
    _, total, results = summed("powersgd:1", lambda step: leaf * (step > 0), steps=3)
    for span, *_ in total.chosen.values():
        assert not results[0][span].any() and results[1][span].any()


def model_of(seed):
    ag.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 24), nn.Tanh(), nn.Dropout(0.2), nn.Linear(24, 3))


def trainer_of(comm, way, steps=9, out=None, shards=5, dtype="float32", **options):
    model = model_of(comm.rank).to(dtype)
    parallel = DistributedDataParallel(model, comm, shards, compress=way, **options)
    loader = DataLoader((X.astype(dtype), LABELS), 13, comm, shards)

    def metrics(x, y):
        return {"loss": ag.cross_entropy(model(x), y, "none")}

    loss = lambda x, y: ag.cross_entropy(model(x), y)
    return Trainer(
        parallel, optim.SGD(parallel, 0.1, momentum=0.9), loader, loss, metrics, steps=steps, out=out, resumes=True
    )


@pytest.mark.parametrize("way", WAYS)
def test_training_does_not_depend_on_the_ranks_and_goes_on_anywhere(way, tmp_path, simulate):
    def run(comm, stop):
        out = tmp_path / f"{comm.size}-{stop}"
        if stop:
            trainer_of(comm, way, stop, out).fit()
            again = trainer_of(comm, way, 9, out)
            again.restore(checkpoints.load_latest(out / "checkpoints"))
            return again.fit()["weights_sha256"]
        return trainer_of(comm, way).fit()["weights_sha256"]

    found = {sha for ranks in (1, 2, 3, 5) for stop in (0, 4) for sha in simulate(ranks, lambda c: run(c, stop))}
    assert len(found) == 1
    trainer_of(Communicator(), way, 4, tmp_path / "four").fit()

    def go_on(comm):
        trainer = trainer_of(comm, way)
        trainer.restore(checkpoints.load_latest(tmp_path / "four" / "checkpoints"))
        return trainer.fit()["weights_sha256"]

    assert {*simulate(3, go_on)} == found
    assert trainer_of(Communicator(), None).fit()["weights_sha256"] not in found


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_is_left_out_leaves_no_residual_that_is_no_number(way):
    trainer = trainer_of(Communicator(), way, steps=8)
    trainer.skips.on_nonfinite, usual = "skip", trainer.loss

    def loss(x, y):
        return usual(x, y) * (np.float32(np.nan) if trainer.step == 2 else np.float32(1.0))

    trainer.loss = loss
    assert trainer.fit()["skipped_steps"] == 1
    assert np.isfinite(trainer.parallel.gradient_sum.residuals).all()


def test_less_is_sent(simulate):
    def sent(way):
        return simulate(2, lambda comm: trainer_of(comm, way, shards=2).fit()["bytes_per_step"])[0]

    arena = Arena(model_of(0))
    assert sent(None) == arena.message.nbytes == 4 * (480 + 32 + 80 + 16 + 8 + 4)
    rest, counts = len(arena.message) - 480 - 72, (48, 8)
    assert sent("topk:0.1") == 4 * rest + 8 * sum(counts)
    assert sent("powersgd:1") == 4 * (rest + 44 + 27)


def test_a_checkpoint_without_residuals_is_refused(tmp_path):
    trainer_of(Communicator(), None, 2, tmp_path).fit()
    trainer = trainer_of(Communicator(), "topk:0.1")
    with pytest.raises(ConfigurationError, match="checkpoint is that of another way to exchange gradients"):
        trainer.restore(checkpoints.load_latest(tmp_path / "checkpoints"))


@pytest.mark.parametrize("text", ["topk", "topk:0", "topk:1.5", "topk:nan", "powersgd:0", "powersgd:1.5", "sign:1"])
def test_texts_that_say_nothing(text):
    with pytest.raises(ConfigurationError, match=f"compress='{text}' is not topk:SHARE"):
        DistributedDataParallel(model_of(0), compress=text)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"reduce": "native"}, "compress='topk:0.1' sends what reduce='native' cannot take"),
        ({"reduce": "adasum"}, "compress='topk:0.1' sends what reduce='adasum' cannot take"),
        ({"wire": "bfloat16"}, "compress='topk:0.1' sends what wire='bfloat16' cannot take"),
        ({"scale": LossScale()}, "compress='topk:0.1' would keep what overflows in float16: give dtype='bfloat16'"),
        ({"noise": NoiseScale()}, "a NoiseScale needs the exact gradient, which compress='topk:0.1' does not compute"),
        ({"sync_every": 2}, "sync_every=2 sends parameters, and compress='topk:0.1' is for gradients: leave out"),
    ],
)
def test_refusals(options, text):
    with pytest.raises(ConfigurationError, match=text):
        DistributedDataParallel(model_of(0), compress="topk:0.1", **options)
