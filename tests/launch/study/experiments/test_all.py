"""`allgrad study all`: every experiment in one directory and one report."""

import math
import sys
from types import ModuleType

import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.__main__ import main
from allgrad.launch.study import Claim, Estimate, Result, Table, Workload
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import VERBS, all as everything


@pytest.fixture
def verbs(monkeypatch):
    """Three experiments that only say with which options they were called."""
    called = {}

    def steps(lab, work, preset, *, optimizers=PRESET, target=None, **more):
        called["steps"] = {"optimizers": optimizers, "target": target, **more}
        sure, few = Estimate(2.0, 0.01, 4.0, n=5), Estimate(2.0, 0.01, 1.0, n=2)
        claims = [Claim("a", "A 2019", "", [sure], least=1.0), Claim("b", "B 2019", "", [sure], least=3.0),
                  Claim("c", "C 2019", "", [few], least=1.0)]  # fmt: skip
        return Result("steps", "How?", "So.", claims, advice="Do.")

    def one(lab, work, preset, *, optimizers=("sgd",), target=None):
        called["one"] = {"optimizers": optimizers, "target": target}
        return Result("one", "What?", "That.")

    def refuses(lab, work, preset):
        raise ConfigurationError("not with texts")

    found = {"one": one, "steps": steps, "refuses": refuses}
    for name, run in found.items():
        module = ModuleType(name)
        run.__module__ = f"allgrad.launch.study.experiments.{name}"
        module.run = experiment({size: {"optimizers": ("sgd",)} for size in ("quick", "full")})(run)
        monkeypatch.setitem(sys.modules, f"allgrad.launch.study.experiments.{name}", module)
    kept = dict(VERBS)
    VERBS.clear()
    VERBS.update(dict.fromkeys((*found, "all"), ""))
    yield called
    VERBS.clear()
    VERBS.update(kept)


def test_every_experiment_gets_the_options_it_takes(verbs):
    options = {"optimizers": ("adam", "sgd"), "target": 0.3, "weight_decay": 0.1}
    first, *others = everything.run(None, Workload(), "quick", **options)
    assert verbs == {"steps": {"optimizers": ("adam", "sgd"), "target": 0.3, "weight_decay": 0.1},
                     "one": {"optimizers": ("adam",), "target": 0.3}}  # fmt: skip
    assert [result.name for result in others] == ["steps", "one"]  # steps is first, whatever the order of the verbs
    assert first.notes == ["refuses was not done: not with texts"]
    words = "FAIL", "INCONCLUSIVE", "PASS", "NO VERDICT"
    counts = {row["experiment"]: tuple(row[word] for word in words) for row in first.tables[0].rows}
    assert counts == {"steps": (1, 0, 1, 1), "one": (0, 0, 0, 0), "refuses": (0, 0, 0, 0)}
    assert first.headline.startswith("So. 2 experiments on digits, mlp:128, 3 claims of the literature")
    assert {row["experiment"]: row["headline"] for row in first.tables[0].rows}["refuses"].startswith("not done: not w")


def test_an_option_that_none_of_them_takes_is_refused(verbs):
    with pytest.raises(ConfigurationError, match=r"^--eta has no effect on allgrad study all$"):
        everything.run(None, Workload(), "quick", eta=3)
    assert not verbs


def noise(ratios):
    """A result of `noise` with {(optimizer, predictor, measured): ends of the ratio's interval}, at B_2x for all."""
    rows = [{"optimizer": name, "B": 16, "predictor": p, "measured": m, "ratio": 1.0, "ratio_lo": low, "ratio_hi": high}
            for (name, p, m), (low, high) in ratios.items()]  # fmt: skip
    leads = [{"optimizer": name, "measured": "B_2x"} for name in ("sgd", "adam")]
    return Result("noise", "", "", tables=[Table("predicted", [], []), Table("ratios", [], rows)],
                  summary=Table("summary", [], leads))  # fmt: skip


def test_the_advice_is_that_of_steps_with_what_others_add_before_what_is_not_known():
    ratios = {("sgd", "B_simple", "B_2x"): (2.1, 3.4), ("sgd", "B_simple", "B_crit"): (0.01, 99.0),
              ("adam", "B_simple", "B_2x"): (0.8, 1.9), ("adam", "B_noise", "B_2x"): (math.nan, math.nan)}  # fmt: skip
    of = {"steps": Result("steps", "", "", advice="Setting.\nadam: cheapest.\nNot known."), "noise": noise(ratios),
          "ramp": Result("ramp", "", "", advice="Double."), "pareto": Result("pareto", "", "Dear."),
          "project": Result("project", "", "Modelled.")}  # fmt: skip
    lines = everything._advice(of).splitlines()
    assert lines[:2] == ["Setting.", "adam: cheapest."]
    assert lines[3:] == ["Double.", "On more ranks: Modelled.", "At what cost: Dear.", "Not known."]
    assert "(sgd, adam; all 95 % intervals together)" in lines[2] and lines[2].endswith(
        ": the noise scale (B_simple) is between 0.8 and 3.4 times as large."
    )
    assert everything._advice({}) == "" and everything._advice({"steps": of["steps"]}) == of["steps"].advice


def test_noise_without_intervals_predicts_nothing():
    steps = Result("steps", "", "", advice="Setting.\nNot known.")
    silent = noise({("sgd", "B_simple", "B_2x"): (math.nan, math.nan), ("sgd", "B_noise", "B_crit"): (1.0, 2.0)})
    _, said, _ = everything._advice({"steps": steps, "noise": silent}).splitlines()
    assert said == "Whether the gradient noise of a single run predicts the critical batch size is not known from this."


def test_one_page_for_all(verbs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["allgrad", "study", "all", "--jobs", "1", "--out", "here"])
    assert main() == 0
    page = (tmp_path / "here" / "report.html").read_text()
    assert page.index("Do.") < page.index("How?") and "not with texts" in page
    assert "<h1>Batch size on digits, mlp:128</h1>" in page and "<dt>argv</dt>" not in page
    assert "<pre><code>allgrad " in page
    said = capsys.readouterr().out
    counted = "3 claims of the literature: 1 FAIL, 1 PASS, 1 NO VERDICT"
    assert f"So. 2 experiments on digits, mlp:128, {counted}." in said
