"""`allgrad study lr-rules`."""

import math

import pytest

from allgrad.launch.study import Lab, Workload, configuration
from allgrad.launch.study.experiments import lr_rules
from allgrad.launch.study.lr_tuning import Tuned


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("rules"), jobs=1) as lab:
        return lr_rules.run(
            lab, Workload(), optimizers=("sgd",), batches=(8, 32, 512), target=0.1, seeds=(0,),
            report_seeds=(100, 101),
        )  # fmt: skip


def test_what_the_rules_make_of_the_base_rate(small):
    rows = {(r["optimizer"], r["rule"], r["B"]): r for r in small.tables[0].rows}
    base = rows["sgd", "tuned", 8]
    assert base["to_ideal"] == base["to_tuned"] == 1.0 and base["n_trials"] > 0
    for rule, factor in {"none": 1.0, "sqrt": 2.0, "linear": 4.0, "linear_warmup": 4.0, "adascale": 1.0}.items():
        row = rows["sgd", rule, 32]
        assert row["lr"] == pytest.approx(factor * base["lr"], rel=1e-4) and row["k"] == 4.0
        assert row["S_ideal"] == pytest.approx(base["S"] / 4.0)
    s = {rule: rows["sgd", rule, 32]["S"] for rule in lr_rules.RULES["sgd"]}
    assert s["linear"] < s["sqrt"] < s["none"] and s["adascale"] < s["none"] and s["linear"] < s["linear_warmup"]
    assert rows["sgd", "linear", 512]["n_fail"] == 2 and "fails at 64" in small.headline
    assert any("AdaScale never fails" in check.claim and check.verdict == "PASS" for check in small.checks)


def test_a_rule_may_have_no_value():
    assert lr_rules._scaled(0.1, "adam_sde", 16, 1024) == (None, [])
    assert lr_rules._scaled(0.1, "adam_sde", 16, 64) == (pytest.approx(0.2), [])


def test_its_figures_are_drawn(small):
    pytest.importorskip("matplotlib")
    for figure in small.figures:
        assert len(figure.draw().axes[0].lines) > 5


def test_a_warm_up_begins_at_the_base_rate():
    config = configuration(Workload(), "sgd", batch=64, lr=0.8, target=0.1, base_lr=0.1, rule="linear_warmup")
    run = lr_rules.Warmed(config)
    rate = run.learning_rate()
    assert (
        run.optimizer.current_lr < 0.2 and rate(12) == pytest.approx(0.8) and rate(10) < 0.8
    )  # 12 steps: half an epoch


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


def rows(*steps):
    return [{"status": "ok" if math.isfinite(s) else "capped", "steps_to_target": s} for s in steps]


def cell(*steps):
    return lr_rules.Cell("sgd", "linear", 8, 0.1, rows(*steps), Tuned(0.1, 1.0, False, {}, 0))


def test_failures_decide_a_claim():
    good, twice, failed = cell(10, 10, 10), cell(20, 20, 20), cell(math.inf, math.inf, 5)
    assert lr_rules._worst("", [(good, good, 1.0), (twice, good, 1.0)], 2.5, 3).value == pytest.approx(2.0)
    assert lr_rules._worst("", [(twice, good, 1.0)], 1.5, 3).verdict == "FAIL"
    assert lr_rules._worst("", [(failed, good, 1.0)], 9.0, 3).verdict == "FAIL"
    assert lr_rules._worst("", [(good, failed, 1.0)], 0.5, 3).verdict == "PASS"
    assert failed.lost and not cell(math.inf, 5, 5).lost


def test_a_batch_that_is_no_multiple_of_the_base_and_one_at_which_no_rate_works():
    nothing = Tuned(math.nan, math.inf, True, {}, 0, why="it diverges")
    cells = [
        lr_rules.Cell("sgd", "tuned", 8, 0.1, rows(30, 30), Tuned(0.1, 30.0, False, {}, 9, rows(30, 30))),
        lr_rules.Cell("sgd", "tuned", 12, 0.1, rows(20, 20), Tuned(0.1, 20.0, False, {}, 9, rows(20, 20))),
        lr_rules.Cell("sgd", "tuned", 20, math.nan, [], nothing),
        lr_rules.Cell("sgd", "linear", 12, 0.15, rows(22, 22)),
        lr_rules.Cell("sgd", "linear", 20, 0.25, rows(math.inf, math.inf)),
    ]
    common = {"metric": "train_loss", "target": 0.2, "eval_ratio": 1.05, "sampler": "epoch"}
    result = lr_rules.summarize(Workload(), {"sgd": cells}, common, (0,), (100, 101), 4)
    assert "linear up to k = 1.5, fails at 2.5." in result.headline
    assert "by the rule linear up to a batch of 12." in result.advice
    (check,) = result.checks
    assert "up to k = 1.5 " in check.claim and check.value == pytest.approx(22 * 1.5 / 30)
    assert "sgd, tuned, at B = 20: no learning rate works: it diverges." in result.notes
