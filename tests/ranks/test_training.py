"""Training on the ranks of this launch, beside the same training in this process alone."""

import json

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.arrays import to_numpy
from allgrad.autograd.random import generator
from allgrad.ddp import (
    Communicator,
    ConfigurationError,
    DataLoader,
    DistributedDataParallel,
    NoiseScale,
    Placement,
    Trainer,
    evaluate,
)
from allgrad.ddp.trainer import checkpoint

X = generator("ranks").standard_normal((82, 6)).astype("f4")
LABELS = np.arange(82) % 3


def mlp(seed, dropout=0.0):
    ag.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def metrics_of(model):
    def metrics(x, y):
        logits = model(x)
        return {"loss": ag.cross_entropy(logits, y, "none"), "accuracy": logits.argmax(1) == y}

    return metrics


def normalised(seed):
    ag.manual_seed(seed)
    first = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4), nn.BatchNorm1d(4, momentum=None)
    return nn.Sequential(*first, nn.Tanh(), nn.Linear(4, 3))


def trainer_of(
    comm, *, shards, batch, dropout=0.0, rule=optim.Adam, reduce="canonical", steps=20, out=None, model=None,
    device="numpy", noise=True, **way,
):  # fmt: skip
    model = (model or mlp(0, dropout)).to(device=device)
    parallel = DistributedDataParallel(model, comm, shards, reduce=reduce, noise=NoiseScale() if noise else None, **way)
    optimizer = rule(parallel, 0.1)
    loader = DataLoader((X, LABELS), batch, comm, shards, place=Placement(device))
    return Trainer(
        parallel, optimizer, loader, lambda x, y: ag.cross_entropy(model(x), y), metrics_of(model),
        validation=(X[:30], LABELS[:30]), steps=steps, out=out, clip=0.5, checkpoint_every=7,
    )  # fmt: skip


@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("rule", [optim.SGD, optim.Adam])
@pytest.mark.parametrize("shards, batch, dropout", [(6, 24, 0.0), (7, 33, 0.5), (8, 100, 0.5)])
def test_20_steps_are_bit_for_bit_those_of_one_process(comm, rule, shards, batch, dropout, device):
    options = {"rule": rule, "shards": shards, "batch": batch, "dropout": dropout, "device": device}
    together, alone = (trainer_of(c, **options).fit() for c in (comm, Communicator()))
    for key in ("weights_sha256", "train_loss", "val_loss", "val_accuracy", "noise_scale", "samples_seen"):
        assert together[key] == alone[key]
    assert (together["world_size"], alone["world_size"]) == (comm.size, 1)


@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("shards, batch", [(6, 24), (7, 33), (8, 100)])
@pytest.mark.parametrize(
    "way",
    [{"wire": "float16"}, {"wire": "bfloat16"}, {"compress": "topk:0.2"}, {"compress": "powersgd:2"},
     {"reduce": "adasum"}],
    ids=str,
)  # fmt: skip
def test_whatever_is_sent_the_bits_are_those_of_one_process(comm, way, shards, batch, device):
    options = {"shards": shards, "batch": batch, "device": device, "noise": False, **way}
    plain = {name: value for name, value in options.items() if name not in way}
    runs = (comm, options), (Communicator(), options), (Communicator(), plain)
    together, alone, exact = (trainer_of(c, **given).fit() for c, given in runs)
    assert together["weights_sha256"] == alone["weights_sha256"] != exact["weights_sha256"]
    assert (together["bytes_per_step"] > 0) == (comm.size > 1) and alone["bytes_per_step"] == 0


@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_local_steps_are_averaged(comm, device):
    """After every step, with plain SGD: that is synchronous SGD. After more of them, all ranks have the same."""
    options = {"shards": comm.size, "batch": 33, "rule": optim.SGD, "device": device, "noise": False, "steps": 7}
    exact, each, some = (trainer_of(comm, **options, **way) for way in ({}, {"sync_every": 1}, {"sync_every": 3}))
    for trainer in (exact, each, some):
        trainer.clip = None
        assert len({*comm.all_gather_object(trainer.fit()["weights_sha256"])}) == 1
    assert np.abs(np.asarray(each.parallel.arena.data - exact.parallel.arena.data)).max() < 1e-6


@pytest.mark.parametrize("way", [{}, {"batch_norm": "sync", "noise": False}], ids=str)
def test_batch_norm_trains_bit_for_bit_as_in_one_process(comm, directory, way):
    """Weights and running statistics, from other values on every rank, and again after going on from the middle."""

    def states(comm, seed, *lengths, out=None):
        for steps in lengths:
            options = {"shards": 7, "batch": 33, "steps": steps, "out": out, "model": normalised(seed), **way}
            trainer = trainer_of(comm, **options)
            trainer.resumes = True
            if out is not None and (saved := checkpoint.load_latest(out / "checkpoints")):
                trainer.restore(saved)
            comm.barrier()  # all have read it
            trainer.fit()
            yield {name: a.tobytes() for name, a in trainer.model.state_dict().items()}

    (alone,) = states(Communicator(), 0, 20)
    assert [*states(comm, comm.rank, 20)] == [alone]
    assert [*states(comm, comm.rank, 8, 20, out=directory)][1] == alone
    assert np.frombuffer(alone["4.num_batches_tracked"], np.int64) == 20


def test_synchronised_batch_norm_takes_ranks_without_samples_along(comm):
    """The last batch of an epoch has 2 samples, in the first 2 of 7 shards."""
    options = {"shards": 7, "batch": 10, "batch_norm": "sync", "noise": False}
    together, alone, apart = (
        trainer_of(c, **{**options, **way}, model=normalised(0))
        for c, way in ((comm, {}), (Communicator(), {}), (Communicator(), {"shards": 1}))
    )
    assert together.fit()["weights_sha256"] == alone.fit()["weights_sha256"] != apart.fit()["weights_sha256"]


def test_native_training_agrees_within_rounding(comm):
    exact, native = (
        trainer_of(comm, shards=7, batch=33, rule=optim.SGD, reduce=way) for way in ("canonical", "native")
    )
    for trainer in (exact, native):
        trainer.fit()
    np.testing.assert_allclose(native.parallel.arena.data, exact.parallel.arena.data, rtol=0, atol=1e-5)


def test_every_rank_starts_from_the_values_of_rank_0(comm):
    model = mlp(seed=comm.rank)
    own = np.concatenate([p.data.ravel() for p in model.parameters()])
    DistributedDataParallel(model, comm)
    now = np.concatenate([p.data.ravel() for p in model.parameters()])
    assert np.array_equal(now, np.concatenate([p.data.ravel() for p in mlp(seed=0).parameters()]))
    assert np.array_equal(now, own) == (comm.rank == 0)


@pytest.mark.parametrize("build", [lambda rank: nn.Linear(2, 3 + rank), lambda rank: nn.Linear(2, 3, bias=rank == 0)])
def test_models_that_differ_are_refused_alike_on_every_rank(comm, build):
    if comm.size > 1:
        with pytest.raises(ConfigurationError, match=r"models differ .*: rank 0 has .* where rank 1") as error:
            DistributedDataParallel(build(comm.rank), comm)
        assert len({*comm.all_gather_object(str(error.value))}) == 1


def test_too_few_shards_are_refused_on_every_rank(comm):
    if comm.size > 1:
        with pytest.raises(ConfigurationError, match=f"{comm.size} ranks cannot share 1 logical shard:"):
            DistributedDataParallel(mlp(0), comm, shards=1)


def test_the_mean_of_a_metric_over_82_samples_is_that_of_one_process(comm):
    model = mlp(0)
    for shards, batch in [(comm.size, 1024), (7, 10), (90, 100)]:
        together, alone = (
            evaluate(model, (X, LABELS), metrics_of(model), c, shards, batch) for c in (comm, Communicator())
        )
        assert together == alone
    logits = model(X).numpy()
    assert together["accuracy"] == np.mean(logits.argmax(1) == LABELS)


def test_only_rank_0_writes_and_all_can_go_on(comm, directory):
    options = {"shards": 7, "batch": 33, "dropout": 0.5}
    trainer_of(comm, steps=11, out=directory / str(comm.rank), **options).fit()
    comm.barrier()
    assert [path.name for path in directory.iterdir()] == ["0"]
    out = directory / "0"
    assert {path.name for path in out.iterdir()} == {"metrics.jsonl", "summary.json", "checkpoints"}
    again, undisturbed = trainer_of(comm, out=out, **options), trainer_of(Communicator(), **options)
    again.restore(checkpoint.load_latest(out / "checkpoints"))
    comm.barrier()  # all have read it
    assert again.fit()["weights_sha256"] == undisturbed.fit()["weights_sha256"]
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [3, 6, 9, 10, 11, 12, 15, 18, 20]


def test_an_error_in_the_training_is_raised_where_it_happens(comm):
    """The ranks meet in the exchange only: what the last one finds wrong before, it raises alone."""
    trainer = trainer_of(comm, shards=7, batch=33)
    trainer.loss = lambda x, y: ag.cross_entropy(trainer.model(x), y, "none").reshape(-1, 1)
    with pytest.raises(ValueError, match=r"the loss of a shard of [45] samples must be a mean"):
        trainer.fit()


# --- the unit of a loss ----------------------------------------------------------------------------------------------

SEQUENCES, TOKENS = 11, 4
TOKEN_X = generator("tokens").standard_normal((SEQUENCES, TOKENS, 6)).astype("f4")
TOKEN_LABELS = np.where(np.arange(TOKENS) < (np.arange(SEQUENCES) * 3 % 5)[:, None], np.arange(TOKENS) % 3, -100)


def token_gradient(comm, device, weight, way):
    """(loss, noise scale's trace, flat gradient) of a batch of which some labels are ignored and classes weighted."""
    model = mlp(1).to(device=device)
    parallel = DistributedDataParallel(model, comm, 7, noise=NoiseScale(decay=0.0), **way)
    loader = DataLoader((TOKEN_X, TOKEN_LABELS), SEQUENCES, comm, 7, shuffle="never", place=Placement(device))

    def loss(x, y):
        return ag.cross_entropy(model(x.reshape(-1, 6)), y.reshape(-1), weight=weight)

    value = parallel.backward(loader.batch(0), loss)
    return value, parallel.noise.trace, to_numpy(parallel.arena.grad).copy()


@pytest.mark.parametrize(
    ("device", "way"), [("numpy", {}), ("numpy", {"overlap": "bucket", "bucket": 64}), ("cpu", {})]
)
@pytest.mark.parametrize("weight", [None, np.array([0.3, 2.0, 1.1], "f4")], ids=["ignored", "weighted"])
def test_labels_that_count_make_one_mean_over_all_ranks(comm, device, weight, way):
    value, trace, gradient = token_gradient(comm, device, weight, way)
    alone_value, alone_trace, alone_gradient = token_gradient(Communicator(), device, weight, way)
    assert (value, trace) == (alone_value, alone_trace) and np.array_equal(gradient, alone_gradient)
    if device == "numpy":  # the whole batch at once, without shards
        model = mlp(1)
        loss = ag.cross_entropy(model(TOKEN_X.reshape(-1, 6)), TOKEN_LABELS.reshape(-1), weight=weight)
        loss.backward()
        parallel = DistributedDataParallel(model, None, 1)
        np.testing.assert_allclose(value, loss.item(), rtol=1e-6)
        np.testing.assert_allclose(gradient, parallel.arena.grad, rtol=0, atol=1e-6)
