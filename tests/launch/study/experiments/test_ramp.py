"""`allgrad study ramp`."""

import argparse
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from allgrad.ddp import Sampler
from allgrad.launch import options, plan
from allgrad.launch.study import Lab, Workload, runner
from allgrad.launch.study.experiments import branch, ramp
from allgrad.launch.study.experiments.ramp import Phase
from tests.launch.study.test_toys import NoisyQuadratic

# --- the design ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.5, 1.0, 1.7])
def test_of_a_power_law_the_ramp_is_exact(a):
    """B_crit = 8 (t / 1000)^a: 2^k times 8 is small enough from 1000 2^(k / a) on, wherever it was measured."""
    points = [(t, 8.0 * (t / 1000.0) ** a) for t in (1000.0, 3000.0, 8000.0, 50_000.0)]
    exact = [Phase(0, 8)] + [Phase(math.ceil(1000.0 * 2.0 ** (k / a)), 8 * 2**k) for k in range(1, 20)]
    assert ramp.design(points, 8, 50_000) == [phase for phase in exact if phase.samples < 50_000]


def test_a_batch_is_never_above_what_is_measured_later_on():
    points = [(0, 32), (500, 32), (1000, 8), (4000, 128)]
    assert ramp.design(points, 4, 9000) == [
        Phase(0, 8), Phase(math.ceil(1000 * 4 ** (1 / 4)), 16), Phase(math.ceil(1000 * 4 ** (2 / 4)), 32),
        Phase(math.ceil(1000 * 4 ** (3 / 4)), 64), Phase(4000, 128),
    ]  # fmt: skip
    assert ramp.design(points, 4, 4000)[-1].batch == 64
    assert ramp.design([(0, 4), (100, 7)], 4, 1000) == [Phase(0, 4)]
    assert ramp.design([(0, 4), (100, 64)], 4, 1000) == [Phase(0, 4), Phase(100, 64)]  # from 0 there is no power law


PHASES = [Phase(0, 8), Phase(1000, 16), Phase(1010, 32), Phase(5003, 64)]


def test_steps_are_those_of_the_sampler():
    sampler = Sampler(700, 8, boundary="carry")
    for samples, batch in PHASES[1:]:
        sampler.resize(sampler.steps_for(samples), batch)
    for total in (999, 1000, 1001, 1024, 5003, 9999):
        phases = [p for p in PHASES if p.samples < total]
        assert ramp.steps_in(phases, total) == sampler.steps_for(total)


def test_a_ramp_reaches_the_loss_of_the_small_batch_of_a_noisy_quadratic():
    """All in closed form: a curve ~ t^(1/2) that is small enough by branches within 0.5 % ends within 1 %."""
    h = 1.0 / np.arange(1, 101)
    rate, total, delta = 0.0005, 150_000, 8000  # the rate of a batch of 1; it is linear in the batch

    def ended(squares, batch, samples):
        toy = NoisyQuadratic(h, 0.1 * h, np.sqrt(squares))
        return toy.squares(rate * batch, batch, math.ceil(samples / batch))

    points = [(500.0 * 4**k, 2**k) for k in range(5)]
    for seen, batch in points:
        losses = [h @ ended(ended(np.ones(100), 1, seen), b, delta) for b in (1, 2, 4, 8, 16)]
        assert all(loss <= 1.005 * min(losses) for loss in losses[: 1 + int(math.log2(batch))])
    phases = ramp.design(points, 1, total)
    assert phases == [Phase(0, 1), Phase(2000, 2), Phase(8000, 4), Phase(32_000, 8), Phase(128_000, 16)]
    squares, edges = np.ones(100), [*(p.samples for p in phases[1:]), total]
    for phase, stop in zip(phases, edges):
        squares = ended(squares, phase.batch, stop - phase.samples)
    assert ramp.steps_in(phases, total) == 2000 + 6000 // 2 + 24_000 // 4 + 96_000 // 8 + 22_000 // 16
    assert h @ squares == pytest.approx(h @ ended(np.ones(100), 1, total), rel=0.01)


# --- for other trainers ----------------------------------------------------------------------------------------------


def megatron(consumed, start, increment, samples, end):
    """The rule of RampupBatchsizeNumMicroBatchesCalculator."""
    if consumed > samples:
        return end
    return start + int(consumed / (samples / ((end - start) // increment))) * increment


@pytest.mark.parametrize(
    "phases", [PHASES, [Phase(0, 8), Phase(777, 16)], [Phase(0, 4), Phase(10, 64)], [Phase(0, 4), Phase(50, 8),
               Phase(70, 16), Phase(4000, 32)]]
)  # fmt: skip
def test_a_linear_ramp_is_never_above_and_no_shorter_one_is_so(phases):
    def fits(linear):
        batch_at = [max(p.batch for p in phases if p.samples <= seen) for seen in range(12_000)]
        return all(megatron(seen, *linear) <= batch_at[seen] for seen in range(12_000))

    found = ramp.linear_ramp(phases, 12_000)
    assert found is not None and found.end == phases[-1].batch and fits(found)
    assert [found.batch_at(seen) for seen in range(12_000)] == [megatron(seen, *found) for seen in range(12_000)]
    increments = (found.end - found.start) // found.increment
    assert not fits(found._replace(samples=found.samples - 2 * increments))
    seen = steps = 0
    while seen < 12_000:
        seen, steps = seen + megatron(seen, *found), steps + 1
    assert found.steps(12_000) == pytest.approx(steps, rel=0.03)
    assert ramp.linear_ramp(phases[:1], 12_000) is None


@pytest.mark.parametrize("power, rule", [(1.0, "linear"), (0.5, "sqrt")])
def test_what_is_written_for_trainers_says_the_same(power, rule, tmp_path):
    phases, base, lr, total = PHASES, 4, 0.02, 9000
    said = ramp.for_allgrad(phases, base, lr, power)
    assert f"--lr-rule {rule} --base-batch 4" in said
    parser = argparse.ArgumentParser()
    options.add_options(parser)
    config = {**options.defaults(), **options.given(vars(parser.parse_args(said.split())))}
    sampler = Sampler(1437, config["global_batch"], boundary=config["boundary"])
    planned = plan.plan(config, sampler)
    steps = [ramp.steps_in(phases[: i + 1], p.samples) for i, p in enumerate(phases)]
    assert [(piece.step, piece.batch) for piece in sampler.pieces] == [(s, p.batch) for s, p in zip(steps, phases)]
    rates = [0.02 * (p.batch / 4) ** power for p in phases]
    assert [planned.rate(step) for step in steps] == pytest.approx(rates)
    assert ramp.for_megatron(phases) == '--step-batch-size-schedule "0:8 1000:16 1010:32 5003:64"'
    assert ramp.for_old_megatron(ramp.Linear(8, 8, 5100, 64)) == "--global-batch-size 64 --rampup-batch-size 8 8 5100"
    runs = json.loads(ramp.for_torchtitan(phases, total, base, lr, power))
    assert [run["training.global_batch_size"] for run in runs] == [8, 16, 32, 64]
    assert [run["training.steps"] for run in runs] == [*steps[1:], ramp.steps_in(phases, total)]
    assert [run["optimizer.lr"] for run in runs] == pytest.approx(rates, rel=1e-5)


# --- the experiment --------------------------------------------------------------------------------------------------


def test_a_run_has_the_batches_and_rates_of_its_phases():
    plan = [Phase(0, 16), Phase(100, 32), Phase(300, 64)]
    run = ramp.Ramped(runner.configuration(
        Workload(model="softmax"), "sgd", kind="ramp", batch=16, phases=plan, total=1000, steps="1000samples",
        power=0.5, lr=0.1, cap=10**9,
    ))  # fmt: skip
    assert run.budget == ramp.steps_in(plan, 1000)
    sampler, rate = run.loader.sampler, run.learning_rate()
    assert [sampler.batch_at(step) for step in (0, 6, 7, 12, 13)] == [16, 16, 32, 32, 64]
    assert [rate(step) for step in (0, 7, 13)] == pytest.approx([0.1, 0.1 * 2**0.5, 0.2])


CELLS = [
    {"samples": s, "ci_lo": low, "ci_hi": 2 * low, "cbs": 1.5 * low, "base": 4, "lr": 0.1, "n_seeds": 6}
    for s, low in ((0, 4), (1000, 8), (4000, 32))
]


def summarized(ratios, large=1.0):
    """Runs of four seeds, whose ramp ends with these ratios to the losses of the small batch."""
    small = [0.01, 0.011, 0.009, 0.0105]

    def rows(losses):
        return [{"status": "ok" if math.isfinite(v) else "diverged", "final_train_loss": v} for v in losses]

    losses = {"small": small, "ramp": [a * b for a, b in zip(small, ratios)], "large": [large * v for v in small]}
    phases = ramp.design([(cell["samples"], cell["ci_lo"]) for cell in CELLS], 4, 6000)
    first = SimpleNamespace(methods="", notes=[])
    found = {arm: rows(v) for arm, v in losses.items()}
    return ramp.summarize(Workload(), "sgd", CELLS, phases, found, 6000, 1.0, first)


def test_what_is_said_follows_from_intervals():
    near, far = summarized([1.0, 1.002, 0.999, 1.001]), summarized([1.12, 1.125, 1.115, 1.12])
    assert near.verdicts[0].word == "PASS" and far.verdicts[0].word == "FAIL"
    assert "4 at first, 8 after 1,000 samples, 16 after 2,000 samples, 32 after 4,000 samples" in near.headline
    # 1000 / 4 + 1000 / 8 + 2000 / 16 + 2000 / 32 steps in place of 1500
    assert "62 % fewer steps than with 4 all along" in near.headline and "equal within 5 %" in near.headline
    assert far.headline.endswith(": 1.12 [1.11, 1.13], 11 to 13 % higher.")
    words = ramp._ramp_in_words(ramp.design([(0, 4), (1000, 8), (4000, 32)], 4, 6000))
    paid = "the final training loss is 1 [0.998, 1] times that with B = 4 all along"
    assert near.advice.splitlines()[0] == f"sgd: let the batch grow: {words}. It takes 62 % fewer steps, and {paid}."
    assert "let the batch grow" not in far.advice
    assert "costs loss: the final training loss is 1.12 [1.11, 1.13] times that with B = 4 all along" in far.advice
    unsure = summarized([1.0, 1.02, 0.99, 1.01])
    assert unsure.verdicts[0].word == "INCONCLUSIVE" and "sgd: keep B = 4: the ramp" in unsure.advice
    assert [row["B"] for row in near.tables[0].rows] == [4, 8, 16, 32]


def test_survivors_decide_nothing():
    result = summarized([1.0, math.inf, 0.99, 1.01], large=math.inf)
    assert result.verdicts[0].word == "NO VERDICT" and "not compared (1 of 4 seeds failed)" in result.headline
    assert "is not shown" in result.advice
    assert "The last batch, 32, from the start diverges with 4 of 4 seeds." in result.findings


def test_the_experiment(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(ramp.GRIDS, "quick", {"runs": (300, 301, 302)})
    monkeypatch.setattr(
        branch, "bounds", lambda losses, tolerance=0.15, level=0.95: (int(losses[:, 0].mean() < 0.04), 2)
    )
    with Lab(tmp_path, jobs=1) as lab:
        result = ramp.run(lab, Workload(), lr=0.1, batches=(8, 16, 512), checkpoints=(0, 200), report_seeds=(100, 101))
        runs = [row for row in lab.ledger.rows.values() if row["config"]["kind"] == "ramp"]
    arms = {row["arm"]: row for row in result.tables[1].rows}
    assert [row["B"] for row in result.tables[0].rows] == [8, 16] and result.tables[0].rows[1]["samples"] == 1600
    assert arms["ramp"]["steps"] == 200 + math.ceil(1437 / 16) and arms["small"]["steps"] == math.ceil(3037 / 8)
    assert sorted({row["steps"] for row in runs}) == sorted({arm["steps"] for arm in arms.values()})
    assert all(figure.draw().axes for figure in result.figures) and len(result.claims) == 1
