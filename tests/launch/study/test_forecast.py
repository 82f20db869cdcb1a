"""How many runs experiments do, beside how many they were said to do."""

from collections import Counter

import pytest

from allgrad.launch.study import Lab, Workload, experiments
from allgrad.launch.study.forecast import FORECASTS, forecast

SMALL = Workload("digits", "softmax", eval_samples=200)


def test_cells_are_tuned_by_four_to_six_rates_and_run_on_fresh_seeds():
    options = {"optimizers": ("sgd", "adam"), "batches": (8, 64), "seeds": (0, 1, 2), "report_seeds": (100, 101)}
    cell = 4 * 3 + 2, 6 * 3 + 2
    assert forecast("steps", options, {}) == {("steps", name, b): cell for name in ("sgd", "adam") for b in (8, 64)}
    assert forecast("budgets", {**options, "budgets": ("1ep", "20")}, {})["budgets", "sgd", 8] == (28, 40)
    assert forecast("scaling", options, {}) == {}


@pytest.mark.parametrize("preset", ["quick", "full"])
@pytest.mark.parametrize("verb", [verb for verb in experiments.VERBS if verb != "all"])
def test_every_experiment_has_a_forecast_of_its_presets(verb, preset):
    run = experiments.module_of(verb).run
    cells = run.expected(preset, run.chosen(preset, {}))
    assert all(0 < least <= most for least, most in cells.values())
    assert all(batch is None or isinstance(batch, int) for _, _, batch in cells)
    assert bool(cells) == (verb not in ("scaling", "project", "pareto"))
    assert FORECASTS.keys() <= experiments.VERBS.keys()


@pytest.mark.parametrize(
    "verb, options",
    [("steps", {"optimizers": "sgd", "batches": (16, 32, 64, 128), "target": 0.3}),
     ("budgets", {"optimizers": "sgd", "batches": (16, 64), "budgets": ("20", "1ep")}),
     ("sharp", {"batches": (16, 64), "target": 0.3})],
)  # fmt: skip
def test_the_runs_that_are_done_are_about_those_of_the_forecast(verb, options, tmp_path):
    run = experiments.module_of(verb).run
    options |= {"seeds": 2, "report_seeds": 2}
    cells = run.expected("quick", run.chosen("quick", options))
    with Lab(tmp_path, jobs=1) as lab:
        run(lab, SMALL, **options)
        at = Counter(row["config"]["batch"] for row in lab.ledger.rows.values())
    least, most = (sum(bounds[end] for bounds in cells.values()) for end in (0, 1))
    assert 0.6 * least < at.total() < 1.6 * most and {batch for _, _, batch in cells} == at.keys()
