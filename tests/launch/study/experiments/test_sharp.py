"""`allgrad study sharp`."""

import numpy as np
import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.study import Lab, Workload
from allgrad.launch.study.experiments import sharp


def test_the_experiment(tmp_path, monkeypatch):
    grid = {"batches": (32, 256), "seeds": (0,), "report_seeds": (100, 101), "iterations": 3}
    monkeypatch.setitem(sharp.GRIDS, "quick", grid)
    with Lab(tmp_path, jobs=1) as lab:
        result = sharp.run(lab, Workload(model="softmax"), target=0.5)
    cells, rates = (table.rows for table in result.tables)
    assert [row["B"] for row in cells] == [32, 256] and all(row["n_fail"] == 0 for row in cells)
    assert all(0.0 < row["ci_lo"] <= row["lambda_max"] <= row["ci_hi"] for row in cells + rates)
    assert all(row["train_loss"] <= 0.5 for row in cells)
    small, large = cells
    at = {row["lr"]: row["lambda_max"] for row in rates}
    wanted = {small["lr"], *(large["lr"] / k for k in (1, 2, 4))}
    assert sorted(at) == pytest.approx(sorted(wanted), rel=1e-4) and at[large["lr"]] == large["lambda_max"]
    values = [check.value for check in result.checks]
    ratios = [at[small["lr"]], large["lambda_max"]] / np.float64(small["lambda_max"])
    np.testing.assert_allclose(values, [*ratios, large["lr_lambda"]])


def test_what_is_wrong_is_said(tmp_path):
    with Lab(tmp_path, jobs=1) as lab:
        with pytest.raises(ConfigurationError, match="one optimizer, got sgd, adam"):
            sharp.run(lab, Workload(), optimizers=("sgd", "adam"))
        with pytest.raises(ConfigurationError, match="which train_loss is to be reached on digits, softmax"):
            sharp.run(lab, Workload(model="softmax"))
