"""`allgrad study all`: every experiment in one directory and one report."""

import sys
from types import ModuleType

import pytest

from ddp import ConfigurationError
from launch.__main__ import main
from launch.study import Check, Result, Table, Workload, experiments
from launch.study.experiments import all as everything

FITS = [
    {"optimizer": "sgd", "S_min": 13.0, "B_crit": 100.0, "B_crit_lo": 90.0, "B_crit_hi": 110.0, "cbs20": 40.0},
    {"optimizer": "adam", "S_min": 8.0, "B_crit": 187.0, "B_crit_lo": 170.0, "B_crit_hi": 199.0, "cbs20": 60.0},
]
CELLS = [{"optimizer": "adam", "B": b, "S": 900.0 / b, "lr": 0.01} for b in (64, 128, 256)]


@pytest.fixture
def verbs(monkeypatch):
    """Three experiments that only say with which options they were called."""
    called = {}

    def steps(lab, work, preset, *, optimizers=None, target=None, **more):
        called["steps"] = {"optimizers": optimizers, "target": target, **more}
        checks = [Check("a", 2.0, 2.0, 2.0, 3.0), Check("b", 2.0, 1.0, 3.0, 0.0)]
        tables = [Table("cells", ["B"], CELLS), Table("fit", ["B_crit"], FITS)]
        return Result("steps", "How?", "So.", checks, tables, advice="Do.")

    def one(lab, work, preset, *, optimizers=("sgd",), target=None):
        called["one"] = {"optimizers": optimizers, "target": target}
        return Result("one", "What?", "That.")

    def refuses(lab, work, preset):
        raise ConfigurationError("not with texts")

    found = {"one": one, "steps": steps, "refuses": refuses}
    for name, run in found.items():
        module = ModuleType(name)
        module.run = run
        monkeypatch.setitem(sys.modules, f"launch.study.experiments.{name}", module)
    kept = dict.fromkeys((*found, "all"), "")
    monkeypatch.setattr(experiments, "VERBS", kept)
    monkeypatch.setattr(everything, "VERBS", kept)
    return called


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
    with pytest.raises(ConfigurationError, match=r"^--eta has no effect on any of these experiments$"):
        everything.run(None, Workload(), "quick", eta=3)
    assert not verbs


def test_the_advice_names_the_largest_useful_batch_and_why(verbs):
    first, *others = everything.run(None, Workload(), "quick")
    assert first.advice.startswith("The largest useful batch here is about 187 examples with adam (critical batch size")
    assert "because" in first.advice and "below 60" in first.advice and "(B = 256) the best" in first.advice
    assert not any(result.advice for result in others)


def test_one_page_for_all(verbs, tmp_path, monkeypatch, capsys):
    from launch.study import command

    monkeypatch.setattr(command, "VERBS", experiments.VERBS)
    monkeypatch.chdir(tmp_path)
    assert main(["study", "all", "--jobs", "1", "--out", "here"]) == 0
    page = (tmp_path / "here" / "report.html").read_text()
    assert page.index("largest useful batch") < page.index("How?") and "not with texts" in page
    said = capsys.readouterr().out
    assert "2 experiments on digits, mlp:128: 1 checks PASS, 0 INCONCLUSIVE, 1 FAIL." in said and "So." in said
