"""`allgrad study init`."""

import math

import numpy as np
import pytest

from allgrad.launch.study import Lab, Workload, runner
from allgrad.launch.study.experiments import init
from allgrad.launch.study.lr_tuning import Tuned


def scheme(name, model="mlp:32,32", **given):
    words = {"kind": "init", "batch": 32, "target": 1.0, "scheme": name, "seed": 3}
    return runner.configuration(Workload(model=model), "sgd", **{**words, **given})


def test_schemes_draw_what_they_say():
    of = {name: init.Scheme(scheme(name)) for name in init.SCHEMES}
    std = {name: float(run.model.layers[2].weight.numpy().std()) for name, run in of.items()}
    for name, wanted in {"he": 2 / 32, "xavier": 2 / 64, "lecun": 1 / 32, "torch": 1 / 96, "small": 1e-4,
                         "zero": 0.0, "unit-normal": 1.0}.items():  # fmt: skip
        assert std[name] == pytest.approx(math.sqrt(wanted), rel=0.1), name
    a, b = (of[name].model.layers[2].weight.numpy() for name in ("he", "lecun"))
    np.testing.assert_allclose(a, b * math.sqrt(2.0), rtol=1e-5)  # the same numbers, scaled
    assert all(float(np.abs(run.model.layers[0].bias.numpy()).max()) == 0.0 for run in of.values())


def test_layers_of_zero_weights_compute_nothing_and_learn_nothing():
    layers = init.Scheme(scheme("zero")).layers()
    assert [layer["act_std"] for layer in layers] == [0.0] * 3 and all(x["grad_norm"] == 0.0 for x in layers)
    small, unit = (init.Scheme(scheme(name)).layers() for name in ("small", "unit-normal"))
    assert small[2]["act_std"] < 0.01 * small[0]["act_std"] and unit[2]["act_std"] > 10.0 * unit[0]["act_std"]


def test_a_loss_that_begins_high_has_not_diverged():
    run = init.Scheme(scheme("unit-normal"))
    first, _ = run.start
    assert first > 50.0 and not run.diverged(2.0 * first) and run.diverged(22.0 * first) and run.diverged(math.nan)


@pytest.mark.parametrize("model, deeper", [("mlp:8", "mlp:8,8,8"), ("mlp:8,4:gelu", "mlp:8,8,8:gelu")])
def test_a_deeper_model_has_the_first_width_and_the_same_activation(model, deeper):
    shallow, deep = init._models(Workload(model=model), 3).values()
    assert (shallow.model, deep.model) == (model, deeper) and deep.build()


def test_the_experiment(tmp_path, monkeypatch):
    grid = {"schemes": ("he", "zero"), "deep": 2, "cap": 60, "seeds": (0,), "report_seeds": (100, 101)}
    monkeypatch.setitem(init.GRIDS, "quick", grid)
    with Lab(tmp_path, jobs=1) as lab:
        result = init.run(lab, Workload(model="mlp:16"), target=1.0)
    rows = {(row["scheme"], row["depth"]): row for row in result.tables[0].rows}
    assert {*rows} == {("he", "1"), ("zero", "1"), ("he", "2"), ("zero", "2")}
    assert rows["zero", "1"]["n_fail"] == 2 and rows["he", "1"]["n_fail"] == 0 and rows["he", "1"]["over_he"] == 1.0
    assert result.claims == []
    assert any("Depth 1: from weights that are all zero 2 of 2 seeds do not meet" in said for said in result.findings)
    assert "Depth 1: he takes " in result.headline and "zero fails with 2 of 2 seeds" in result.headline
    assert math.isnan(rows["he", "1"]["over_he_lo"]) and math.isnan(rows["zero", "1"]["ci_lo"])
    assert any("no learning rate" in note for note in result.notes)


def test_he_keeps_the_scale_of_hidden_layers_and_the_others_multiply_it():
    """He et al. 2015, eq. 9: by sqrt(n Var[w] / 2) a layer, n = 128; 12 seeds of 5 factors scatter by about 3 %."""
    for name, wanted in {"he": 1.0, "lecun": 0.5**0.5, "small": 0.08, "unit-normal": 8.0}.items():
        found = [init._factor({"layers": init.Scheme(scheme(name, "mlp:" + ",".join(["128"] * 6), seed=seed)).layers()})
                 for seed in range(12)]  # fmt: skip
        assert np.exp(np.log(found).mean()) == pytest.approx(wanted, rel=0.1), name


def of(scheme, steps, hidden=True):
    rows = [
        {"initial_train_loss": 2.3, "status": "ok" if math.isfinite(s) else "capped", "config": {"lr": 0.1},
         "steps_to_target": s, "layers": [{"act_std": None}] * (1 + hidden)}
        for s in steps
    ]  # fmt: skip
    tuned = Tuned(0.1, 30.0, False, {}, 3, rows) if any(map(math.isfinite, steps)) else None
    return init.Cell(scheme, "1", tuned, rows)


def test_of_equal_schemes_hardly_any_is_told_apart_or_left_out():
    """Six schemes that are all alike, 12 seeds: any apart, or he not advised, in 5 % of studies at most."""
    rng, apart, left_out = np.random.default_rng(6), 0, 0
    for _ in range(100):
        cells = {("1", name): of(name, 100.0 * np.exp(0.1 * rng.standard_normal(12)))
                 for name in ("he", "xavier", "lecun", "torch", "small", "unit-normal")}  # fmt: skip
        apart += bool(init._sorted_by("1", cells)[0])
        left_out += "he" not in init._advice("1", cells).split(": ")[1].rstrip(".").split(" or ")
    assert apart <= 10 and left_out <= 10  # 5 expected at most; more than 10 in 1.1 % of cases (binomial)


def test_two_seeds_tell_nothing_apart():
    cells = {("1", "he"): of("he", [30.0, 31.0]), ("1", "small"): of("small", [60.0, 62.1])}
    assert init._sorted_by("1", cells) == ({}, ["small"], [])
    assert init._advice("1", cells) == "Depth 1: no advice: it needs 3 seeds that do not fail."


@pytest.mark.parametrize("hidden", [True, False])
def test_what_is_said_follows_from_intervals(hidden):
    he = [30.0, 31.0, 29.0, 30.0, 32.0, 30.0]
    cells = [
        of("he", he, hidden), of("xavier", [30.5, 30.0, 30.0, 29.0, 33.0, 31.0]),
        of("small", [50.0, 56.0, 49.0, 52.0, 55.0, 51.0]),
        of("torch", [36.0] * 5 + [math.inf]), of("zero", [math.inf] * 6, hidden),
    ]  # fmt: skip
    common = {"metric": "train_loss", "target": 0.1, "sampler": "epoch", "eval_ratio": 1.05}
    result = init.summarize(Workload(), {"1": Workload()}, cells, common, "sgd", (0,), tuple(range(6)), 600)
    shares = [said for said in result.findings if "6 of 6 seeds do not meet the target, a share of 1 [0.54, 1]" in said]
    assert len(shares) == hidden and result.claims == []  # a single layer is convex, and learns from zero
    said = result.headline
    assert "small 67 to 77 % more, xavier not told apart from he, torch fails with 1 of 6 seeds" in said
    assert result.advice == "Depth 1: he or xavier: small, torch, zero need more steps than another, or fail."
