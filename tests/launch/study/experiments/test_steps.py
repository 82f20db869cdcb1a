"""`allgrad study steps`."""

import json
import math
import re

import pytest

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import Lab, Workload, steps
from allgrad.launch.study.choices import Cell, findings
from allgrad.launch.study.command import status, table
from allgrad.launch.study.experiments.steps import TIMED_BLOCKS, summarize
from allgrad.launch.study.lr_tuning import Tuned
from allgrad.launch.study.result import FAIL, INCONCLUSIVE, NONE, PASS
from tests.launch.study.planted import BATCHES, COMMON, FALLING, FLAT, HYPERBOLA, REGRESSION, cells, with_failures


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A study of three batch sizes, and its directory."""
    out = tmp_path_factory.mktemp("steps")
    with Lab(out, jobs=1) as lab:
        result = steps(
            lab, Workload(), optimizers=("sgd",), batches=(8, 64, 512), seeds=(0, 1), report_seeds=(100, 101)
        )
    return result, out


def test_digits_scale_perfectly_first_and_then_no_more(small):
    rows = small[0].tables[0].rows
    s = {row["B"]: row["S"] for row in rows}
    assert 4.0 <= s[8] / s[64] <= 8.0 and 1.5 <= s[64] / s[512] <= 3.0
    assert rows[0]["region"] is None and rows[1]["slope"] < rows[2]["slope"] < -0.1
    assert all(row["E"] == row["B"] * row["S"] and row["n_fail"] == 0 and not row["at_edge"] for row in rows)
    assert all(row["ci_lo"] <= row["S"] <= row["ci_hi"] for row in rows)
    assert small[0].claims == [] and "sampler epoch" in small[0].methods
    (fit,) = small[0].tables[1].rows
    assert fit["n_batches"] == 3 and math.isnan(fit["B_crit_lo"]) and math.isnan(fit["B_2x_lo"])
    assert small[0].headline == "sgd: critical batch size not known, 3 batch sizes are too few, give 4."


def test_the_choices_are_timed(small):
    result, out = small
    assert "fast" in {row["choice"] for row in result.summary.rows}
    rows = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    timed = [row for row in rows if row["config"]["kind"] == "steps"]
    assert {row["config"]["batch"] for row in timed} == {row["batch"] for row in result.summary.rows}
    for row in timed:
        assert row["status"] == "ok" and len(row["seconds_a_step"]) == TIMED_BLOCKS
        assert all(seconds > 0.0 for seconds in row["seconds_a_step"]) and row["steps"] >= 3 * (TIMED_BLOCKS + 1)
    for row in result.summary.rows:  # about steps times the time of one: a plain number, since other runs disturb it
        (blocks,) = (each["seconds_a_step"] for each in timed if each["config"]["batch"] == row["batch"])
        steps = float(row["steps"].split()[0].replace(",", ""))
        assert steps * min(blocks) * 0.99 <= row["seconds"] <= steps * max(blocks) * 1.01
    assert result.summary.meanings["seconds"].startswith("about, on one core")


def test_its_figures_are_drawn(small):
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    for figure in small[0].figures:
        drawn = figure.draw()
        drawn.canvas.draw()
        assert drawn.axes and all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn.axes)
        plt.close(drawn)


def test_what_a_directory_holds(small):
    _, out = small
    said = status(out)
    runs = len((out / "runs.jsonl").read_text().splitlines())
    assert f"{runs} runs" in said and "steps " in said and " ok" in said
    shown = table(out).splitlines()
    assert len(shown) == runs + 1 and shown[0].split()[:4] == ["run_id", "exp", "data", "model"]
    every = table(out, csv=True).splitlines()
    assert len(every) == runs + 1 and "config.lr" in every[0] and "wall_s" in every[0]


# --- what is said, of cells whose law is known ------------------------------------------------------------------------


def told(found, seeds=5):
    """The result of planted cells."""
    found, left_out = findings(found, COMMON)
    assert not left_out
    return summarize(Workload(), found, COMMON, (0, 1, 2), tuple(range(100, 100 + seeds)), "quick")


def test_batch_sizes_at_which_nothing_works():
    fails = Cell("sgd", 2048, Tuned(math.nan, math.inf, True, {}, 0, why="it diverges"))
    result = told([*cells(HYPERBOLA), fails])
    assert "sgd at B = 2048: no learning rate works: it diverges." in result.notes
    assert result.headline == told(cells(HYPERBOLA)).headline
    assert math.isnan(result.tables[0].rows[-1]["S"]) and result.tables[0].rows[-1]["n_seeds"] == 0


def test_of_a_hyperbola_the_curve_leads():
    result = told(cells(HYPERBOLA))
    (row,) = result.tables[1].rows
    assert row["lead"] == "B_crit" and row["B_crit_lo"] <= 128.0 <= row["B_crit_hi"] and row["p_fit"] >= 0.05
    (said,) = re.findall(r"sgd (\d+) \[(\d+), (\d+)\]", result.headline)
    assert [*map(int, said)] == [round(row[column]) for column in ("B_crit", "B_crit_lo", "B_crit_hi")]
    assert "The curve S_min (1 + B_crit / B) is not rejected (p = " in result.advice and "is rejected" not in " ".join(
        result.findings
    )
    assert {round(row["b_crit"] / 128.0, 1) for row in result.tables[2].rows} == {1.0}  # whichever batches are used


def test_of_linear_regression_no_curve_does():
    result = told(cells(REGRESSION))
    (row,) = result.tables[1].rows
    assert row["lead"] == "B_2x" and row["p_fit"] < 0.05 and f"sgd {row['B_2x']:.0f} [" in result.headline
    assert "no curve S_min (1 + B_crit / B) describes the steps (p < 0.001)" in result.advice
    assert "not rejected" not in result.advice and f"{row['B_crit']:.0f}" not in result.headline
    assert any("rejected (p < 0.001)" in line for line in result.findings)
    assert any("a shape that the steps do not have" in note for note in result.notes)


def test_one_seed_decides_nothing():
    result = told([*cells(HYPERBOLA, seeds=1), *cells(REGRESSION, seeds=1, name="momentum")], 1)
    assert result.headline.count("not known, an interval needs 2 report seeds") == 2
    assert [verdict.word for verdict in result.verdicts] == [NONE]
    assert result.advice.count("with 1 report seed nothing can be told apart: give --report-seeds 3 or more") == 2
    assert not any(word in result.advice for word in ("fewest", "examples", "fall"))
    assert result.summary.rows == []


def test_two_seeds_have_no_verdict():
    slow, fast = ({b: 10.0 * (1.0 + critical / b) for b in BATCHES} for critical in (30.0, 90.0))
    result = told([*cells(slow, seeds=2), *cells(fast, seeds=2, name="momentum", draw=1)], 2)
    (verdict,) = result.verdicts
    assert verdict.word == NONE and verdict.why == "2 report seeds, and a verdict needs 3"


def test_cells_with_failed_seeds_are_left_out_and_said():
    result = told(with_failures(cells(HYPERBOLA), 64))
    (row,) = (row for row in result.tables[0].rows if row["B"] == 64)
    assert row["n_fail"] == 1 and math.isnan(row["ci_lo"]) and math.isfinite(row["S"])
    assert result.tables[1].rows[0]["n_batches"] == 8
    (said,) = [note for note in result.notes if note.startswith("sgd at B = 64: 1 of 5 fresh seeds failed")]
    assert said.endswith("has no interval, and decides nothing.")


def test_three_batch_sizes_have_no_interval_and_say_so():
    result = told(cells({b: HYPERBOLA[b] for b in (4, 64, 1024)}))
    assert result.headline == "sgd: critical batch size not known, 3 batch sizes are too few, give 4."
    assert "No critical batch size is to be had" in result.advice and "20 % more examples" not in result.advice
    assert [row["choice"] for row in result.summary.rows] == ["fast"]  # no interval, no cheapest
    assert any("two numbers through three points" in note for note in result.notes)


@pytest.mark.parametrize(
    "steps, why, last",
    [(FLAT, "already the smallest batch tried takes less than twice", "That a batch above 4 saves"),
     (FALLING, "no batch tried surely needs over 1.2 times the fewest examples", "At 32, the largest tried, the")],
    ids=["flat", "1/B"],
)  # fmt: skip
def test_steps_that_do_not_bend_have_no_compromise(steps, why, last):
    result = told(cells(steps))
    assert result.headline.startswith(f"sgd: critical batch size not known, {why}") and last in result.advice
    assert [row["choice"] for row in result.summary.rows] == ["cheap", "fast"]


def test_all_optimizers_are_read_in_the_same_way():
    curved = [*cells(HYPERBOLA), *cells(HYPERBOLA, name="adam", draw=1)]
    result = told(curved)
    assert "by the curve" in result.headline and len(re.findall(r"\d+ \[\d+, \d+\]", result.headline)) == 2
    result = told([*curved, *cells(REGRESSION, name="momentum")])
    assert [row["lead"] for row in result.tables[1].rows] == ["B_crit", "B_crit", "B_2x"]
    assert "read off the measured points" in result.headline and "by the curve" not in result.headline
    said = [int(number) for number in re.findall(r"(\d+) \[\d+, \d+\]", result.headline)]
    assert said == [round(row["B_2x"]) for row in result.tables[1].rows]


def test_at_least_is_said_where_the_steps_may_still_fall():
    assert "At least so for sgd: batches above 1,024" in told(cells(REGRESSION)).headline
    risen = told(cells({**HYPERBOLA, 1024: 20.0}))  # the curve is rejected, so that B_2x leads
    assert "read off the measured points" in risen.headline and "At least" not in risen.headline
    assert "That a batch above 512 saves more than 5 % of the steps is not shown." in risen.advice
    assert [row["batch"] for row in risen.summary.rows if row["choice"] == "fast"] == [512]
    assert "At least" not in told(cells(HYPERBOLA)).headline  # S_min is a limit: with larger batches B_crit stays


def test_a_straight_line_has_no_number_in_the_headline():
    """Steps that fall as 1/B, rates tuned by chance as Adam's are: the curve bends far beyond what was tried."""
    bent = 0
    for draw in range(20):
        result = told(cells({b: 1600.0 / b for b in BATCHES}, scatter=0.1, draw=draw))
        bent += math.isfinite(result.tables[1].rows[0]["B_crit_lo"])
        assert result.headline.startswith("sgd: critical batch size not known, no batch tried surely needs over 1.2")
        assert "B_crit is" not in result.advice and "critical" not in {row["choice"] for row in result.summary.rows}
    assert bent >= 5


def test_an_optimizer_without_enough_batch_sizes_is_left_out_and_said(monkeypatch):
    class Planted:
        """A laboratory whose runs are timings."""

        def map(self, function, items):
            return [function(item) for item in items]

        def run(self, configs, experiment=""):
            return [{"seconds_a_step": [1e-3, 1.1e-3]} for _ in configs]

    def planted(setting, optimizer, batches):
        found = cells(HYPERBOLA, name=optimizer)
        return found if optimizer == "sgd" else with_failures(found, 64, 5)[3:6]

    monkeypatch.setattr("allgrad.launch.study.experiments.steps.Setting.tune_batches", planted)
    monkeypatch.setattr("allgrad.launch.study.experiments.steps.Setting.run_report_seeds", lambda *args: None)
    result = steps(Planted(), Workload(), optimizers=("sgd", "adam"))
    assert result.headline == told(cells(HYPERBOLA)).headline and "adam" not in result.advice
    assert "Left out: adam meets train_loss 0.05 on all seeds with 2 of 3 batch sizes, where 3 are needed" in " ".join(
        result.notes
    )
    with pytest.raises(ConfigurationError, match=r"^adam meets train_loss 0.05 on all seeds with 2 of 3"):
        steps(Planted(), Workload(), optimizers=("adam",))


def test_rates_that_were_stepped_back_from_are_said():
    found = cells(HYPERBOLA)
    found[2].tuned.failed_rates.append(0.14)
    (said,) = [note for note in told(found).notes if note.startswith("sgd at B = 16")]
    assert said.endswith("a fresh seed failed with them: 0.1 was taken, the next lower one that worked.")


def test_the_words_are_those_of_the_intervals():
    quiet, loud = told(cells(HYPERBOLA)), told(cells(HYPERBOLA, scatter=0.5))
    assert "At 1,024, the largest tried, the steps may still fall." in quiet.advice
    assert "That a batch above 256 saves more than 5 % of the steps is not shown." in loud.advice
    falls = "the steps fall as 1/B (slope of logarithms -0.9"
    assert falls in quiet.findings[0] and falls not in loud.findings[0]
    saved = re.findall(r"from 512 to 1,024 the steps are (.*)\.", " ".join(quiet.findings))[0]
    assert re.match(r"\d+(\.\d+)? to \d+(\.\d+)? % fewer", saved)
    assert re.search(r"the steps are between \d+ % fewer and \d+ % more", " ".join(loud.findings))


def test_the_advice_begins_with_the_setting_and_ends_with_what_is_not_known():
    first, choices, last = told(cells(HYPERBOLA)).advice.splitlines()
    assert first.startswith("digits, mlp:128, to train_loss 0.5: batch sizes 4 to 1,024") and "5 report seeds" in first
    assert choices.startswith(
        "sgd: Up to a batch of 16 the examples are surely at most 20 % more than the fewest."
    ) and last.startswith("Not known")


@pytest.mark.parametrize(
    "sgd, momentum, verdict",
    [(30.0, 90.0, PASS), (90.0, 30.0, FAIL), (60.0, 61.0, INCONCLUSIVE), (math.inf, 90.0, NONE), (0.0, 90.0, NONE)],
)  # fmt: skip
def test_batches_of_two_optimizers_are_compared(sgd, momentum, verdict):
    found = []
    for i, (name, critical) in enumerate((("sgd", sgd), ("momentum", momentum))):
        law = {b: 4000.0 / b if math.isinf(critical) else 10.0 * (1.0 + critical / b) for b in BATCHES}
        found += cells(law, name=name, draw=i, scatter=0.05)
    result = told(found)
    (claim,) = result.claims
    assert "momentum makes use of larger batches than sgd" in claim.claim and "Shallue et al. 2019" in claim.source
    assert [one.word for one in result.verdicts] == [verdict]


def test_claims_are_of_the_batch_sizes_that_both_optimizers_have():
    laws = {"sgd": 30.0, "momentum": 60.0, "adam": 120.0}
    found = [cells({b: 10.0 * (1.0 + critical / b) for b in BATCHES}, name=name, draw=i)
             for i, (name, critical) in enumerate(laws.items())]  # fmt: skip
    with_failures(found[1], 1024)
    result = told([cell for part in found for cell in part])
    assert [claim.claim.split(" (")[0] for claim in result.claims] == [
        "momentum makes use of larger batches than sgd", "adam makes use of larger batches than momentum",
    ]  # fmt: skip
    assert "1907.04164" in result.claims[1].source
    for claim, (first, second) in zip(result.claims, ((30.0, 60.0), (60.0, 120.0))):
        (e,) = claim.estimates
        truth = 2.0 * (1.0 + 2.0 * first / 512.0) / (1.0 + 2.0 * second / 512.0)  # up to 512, which all three have
        assert e.low <= truth <= e.high and e.high / e.low < 1.3


@pytest.mark.parametrize("law", [HYPERBOLA, REGRESSION, FLAT], ids=["hyperbola", "regression", "flat"])
def test_figures_of_all_cases_are_drawn(law):
    plt = pytest.importorskip("matplotlib.pyplot")
    for figure in told(with_failures(cells(law), 8)).figures:
        drawn = figure.draw()
        drawn.canvas.draw()
        assert drawn.axes[0].get_xlabel()
        plt.close(drawn)
