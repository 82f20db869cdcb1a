"""`allgrad study lr-rules`."""

import math

import numpy as np
import pytest

from allgrad.launch.study import Lab, Workload, configuration, runner
from allgrad.launch.study.experiments import lr_rules
from allgrad.launch.study.intervals import mean
from allgrad.launch.study.lr_tuning import Tuned


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("rules"), jobs=1) as lab:
        return lr_rules.run(
            lab, Workload(), optimizers=("sgd",), batches=(8, 32, 512), target=0.1, seeds=(0, 1),
            report_seeds=(100, 101),
        )  # fmt: skip


def test_what_the_rules_make_of_the_base_rate(small):
    rows = {(r["optimizer"], r["rule"], r["B"]): r for r in small.tables[0].rows}
    base = rows["sgd", "tuned", 8]
    assert base["to_ideal"] == base["to_tuned"] == 1.0 and base["n_trials"] > 0
    for rule, factor in {"none": 1.0, "sqrt": 2.0, "linear": 4.0, "linear_warmup": 4.0, "adascale": 1.0}.items():
        row = rows["sgd", rule, 32]
        assert row["lr"] == pytest.approx(factor * base["lr"], rel=1e-4) and row["k"] == 4.0
        assert row["S_ideal"] == pytest.approx(base["S"] / 4.0) and row["n_trials"] == 0
    s = {rule: rows["sgd", rule, 32]["S"] for rule in lr_rules.RULES["sgd"]}
    assert s["linear"] < s["sqrt"] < s["none"] and s["adascale"] < s["none"]
    failed = rows["sgd", "linear", 512]
    assert failed["n_fail"] == 2 and math.isnan(failed["to_lo"]) and failed["fail_hi"] == 1.0
    assert failed["fail_lo"] == pytest.approx(0.1581, abs=1e-4), "the exact binomial interval of 2 of 2"
    assert (
        "linear at k = 64: 2 of 2 seeds failed at each, a share from 16 to 100 %" in " ".join(small.findings)
        and not small.claims
    )


def test_the_rule_of_the_noise_scale_lies_between_none_and_linear_and_its_runs_are_counted(small):
    rows = {(r["rule"], r["B"]): r for r in small.tables[0].rows}
    rate = {batch: rows["noise", batch]["lr"] / rows["tuned", 8]["lr"] for batch in (32, 512)}
    assert 1.0 < rate[32] < 4.0 and rate[32] < rate[512] < 64.0
    scale = 8.0 * (1.0 - rate[32] / 1.0) / (rate[32] / 4.0 - 1.0)  # from (1 + N/8) / (1 + N/32) = rate
    assert (1.0 + scale / 8.0) / (1.0 + scale / 512.0) == pytest.approx(rate[512], rel=1e-4)
    assert rows["noise", 32]["n_trials"] == 2 and "which cost 2 runs" in " ".join(small.findings)
    assert 1.0 < scale < 1437.0


def test_a_run_measures_the_noise_scale_of_its_shards():
    config = configuration(
        Workload(), "sgd", kind="lr_rules", rule="measure", batch=8, lr=0.1, target=0.5, shards=8, seed=3
    )
    row = runner.execute(config)
    assert row["status"] == "ok" and 1.0 < row["noise_scale"] < 1437.0
    assert row["steps"] == runner.execute({**config, "kind": "steps_to_target"})["steps"]


def test_a_rule_may_have_no_value():
    base = lr_rules.Base("adam", 16, 0.1, 100.0)
    assert base.scaled("adam_sde", 1024, {}) is None and base.scaled("surge", 64, {}) is None
    assert base.scaled("adam_sde", 64, {}).lr == pytest.approx(0.2)
    known = lr_rules.Base("adam", 16, 0.1, 100.0, mean([48.0, 48.0]))
    assert known.scaled("noise", 64, {}).lr == pytest.approx(0.1 * math.sqrt((1 + 3) / (1 + 0.75)))  # a root for Adam
    assert known.scaled("surge", 48, {}).lr > known.scaled("surge", 480, {}).lr
    assert lr_rules._measure(None, None, {}, lr_rules.Base("sgd", 1, 0.1, 9.0), (0,)) is None, "one sample, one shard"


def test_the_rules_change_the_options_that_are_given():
    common = {"target": 0.1, "optimizer_options": {"betas": (0.9, 0.95), "weight_decay": 0.1}}
    base = lr_rules.Base("adamw", 8, 0.1, 100.0)
    cell = lr_rules.Cell("adamw", "half_life", 16, 0.1, [])
    config = lr_rules._configure(Workload(), common, cell, base, {"seed": 0})
    assert config["optimizer_options"] == {"betas": [0.9, pytest.approx(0.95**2)], "eps": 1e-8, "weight_decay": 0.1}


def test_its_figures_are_drawn(small):
    pytest.importorskip("matplotlib")
    for figure in small.figures:
        assert all(len(axes.lines) > 4 for axes in figure.draw().axes)


def test_a_warm_up_is_a_twentieth_of_the_run_and_begins_at_the_base_rate():
    base, cell = lr_rules.Base("sgd", 8, 0.1, 400.0), lr_rules.Cell("sgd", "linear_warmup", 16, 0.2, [])
    config = lr_rules._configure(Workload(), {"target": 0.1}, cell, base, {"seed": 0})
    assert config["rise"] == 10, "of 200 steps"
    run = lr_rules.Warmed(config)
    rate = run.learning_rate()
    assert 0.1 < rate(0) < rate(8) < rate(9) == pytest.approx(0.2) == rate(100)
    assert rate(4) == pytest.approx(0.15)
    far = lr_rules._configure(
        Workload(), {"target": 0.1}, lr_rules.Cell("sgd", "linear_warmup", 800, 10.0, []), base, {}
    )
    assert far["kind"] == "steps_to_target", "a warm-up of one step is none"


def test_adascale_gains_more_where_the_gradient_is_noisier():
    config = configuration(
        Workload(shards=8), "sgd", batch=64, lr=0.1, target=0.1, base_batch=8, rule="adascale", seed=3
    )
    run = lr_rules.Gaining(config)
    gains = []
    for _ in range(20):
        run.step()
        run.t += 1
        gains.append(run.gain.gain)
    assert gains[0] == 1.0 and 1.0 < gains[1] < gains[-1] < 8.0
    assert run.optimizer.current_lr == pytest.approx(0.1 * gains[-1])


def rows(steps):
    return [{"status": "ok" if math.isfinite(s) else "capped", "steps_to_target": s} for s in steps]


def tuned(batch, steps):
    found = Tuned(0.1, 30.0, False, {}, 9, rows(steps))
    return lr_rules.Cell("sgd", "tuned", batch, 0.1, found.rows, found, 9)


def ruled(batch, steps, rule="linear"):
    return lr_rules.Cell("sgd", rule, batch, 0.1, rows(steps))


SEEDS = np.array([100.0, 103.0, 98.0, 101.0, 99.0])


def summarized(*cells, noise=None):
    common = {"metric": "train_loss", "target": 0.2, "eval_ratio": 1.05, "sampler": "epoch"}
    return lr_rules.summarize(Workload(), {"sgd": cells}, common, (0,), (100, 101), 4, noise or {})


def test_how_far_a_rule_reaches_is_decided_by_whole_intervals():
    best = [tuned(8, SEEDS), tuned(16, SEEDS / 2), tuned(32, SEEDS / 4), tuned(64, SEEDS / 8)]
    told = summarized(*best, ruled(16, SEEDS * 0.55), ruled(32, SEEDS * 0.26), ruled(64, SEEDS * 0.2))
    assert "linear up to k = 4." in told.headline, told.headline
    assert "at k = 8: 56 to 65 % more" in told.findings[0] and "not excluded" not in told.findings[0]
    assert "by the rule linear up to a batch of 32;" in told.advice
    assert "where it is largest: linear 1.65." in told.findings[1]
    assert "without tuning, linear is surely within 1.6 times the tuned steps at all batches" in told.advice
    scattered = SEEDS * [0.4, 0.7, 0.5, 0.6, 0.5]  # 1.07 times on average, with an interval beyond 1.2
    unknown = summarized(*best, ruled(16, scattered), ruled(32, SEEDS / 4), ruled(64, SEEDS / 8))
    assert "at no k linear." in unknown.headline and ", 20 % not excluded" in unknown.findings[0]
    assert "tune the rate at every batch" in unknown.advice, "though the larger batches would do"
    whole = summarized(*best[:2], ruled(16, SEEDS / 2), ruled(16, SEEDS / 2, "sqrt"))
    assert "up to k = 2, the largest tried" in whole.findings[0] and "(sqrt reaches as far)" in whole.advice


def test_the_noise_of_the_tuned_cell_is_in_the_interval():
    noisy = SEEDS * [0.9, 1.2, 1.0, 0.8, 1.1]
    quiet = ruled(16, SEEDS).over(tuned(16, SEEDS))
    assert ruled(16, SEEDS).over(tuned(16, noisy)).error > 3.0 * quiet.error > 0.0


def test_a_failed_seed_ends_the_reach_and_survivors_decide_nothing():
    best = [tuned(8, SEEDS), tuned(16, SEEDS / 2)]
    result = summarized(*best, ruled(16, [*SEEDS[:4] / 2, math.inf]))
    assert "at no k linear" in result.headline and result.summary.rows == [
        {"rule": "linear", "sgd": "none, fails at 2"}
    ]
    assert "at k = 2, 1 of 5 seeds failed" in result.findings[0]
    assert "without tuning" not in result.advice and "largest" not in " ".join(result.findings)
    assert "linear at k = 2: 1 of 5 seeds failed at each, a share from 1 to 72 %" in " ".join(result.findings)
    of_tuned = summarized(tuned(8, SEEDS), tuned(16, [*SEEDS[:4] / 2, math.inf]), ruled(16, SEEDS / 2))
    assert "at k = 2 not compared: 1 of 5 seeds failed, with the tuned rate" in of_tuned.findings[0]


def test_with_two_seeds_a_rule_that_is_20_percent_slower_is_hardly_ever_shown_to_serve():
    rng = np.random.default_rng(1)

    def draw(times):
        return 100.0 * times * np.exp(0.05 * rng.standard_normal(2))

    shown = sum(
        "linear up to" in summarized(tuned(8, SEEDS), tuned(16, draw(1.0)), ruled(16, draw(1.2))).headline
        for _ in range(200)
    )
    assert shown <= 10, "5 of 200 are expected at 2.5 %, and more than 10 in 1.3 % of trials"


def test_a_batch_that_is_no_multiple_of_the_base_and_one_at_which_no_rate_works():
    nothing = Tuned(math.nan, math.inf, True, {}, 0, why="it diverges")
    result = summarized(
        tuned(8, SEEDS), tuned(12, SEEDS / 1.5), lr_rules.Cell("sgd", "tuned", 20, math.nan, [], nothing),
        ruled(12, SEEDS / 1.45), ruled(20, [math.inf] * 5), noise={"sgd": mean([60.0, 70.0, 80.0], "runs")},
    )  # fmt: skip
    assert "linear up to k = 1.5." in result.headline and "at k = 2.5, 5 of 5 seeds failed" in result.findings[0]
    assert "by the rule linear up to a batch of 12." in result.advice
    assert "sgd, tuned, at B = 20: no learning rate works: it diverges." in result.notes
    assert "noise scale along the runs of the base batch is 69.5 [" in result.findings[-1]
