"""`allgrad study noise`."""

from types import SimpleNamespace

import numpy as np
import pytest

import allgrad as ag
from allgrad.ddp import ConfigurationError
from allgrad.ddp.scaling import Frozen, hessian_product
from allgrad.launch.study import Lab, Workload, runner
from allgrad.launch.study.experiments import noise


def config(work=None, **given):
    work = work or Workload(model="mlp:4")
    words = {"kind": "noise", "batch": 32, "lr": 0.3, "target": 1.5, "shards": 4, "draws": 3, "probe_ratio": 2.0}
    return runner.configuration(work, "sgd", **{**words, **given})


def test_traces_are_those_of_every_sample():
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(60, 5)), rng.integers(3, size=60), rng.normal(size=(9, 5)), rng.integers(3, size=9)
    run = noise.Probed(config(Workload(arrays, "mlp:4"), batch=8, draws=150))
    probe = run.probe()
    frozen = Frozen(run.snapshot(), ag.cross_entropy, *run.parts["train"])
    rows = np.array([frozen.gradient(slice(i, i + 1)) for i in range(60)])
    mean, spread = rows.mean(0), rows - rows.mean(0)
    assert probe["trace"] == pytest.approx((spread**2).sum() / 59)
    assert probe["signal"] == pytest.approx(mean @ mean) and probe["corrected"] < probe["signal"]
    weighted = sum(v @ hessian_product(frozen, v) for v in spread) / 59
    along = mean @ hessian_product(frozen, mean)
    assert probe["B_noise"] == pytest.approx(weighted / along, rel=0.25)  # of 150 draws
    assert probe["eta_max"] == pytest.approx(mean @ mean / along)


def test_a_loss_of_ones_own_is_measured_from_micro_batches():
    exact, parts = (noise.Probed(config(Workload(model="mlp:4", objective=o))).probe() for o in (None, objective))
    assert parts["signal"] == pytest.approx(exact["signal"]) and parts["B_noise"] == pytest.approx(exact["B_noise"])
    assert parts["trace"] == pytest.approx(exact["trace"], rel=0.3) and parts["trace"] != exact["trace"]


def objective(model, data):
    return lambda x, y: ag.cross_entropy(model(x), y), lambda x, y: {"loss": ag.cross_entropy(model(x), y, "none").data}


def test_a_probe_changes_nothing():
    plain = runner.execute(config(kind="steps_to_target"))
    row = runner.execute(config())
    assert row["status"] == "ok" and row["steps_to_target"] == plain["steps_to_target"]
    steps = [probe["t"] for probe in row["probes"]]
    assert steps[:3] == [0, 1, 2] and steps[-1] == row["steps"] and steps == sorted({*steps})


def test_the_prediction_is_the_mean_over_steps():
    probes = [{"t": 0, "B": 10.0}, {"t": 1, "B": 20.0}, {"t": 2, "B": None}, {"t": 5, "B": 40.0}]
    assert noise.predicted({"probes": probes}, "B") == pytest.approx((15.0 + 4 * 30.0) / 5)
    assert np.isnan(noise.predicted({"probes": probes[:1]}, "B"))


def test_the_experiment(tmp_path, monkeypatch):
    grid = {"optimizers": ("sgd",), "at": (16,), "runs": (200, 201), "draws": 2, "ratio": 3.0}
    monkeypatch.setitem(noise.GRIDS, "quick", grid)
    with Lab(tmp_path, jobs=1) as lab:
        result = noise.run(lab, Workload(), target=0.5, batches=(16, 64, 256), seeds=(0,), report_seeds=(100, 101))
    (row,), trace = (table.rows for table in result.tables)
    assert row["B"] == 16 and row["n_seeds"] == 2 and row["n_fail"] == 0 and row["growth"] > 1.0
    assert row["B_simple_lo"] <= row["B_simple"] <= row["B_simple_hi"]
    assert row["B_simple/B_crit"] == pytest.approx(row["B_simple"] / row["B_crit"])
    assert trace[0]["t"] == 0 and trace[0]["B_ema"] is None and trace[0]["n_seeds"] == 2
    assert len(result.checks) == 3 and "measured B_crit" in result.headline


@pytest.mark.parametrize("given, momentum", [({"momentum": 0}, 0.0), ({"momentum": 0.5}, 0.5), ({}, 0.9)])
def test_the_noise_is_that_of_the_optimizer_whose_steps_are_counted(given, momentum, monkeypatch):
    tables = [SimpleNamespace(rows=[{"optimizer": "momentum", "B": 16, "S": 9.0, "lr": 0.1}])] * 2
    monkeypatch.setattr(noise.steps, "run", lambda *work, **options: SimpleNamespace(tables=tables))
    asked = []

    def run(configs, name):
        asked.extend(config["momentum"] for config in configs)
        return [{"status": "error", "error": "enough"}] * len(configs)

    with pytest.raises(ConfigurationError, match=r"^the noise cannot be measured: enough$"):
        noise.run(SimpleNamespace(run=run), Workload(), optimizers="momentum", **given)
    assert {*asked} == {momentum}
