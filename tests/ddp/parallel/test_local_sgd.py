"""Local SGD: when it is synchronous SGD, what is averaged and what is not, and how it goes on."""

import json

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import ConfigurationError, DataLoader, DistributedDataParallel, LossScale, Trainer
from allgrad.ddp.trainer import checkpoint as checkpoints

X = generator("local").standard_normal((50, 6))
LABELS = np.arange(50) % 3
STEPS = 9


def trainer_of(comm, *, momentum=0.0, steps=STEPS, out=None, norm=False, rule=None, log_every=4, **options):
    ag.manual_seed(comm.rank)
    layers = [nn.Linear(6, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.Tanh(), nn.Linear(8, 3)]
    model = nn.Sequential(*layers).to("float64")
    parallel = DistributedDataParallel(model, comm, **options)
    optimizer = (rule or (lambda p: optim.SGD(p, 0.3, momentum)))(parallel)
    loader = DataLoader((X, LABELS), 11 if norm else 7, comm)  # uneven shards; without norm also empty ones
    metrics = lambda x, y: {"loss": ag.cross_entropy(model(x), y, "none")}
    return Trainer(
        parallel, optimizer, loader, lambda x, y: ag.cross_entropy(model(x), y), metrics, steps=steps, out=out,
        resumes=True, validation=(X[:9], LABELS[:9]), log_every=log_every,
    )  # fmt: skip


def weights(comm, **options):
    """(parameters, running statistics, summary) of a run."""
    trainer = trainer_of(comm, **options)
    summary = trainer.fit()
    return trainer.parallel.arena.data.copy(), trainer.parallel.statistics.read(), summary


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("norm", [False, True])
def test_averaging_after_every_step_is_synchronous_sgd(ranks, norm, simulate):
    """With plain SGD, uneven shards and an epoch's short last batch included."""
    for one, other in zip(
        simulate(ranks, lambda c: weights(c, norm=norm)), simulate(ranks, lambda c: weights(c, norm=norm, sync_every=1))
    ):
        np.testing.assert_allclose(other[0], one[0], rtol=0, atol=1e-13)
        np.testing.assert_allclose(other[1], one[1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("every", [1, 2, 4, 100])
def test_one_rank_is_sgd_bit_for_bit(every, simulate):
    runs = [
        simulate(1, lambda c: weights(c, momentum=0.9, **options))[0]
        for options in ({}, {"sync_every": every}, {"sync_every": every, "sync_after": 3})
    ]
    assert len({summary["weights_sha256"] for *_, summary in runs}) == 1


def by_hand(ranks, every, momentum, after=0):
    """Local SGD by its definition: the mean parameters in the end; shards as the loader cuts them."""
    loader = DataLoader((X, LABELS), 7, shards=ranks)
    ag.manual_seed(0)
    start = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to("float64")
    w = [[p.data.copy() for p in start.parameters()] for _ in range(ranks)]
    v = [[0.0 * p for p in one] for one in w]
    seen = np.zeros(ranks)

    def mean():
        share = seen / seen.sum()
        return [sum(s * one[i] for s, one in zip(share, w)) for i in range(len(w[0]))]

    for step in range(STEPS):
        batch = loader.batch(step)
        gradients = []
        for shard in batch.shards:
            for p, values in zip(start.parameters(), w[shard.index]):
                p.assign(values)
            start.zero_grad()
            if len(shard):
                ag.cross_entropy(start(shard.arrays[0]), shard.arrays[1]).backward()
            gradients.append([p.grad.copy() if len(shard) else 0.0 * p.data for p in start.parameters()])
        if step < after:
            shares = [len(shard) / batch.size for shard in batch.shards]
            gradients = [[sum(s * g[i] for s, g in zip(shares, gradients)) for i in range(len(w[0]))]] * ranks
        else:
            seen += [len(shard) for shard in batch.shards]
        for r in range(ranks):
            for i, g in enumerate(gradients[r]):
                v[r][i] = momentum * v[r][i] + g
                w[r][i] = w[r][i] - 0.3 * v[r][i]
        if step >= after and (step + 1 - after) % every == 0:
            w, seen = [mean()] * ranks, np.zeros(ranks)
            w = [list(one) for one in w]
    return mean() if seen.any() else w[0]


@pytest.mark.parametrize("ranks, every, after", [(2, 2, 0), (2, 4, 3), (3, 3, 0), (3, 5, 2), (2, 100, 0), (2, 2, 100)])
def test_it_is_its_definition(ranks, every, after, simulate):
    expected = by_hand(ranks, every, 0.9, after)

    def run(comm):
        trainer = trainer_of(comm, momentum=0.9, sync_every=every, sync_after=after)
        trainer.fit()
        return [p.data.copy() for p in trainer.model.parameters()]

    for found in simulate(ranks, run):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)


def test_steps_together_are_those_of_the_exchange_bit_for_bit(simulate):
    plain = simulate(3, lambda c: weights(c, momentum=0.9))
    together = simulate(3, lambda c: weights(c, momentum=0.9, sync_every=2, sync_after=STEPS))
    local = simulate(3, lambda c: weights(c, momentum=0.9, sync_every=2))
    assert {run[2]["weights_sha256"] for run in plain + together} == {plain[0][2]["weights_sha256"]}
    assert {run[2]["weights_sha256"] for run in local} != {plain[0][2]["weights_sha256"]}


def test_looking_changes_nothing(simulate, tmp_path):
    def run(comm, **how):
        trainer = trainer_of(comm, momentum=0.9, sync_every=4, norm=True, out=tmp_path / str(len(how)), log_every=1)
        for name, value in how.items():
            setattr(trainer, name, value)
        return trainer.fit()["weights_sha256"]

    plain = {*simulate(3, run)}
    assert plain == {*simulate(3, lambda c: run(c, eval_every=1, checkpoint_every=1, log_every=1))} and len(plain) == 1


@pytest.mark.parametrize("stop", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("rule", [None, lambda p: optim.Adam(p, 0.01)])
def test_going_on_gives_the_run_that_was_never_stopped(stop, rule, tmp_path, simulate):
    options = {"momentum": 0.9, "sync_every": 3, "sync_after": 1, "norm": True, "rule": rule}

    def run(comm):
        return trainer_of(comm, **options).fit()["weights_sha256"]

    def go_on(comm):
        trainer_of(comm, steps=stop, out=tmp_path, **options).fit()
        trainer = trainer_of(comm, **options)
        trainer.restore(checkpoints.load_latest(tmp_path / "checkpoints"))
        return trainer.fit()["weights_sha256"]

    assert {*simulate(3, run)} == {*simulate(3, go_on)}

    def fewer(comm):
        trainer = trainer_of(comm, **options)
        with pytest.raises(ConfigurationError, match="has local steps of 3 ranks, and 2 are there: start as many as"):
            trainer.restore(checkpoints.load_latest(tmp_path / "checkpoints"))

    simulate(2, fewer)


def test_bytes_are_sent_only_to_average(simulate):
    def sent(comm, every):
        trainer = trainer_of(comm, steps=8, **({"sync_every": every} if every else {}))
        return trainer.fit()["bytes_per_step"], trainer.parallel.arena.data.nbytes

    for every in (1, 2, 4, 8):
        assert {bytes_per_step * every / size for bytes_per_step, size in simulate(2, lambda c: sent(c, every))} == {1}
    assert {a > b for a, b in simulate(2, lambda c: sent(c, None))} == {True}  # and what rides along


def test_the_loss_is_that_of_all_samples(simulate, tmp_path):
    """With a learning rate of 0 the mean over a window is that of a synchronous run."""
    rule = lambda p: optim.SGD(p, 0.0)
    for name, options in {"a": {}, "b": {"sync_every": 2}, "c": {"sync_every": 2, "sync_after": 3}}.items():
        simulate(3, lambda c: weights(c, rule=rule, out=tmp_path / name, **options))
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in "abc"
    ]
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-14)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"shards": 2}, "sync_every takes local steps .* as many logical shards as ranks: got 2 shards on 1 rank"),
        ({"sync_every": 0}, "sync_every is at least 1 and sync_after at least 0, got 0 and 0"),
        ({"sync_every": None, "sync_after": 5}, "sync_after=5 has no effect without sync_every"),
        ({"wire": "float16"}, "sync_every=2 sends parameters, and wire='float16' is for gradients"),
        ({"reduce": "adasum"}, "sync_every=2 sends parameters, and reduce='adasum' is for gradients"),
        ({"scale": LossScale()}, "sync_every=2 would keep what overflows in float16"),
    ],
)
def test_refusals(options, text):
    with pytest.raises(ConfigurationError, match=text):
        DistributedDataParallel(nn.Linear(2, 2), **{"sync_every": 2, **options})
