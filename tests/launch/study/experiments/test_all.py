"""`allgrad study all`: every experiment in one directory and one report."""

import math
import sys
from types import ModuleType

import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.__main__ import main
from allgrad.launch.study import Check, Result, Table, Workload
from allgrad.launch.study.experiment import PRESET, experiment
from allgrad.launch.study.experiments import VERBS, all as everything


@pytest.fixture
def verbs(monkeypatch):
    """Three experiments that only say with which options they were called."""
    called = {}

    def steps(lab, work, preset, *, optimizers=PRESET, target=None, **more):
        called["steps"] = {"optimizers": optimizers, "target": target, **more}
        checks = [Check("a", 2.0, 2.0, 2.0, 3.0), Check("b", 2.0, 1.0, 3.0, 0.0)]
        return Result("steps", "How?", "So.", checks, advice="Do.")

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
    counts = {row["experiment"]: (row["FAIL"], row["INCONCLUSIVE"], row["PASS"]) for row in first.tables[0].rows}
    assert counts == {"steps": (1, 0, 1), "one": (0, 0, 0), "refuses": (0, 0, 0)}


def test_an_option_that_none_of_them_takes_is_refused(verbs):
    with pytest.raises(ConfigurationError, match=r"^--eta has no effect on allgrad study all$"):
        everything.run(None, Workload(), "quick", eta=3)
    assert not verbs


def test_the_advice_is_that_of_steps_with_noise_and_ranks_before_what_is_not_known():
    rows = [{"optimizer": name, "B_simple/B_crit": x, "B_noise/B_crit": y} for name, x, y in
            (("sgd", 2.64, 0.98), ("adam", 1.2, math.nan))]  # fmt: skip
    of = {"steps": Result("steps", "", "", advice="Setting.\nadam: cheapest.\nNot known."),
          "noise": Result("noise", "", "", tables=[Table("predicted", [], rows)]),
          "project": Result("project", "", "Modelled.")}  # fmt: skip
    lines = everything._advice(of).splitlines()
    assert lines[:2] == ["Setting.", "adam: cheapest."] and lines[3:] == ["On more ranks: Modelled.", "Not known."]
    assert "(sgd, adam): B_simple is 1.2 to 2.6 times B_crit, B_noise is 0.98 to 0.98 times" in lines[2]
    assert everything._advice({}) == "" and everything._advice({"steps": of["steps"]}) == of["steps"].advice


def test_one_page_for_all(verbs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "all", "--jobs", "1", "--out", "here"]) == 0
    page = (tmp_path / "here" / "report.html").read_text()
    assert page.index("<p>Do.</p>") < page.index("How?") and "not with texts" in page
    assert "<h1>Batch size on digits, mlp:128</h1>" in page and "<dt>argv</dt>" not in page
    assert "<dt>command</dt>" in page
    said = capsys.readouterr().out
    assert "2 experiments on digits, mlp:128: 1 checks PASS, 0 INCONCLUSIVE, 1 FAIL." in said and "So." in said
