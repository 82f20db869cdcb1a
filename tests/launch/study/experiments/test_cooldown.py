"""`allgrad study cooldown`."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from allgrad.autograd import nn
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import Lab, Workload, configuration, execute
from allgrad.launch.study.experiments import cooldown
from allgrad.launch.study.lr_tuning import Tuned

COOLING = {"kind": "cooldown", "decay": 0.2, "shape": "1-sqrt", "averages": [0.9]}


# --- the bits of a branch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, optimizer, more",
    [
        ("mlp:16", "momentum", {"warmup": 7}), ("mlp:16", "adamw", {"weight_decay": 0.1}), ("mlp:16", "muon", {}),
        ("mlp:16", "soap", {}), ("cnn:3", "sgd", {}),
    ],
)  # fmt: skip
def test_a_branch_has_the_bits_of_a_run_with_the_schedule_wsd(model, optimizer, more):
    work = Workload(model=model, dropout=0.3 if model.startswith("mlp") else 0.0)
    given = {"batch": 64, "lr": 0.01, "seed": 3, "sampler": "epoch", "metric": "val_loss", **more}
    row = execute(configuration(work, optimizer, **COOLING, budgets=["23", "46", "1.5ep"], steps="46", **given))
    assert [one["budget"] for one in row["budgets"]] == ["23", "1.5ep", "46"] and row["status"] == "ok"
    for one in row["budgets"]:
        alone = execute(configuration(work, optimizer, steps=one["budget"], schedule="wsd:0.2,1-sqrt", **given))
        assert (one["cooled"], one["steps"]) == (alone["final_val_loss"], alone["steps"])
        plain = execute(configuration(work, optimizer, steps=one["budget"], **given))
        assert one["loss"] == plain["final_val_loss"] != one["cooled"]


def test_a_budget_may_end_within_the_decay_of_the_next():
    given = {"batch": 64, "lr": 0.1, "seed": 3, "averages": [], "shape": "linear", "decay": 0.5}
    both = execute(configuration(Workload(), "momentum", kind="cooldown", budgets=["20", "24"], steps="24", **given))
    last = execute(configuration(Workload(), "momentum", kind="cooldown", budgets=["24"], steps="24", **given))
    assert both["budgets"][1] == last["budgets"][0]


def test_a_run_that_diverges_has_no_loss_from_there_on():
    given = {"batch": 64, "lr": 1e4, "seed": 3, "budgets": ["10", "20"], "steps": "20"}
    row = execute(configuration(Workload(), "sgd", **COOLING, **given))
    assert row["status"] == "diverged" and cooldown._losses(row, "10", cooldown.COOLED) == [math.inf]


# --- the noisy quadratic ---------------------------------------------------------------------------------------------

CURVATURES = np.array([1.0, 0.3, 0.1])
SAMPLES = np.random.default_rng(0).standard_normal((500, 3)) * np.sqrt(CURVATURES)
SAMPLES -= SAMPLES.mean(axis=0)


class Quadratic(nn.Module):
    """Loss sum_i h_i w_i^2 / 2 + x_i w_i from w = 1: the gradient h w, and the noise of samples x."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(np.ones(3))

    def forward(self, x):
        return (x * self.w).sum(1).reshape(-1, 1)


def quadratic(model, data):
    def exact():
        return 0.5 * (CURVATURES * model.w * model.w).sum()

    return lambda x, y: model(x).mean() + exact(), lambda x, y: {"loss": np.full(len(x), float(exact().numpy()))}


def expected(rates, batch, decay):
    """The expected losses of w and of its average after these steps: the second moments of (w, m), step by step."""
    variances, loss = SAMPLES.var(axis=0) / batch, np.zeros(2)
    for h, variance in zip(CURVATURES, variances):
        second = np.array([[1.0, 0.0], [0.0, 0.0]])
        for rate in rates:
            keep = 1.0 - rate * h
            move, gain = np.array([[keep, 0.0], [(1.0 - decay) * keep, decay]]), np.array([1.0, 1.0 - decay])
            second = move @ second @ move.T + rate**2 * variance * np.outer(gain, gain)
        correction = 1.0 - decay ** len(rates)
        loss += 0.5 * h * np.array([second[0, 0], second[1, 1] / correction**2])
    return loss


def test_losses_of_the_noisy_quadratic_are_those_of_its_recursion():
    work = Workload((SAMPLES, SAMPLES[:, 0], SAMPLES[:9], SAMPLES[:9, 0]), Quadratic,
                    dtype="float64", objective=quadratic)  # fmt: skip
    given = {"batch": 4, "lr": 0.5, "budgets": ["20", "40"], "steps": "40", "sampler": "iid", "metric": "train_loss"}
    rows = [execute(configuration(work, "sgd", **COOLING | {"decay": 0.4}, seed=seed, **given)) for seed in range(100)]
    for k, steps in enumerate((20, 40)):
        constant = [0.5] * steps
        begin = steps - 0.4 * steps
        falling = [0.5 * (1.0 - math.sqrt(max(t - begin, 0.0) / (0.4 * steps))) for t in range(steps)]
        plain, averaged = expected(constant, 4, 0.9)
        cooled, _ = expected(falling, 4, 0.9)
        assert cooled < 0.8 * plain
        for found, truth in (
            ([row["budgets"][k]["loss"] for row in rows], plain),
            ([row["budgets"][k]["cooled"] for row in rows], cooled),
            ([row["budgets"][k]["averages"][0] for row in rows], averaged),
        ):
            assert abs(np.mean(found) - truth) < 4.0 * np.std(found) / math.sqrt(len(found))


# --- what it says ----------------------------------------------------------------------------------------------------

STEPS = {"10": 10, "20": 20}
COMMON = {"metric": "val_loss", "schedule": "cosine", "decay": 0.2, "batch": 32, "sampler": "epoch"}


def arms(doubt=0.0, **factors):
    """Arms whose losses are those of separate runs times a factor, within 0.1 %; nan: a seed failed."""
    rng = np.random.default_rng(0)
    base = {budget: 0.1 * np.exp(0.1 * rng.standard_normal(6)) for budget in STEPS}
    rows = {b: [{"status": "ok", "final_val_loss": x} for x in base[b]] for b in STEPS}
    tuned = {b: Tuned(0.1, 1.0, False, {}, 20, rows[b], doubt=doubt) for b in STEPS}
    found = {"separate": cooldown.Arm("separate", tuned, {}, 30)}
    for name, factor in factors.items():
        rows = []
        for seed in range(6):
            losses = [float(base[b][seed] * factor * np.exp(0.001 * rng.standard_normal())) for b in STEPS]
            if math.isnan(factor):
                losses = [1.0 if seed else None, 1.0]
            budgets = [{"budget": b, "loss": x, "cooled": x, "averages": [9.0, x]} for b, x in zip(STEPS, losses)]
            rows.append({"status": "ok", "budgets": budgets})
        one = Tuned(0.1, 1.0, False, {}, 20, rows, doubt=doubt)
        chosen = dict.fromkeys(STEPS, 1) if name == "averaged" else {}
        found[name] = cooldown.Arm(name, dict.fromkeys(STEPS, one), chosen, 15)
    return {"adamw": found}


def said(found):
    return cooldown.summarize(SimpleNamespace(name="planted"), found, STEPS, COMMON, (0, 1, 2), tuple(range(100, 106)))


def test_planted_ratios_are_said_as_their_intervals_have_them():
    found = arms(cooled=1.002, averaged=1.05, constant=1.5)
    result = said(found)
    assert "one run cooled down, 50 % of the steps: equal within 1 %" in result.headline
    assert "averages of one run, 50 % of the steps: 4.9 to 5 % more loss" in result.headline
    assert "one run cooled down: all budgets in 50 %" in result.advice
    ratios = {row["arm"]: row for row in result.summary.rows}
    for name, factor in (("cooled", 1.002), ("averaged", 1.05), ("constant", 1.5)):
        assert ratios[name]["ratio"] == pytest.approx(factor, rel=1e-3)
        assert ratios[name]["ratio_lo"] < ratios[name]["ratio"] < ratios[name]["ratio_hi"]
    assert all(figure.draw().axes for figure in result.figures) and len(result.tables[0].rows) == 8


def test_doubts_about_rates_add_to_the_error_of_a_ratio():
    sure, doubtful = (arms(doubt=doubt, cooled=1.002)["adamw"] for doubt in (0.0, 0.02))
    a, b = (cooldown.over(of["cooled"], of["separate"], [*STEPS], "val_loss") for of in (sure, doubtful))
    assert b.value == a.value and b.error**2 - a.error**2 == pytest.approx(0.02**2 * (1.0 + 1.0 / len(STEPS)))


def test_losses_below_0_have_no_ratio_and_equal_ones_have_the_error_of_the_rates():
    below = arms(cooled=-1.0)["adamw"]
    assert cooldown.over(below["cooled"], below["separate"], [*STEPS], "val_loss").why == "a ratio needs values above 0"
    sure, doubtful = (
        cooldown.over(base, base, [*STEPS], "val_loss") for base in (arms(d)["adamw"]["separate"] for d in (0.0, 0.02))
    )
    assert sure.why == "the seeds do not differ" and not sure.known
    assert doubtful.known and doubtful.error == pytest.approx(0.02 * math.sqrt(1.0 + 1.0 / len(STEPS)))


def test_a_failed_seed_is_not_compared():
    result = said(arms(cooled=math.nan, averaged=1.05))
    assert "one run cooled down, 50 % of the steps: not compared (1 of 6 seeds failed)" in result.headline
    assert "no single run is known to come within 1 %" in result.advice
    assert [row["n_fail"] for row in result.tables[0].rows if row["arm"] == "cooled"] == [1, 0]
    assert any("cooled, 10: 1 of 6 seeds failed" in note for note in result.notes)


@pytest.mark.parametrize(
    "given, text",
    [({"metric": "val_accuracy"}, "train_loss or val_loss"), ({"decay": 1.5}, "share of a budget"),
     ({"budgets": ("3",)}, "shorter than a step"), ({"steps": "9"}, "give --budgets")],
)  # fmt: skip
def test_refusals(given, text, tmp_path):
    with Lab(tmp_path, jobs=1) as lab, pytest.raises(ConfigurationError, match=text):
        cooldown.run(lab, Workload(), **given)


def test_it_runs(tmp_path):
    given = {"optimizers": ("adamw",), "budgets": ("10", "20"), "seeds": (0,), "report_seeds": 3, "batches": (64,)}
    with Lab(tmp_path, jobs=1) as lab:
        result = cooldown.run(lab, Workload(model="mlp:16"), **given)
        kinds = {row["config"]["optimizer"] for row in lab.ledger.rows.values()}
    rows = {(row["arm"], row["budget"]): row for row in result.tables[0].rows}
    assert len(rows) == 10 and kinds == {"adamw", "schedulefree-adamw"}
    assert all(row["loss"] > 0.0 for row in rows.values())
    steps = {row["arm"]: row["steps"] for row in result.summary.rows}
    assert steps == {"separate": 30, "cooled": 16 + 2 + 4, "averaged": 20, "constant": 20, "schedule-free": 20}
    for budget in ("10", "20"):
        assert rows["averaged", budget]["average"] in cooldown.AVERAGES
    assert not result.claims
