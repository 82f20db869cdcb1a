"""What ranks find out about each other: calls that differ, parameters that differ, gradients that are not finite."""

import math
import sys
import threading
import time

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.ddp import (
    ArrayDataset,
    ConfigurationError,
    DataLoader,
    DistributedDataParallel,
    Diverged,
    LossScale,
    NoiseScale,
    OutOfStep,
    ShardSum,
    Trainer,
)
from allgrad.ddp.comm import KNOWN, Communicator, activity, place
from allgrad.ddp.trainer import checkpoint

# --- calls -------------------------------------------------------------------------------------------------------


def both_fail(simulate, calls, ranks=2):
    """The text that every rank raises, when rank r makes calls[r]."""

    def run(comm):
        comm.all_reduce(np.ones(3, "f4"))
        with pytest.raises(ConfigurationError) as caught:
            calls[min(comm.rank, len(calls) - 1)](comm)
        assert activity.inside is None
        return str(caught.value)

    (text,) = {*simulate(ranks, run)}
    return text


f4, f8 = np.ones(4, "f4"), np.ones(4)
DIFFERENT = {
    "shape": [lambda c: c.all_reduce(f4.copy()), lambda c: c.all_reduce(f4[:3].copy())],
    "dtype": [lambda c: c.all_reduce(f4.copy()), lambda c: c.all_reduce(f8.copy())],
    "operation": [lambda c: c.all_reduce(f4.copy()), lambda c: c.broadcast(f4.copy())],
    "root": [lambda c: c.broadcast(f4.copy(), 0), lambda c: c.broadcast(f4.copy(), 1)],
    "object's root": [lambda c: c.broadcast_object(1, 0), lambda c: c.broadcast_object(1, 1)],
    "barrier": [lambda c: c.barrier(), lambda c: c.all_gather_object(1)],
}
SEEN = {
    "shape": ["rank 1 calls all_reduce of float32 (3,)", "rank 0 calls all_reduce of float32 (4,)"],
    "dtype": ["rank 1 calls all_reduce of float64 (4,)", "rank 0 calls all_reduce of float32 (4,)"],
    "operation": ["rank 1 calls broadcast of float32 (4,) from rank 0", "rank 0 calls all_reduce of float32 (4,)"],
    "root": [
        "rank 1 calls broadcast of float32 (4,) from rank 1",
        "rank 0 calls broadcast of float32 (4,) from rank 0",
    ],
    "object's root": ["rank 1 calls broadcast_object from rank 1", "rank 0 calls broadcast_object from rank 0"],
    "barrier": ["rank 1 calls all_gather_object", "rank 0 calls barrier"],
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_calls_that_differ_are_refused_alike_on_every_rank(case, simulate):
    for ranks in (2, 3):
        text = both_fail(simulate, DIFFERENT[case], ranks)
        assert not [part for part in SEEN[case] if part not in text], text
        assert text.count(f"{__file__}:") == 2  # where each of the two is


def test_a_call_more_on_one_rank_is_noticed_by_the_next_comparison(simulate):
    again = lambda c: c.all_reduce(np.ones(3, "f4"))

    def run(comm):
        for _ in range(3):
            again(comm)
        if comm.rank:
            comm.count += 1  # as one that was not compared would
        with pytest.raises(
            ConfigurationError, match=r"rank 1 calls barrier \(its call 5\) .* calls barrier \(its call 4"
        ):
            comm.barrier()

    simulate(2, run)


def test_sums_of_different_layouts_are_refused(simulate):
    for lengths, canonical in (([3, 4], [True] * 2), ([3, 3], [True, False])):

        def run(comm):
            total = ShardSum(comm, 2, canonical[comm.rank])
            array = np.ones(lengths[comm.rank])
            total.push(comm.rank, array)
            with pytest.raises(ConfigurationError, match=r"rank 1 calls a sum of float64 .* over 2 shards"):
                total.finish(array)

        simulate(2, run)


def test_what_was_compared_is_not_compared_again_and_little_is_remembered(simulate):
    def run(comm):
        gathered = 0
        gather = comm._gather

        def counting(value):
            nonlocal gathered
            gathered += 1
            return gather(value)

        comm._gather = counting
        for length in range(KNOWN + 10):
            comm.compare("call", np.empty(length))
        assert len(comm._known) == 10 and gathered == KNOWN + 10
        for _ in range(20):
            comm.compare("call", f4)
            comm.compare("call", f8)
        assert gathered == KNOWN + 13  # f4 after another, f8 after f4, f4 after f8

    simulate(2, run)


def test_one_rank_compares_nothing():
    comm = Communicator()
    comm.all_reduce(f4)
    assert comm.broadcast_object("x") == "x" and comm.all_gather_object(1) == [1] and activity.inside is None


def test_the_place_is_that_of_the_users_code():
    assert place().startswith(f"{__file__}:") and place().endswith("in test_the_place_is_that_of_the_users_code")
    stop = threading.Event()

    def wait():
        stop.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    for _ in range(1000):  # until it waits
        found = place(sys._current_frames()[thread.ident or 0], whole=True)
        if "in wait, in " in found:
            break
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert found.startswith(f"{__file__}:") and " in wait, in " in found and "threading.py:" in found


# --- parameters --------------------------------------------------------------------------------------------------


X = np.linspace(-1, 1, 24, dtype="f4").reshape(12, 2)
Y = np.arange(12) % 3


def trainer_of(comm=None, *, shards=3, noise=True, scale=None, spoil=None, lr=0.1, **options):
    """A small training; spoil(trainer, x) may change the logits of a shard."""
    ag.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    comm = comm or Communicator()
    parallel = DistributedDataParallel(model, comm, shards, noise=NoiseScale() if noise else None, scale=scale)

    def loss(x, y):
        factor = spoil(trainer, x) if spoil and model.training else 1.0
        return ag.cross_entropy(model(x * factor), y)

    metrics = lambda x, y: {"loss": ag.cross_entropy(model(x), y, "none")}
    loader = DataLoader((X, Y), 6, comm, shards)
    options = {"steps": 8, "validation": ArrayDataset(X, Y), **options}
    trainer = Trainer(parallel, optim.SGD(parallel, lr), loader, loss, metrics, **options)
    return trainer


@pytest.mark.parametrize(
    "ranks, wrong, of", [(2, 1, "rank 0"), (3, 0, "the other 2 of 3 ranks"), (3, 2, "the other 2")]
)
@pytest.mark.parametrize("name", ["0.weight", "2.bias"])
def test_a_rank_whose_parameters_differ_is_named(ranks, wrong, of, name, simulate):
    def run(comm):
        trainer = trainer_of(comm, check_every=1)
        parameters = trainer.parallel.arena.parameters

        step = trainer.optimizer.step

        def step_and_stray():
            step()
            if comm.rank == wrong and trainer.step == 3:
                parameters[name].data[...] += 2.0**-10
                parameters["2.bias"].data[...] += 2.0**-10

        trainer.optimizer.step = step_and_stray
        with pytest.raises(OutOfStep) as caught:
            trainer.fit()
        return str(caught.value)

    (text,) = {*simulate(ranks, run)}
    assert f"the parameters of rank {wrong} differ from those of {of}" in text
    assert f"first in {name!r}, after step 3" in text


def test_comparisons_are_as_often_as_asked_and_change_nothing(simulate):
    def run(comm, every):
        trainer = trainer_of(comm, check_every=every)
        steps = []
        compare = trainer.parallel.compare_parameters
        trainer.parallel.compare_parameters = lambda: (steps.append(trainer.step), compare())
        return steps, trainer.fit()["weights_sha256"]

    found = {every: simulate(2, lambda comm: run(comm, every)) for every in (None, 0, 3)}
    assert [found[every][0][0] for every in found] == [[2, 4, 6, 8], [], [3, 6, 8]]
    assert len({digest for results in found.values() for _, digest in results}) == 1


# --- gradients ---------------------------------------------------------------------------------------------------


def at(*steps, shard=1, factor=math.nan):
    """Spoil a shard in these steps: shards have two samples, and come in order."""
    seen = {}

    def spoil(trainer, x):
        key = trainer.comm.rank, trainer.step
        seen[key] = seen.get(key, trainer.parallel.run[0] - 1) + 1
        return factor if trainer.step in steps and seen[key] == shard else 1.0

    return spoil


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("shard", [0, 1, 2])
def test_a_gradient_that_is_not_finite_is_named_with_its_shard(ranks, shard, simulate):
    def run(comm):
        with np.errstate(all="ignore"), pytest.raises(Diverged) as caught:
            trainer_of(comm, spoil=at(3, shard=shard)).fit()
        return str(caught.value)

    (text,) = {*simulate(ranks, run)}
    rank = next(r for r in range(ranks) if shard < (r + 1) * 3 // ranks)
    assert f"at step 3 with learning rate 0.1 (first in the gradient of '0.weight', from shard {shard} on rank" in text
    assert f"on rank {rank}): lower --lr" in text


def test_the_first_parameter_is_named_even_if_the_loss_is_finite():
    trainer = trainer_of(noise=False, clip=1.0, clip_value=1.0)
    head = trainer.parallel.arena.parameters["2.weight"]
    trainer.loss = lambda x, y: ag.cross_entropy(trainer.model(x), y) + ag.sqrt((head * 0.0).sum())
    with np.errstate(all="ignore"), pytest.raises(Diverged, match=r"\(first in the gradient of '2.weight'\): lower"):
        trainer.fit()


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("shards", [3, 1])
def test_skipped_steps_are_left_out_and_counted(ranks, shards, simulate, tmp_path):
    if ranks > shards:
        return

    def run(comm):
        out = tmp_path / str(comm.rank)
        trainer = trainer_of(
            comm, shards=shards, spoil=at(1, 2, 5, shard=0), on_nonfinite="skip", log_every=1, out=out, clip=1.0,
            clip_value=0.5,
        )  # fmt: skip
        before = {}
        skip_or_raise = trainer.skips.skip_or_raise

        def state():
            return {name: a.tobytes() for name, a in trainer.model.state_dict().items()}

        def checked(*args):
            skip_or_raise(*args)
            assert state() == before[trainer.step]

        step = trainer._one_step

        def noted():
            before[trainer.step] = state()
            return step()

        trainer.skips.skip_or_raise, trainer._one_step = checked, noted
        with np.errstate(all="ignore"):
            summary = trainer.fit()
        assert len(before) == 8 and trainer.skips.in_a_row == 0
        return summary

    for summary in simulate(ranks, run):
        assert summary["skipped_steps"] == 3 and math.isfinite(summary["train_loss"])
        assert summary["noise_scale"] is None or math.isfinite(summary["noise_scale"])
    lines = (tmp_path / "0" / "metrics.jsonl").read_text()
    assert len(lines.splitlines()) == 8 and "NaN" not in lines and '"loss": null' in lines
    assert checkpoint.load_latest(tmp_path / "0" / "checkpoints")[2]["skipped"] == [3, 0]


def test_twenty_in_a_row_are_too_many_also_over_a_restart(tmp_path):
    always = lambda trainer, x: math.nan
    options = {"spoil": always, "on_nonfinite": "skip", "out": tmp_path}
    with np.errstate(all="ignore"):
        assert trainer_of(**options, steps=15, validation=None).fit()["skipped_steps"] == 15
        again = trainer_of(**options, steps=40, validation=None)
        again.restore(checkpoint.load_latest(tmp_path / "checkpoints"))
        with pytest.raises(Diverged, match=r"at step 20 .* after 20 steps left out in a row: lower --lr"):
            again.fit()


def test_an_overflow_of_half_precision_is_skipped_anyway():
    scale = LossScale(4.0)
    trainer = trainer_of(spoil=at(2, factor=math.inf), scale=scale)
    with np.errstate(all="ignore"):
        summary = trainer.fit()
    assert summary["skipped_steps"] == 1 and scale.value == 2.0


def test_an_unknown_policy_is_refused():
    with pytest.raises(ConfigurationError, match="on_nonfinite is raise or skip, got 'ignore'"):
        trainer_of(on_nonfinite="ignore")
