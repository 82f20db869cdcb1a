"""The step benchmark: what it writes, and that it refuses a peer that trains otherwise. Nothing is timed."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from allgrad.launch.study import figures
from benchmarks import gpu, scaling, step
from benchmarks.worker import AGREE, Rank
from benchmarks.workloads import ON_GPU, WORKLOADS

ROOT = Path(__file__).parents[1]
LABEL = "M1 784-128-10, sgd, batch 8"


def test_two_peers_take_turns_in_processes_of_their_own(tmp_path):
    words = [sys.executable, "-m", "benchmarks.step", "--peers", "numpy,torch-ddp", "--only", LABEL, "--repeats", "2"]
    done = subprocess.run(
        [*words, "--turn", "0.001", "--out", str(tmp_path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert "left out: torch-ddp takes 2 ranks or more, not on 1" in done.stdout
    table = [line.split(" | ") for line in (tmp_path / "step.md").read_text().splitlines() if line.startswith("| 1")]
    assert [(row[1], row[2].split()[0]) for row in table] == [(LABEL, "allgrad"), (LABEL, "numpy")]
    assert "\n".join(" | ".join(row) for row in table) in done.stdout
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert [(row["peer"], len(row["seconds"])) for row in rows] == [("allgrad", 2), ("allgrad", 2), ("numpy", 2)]
    assert 0.0 < rows[2]["differs"] < 1e-5
    assert rows[1]["differs"] == 0.0
    assert (tmp_path / "step.svg").stat().st_size > 1000 and (tmp_path / "step.png").stat().st_size > 1000


class Competitor(NamedTuple):
    name: str
    setting: str = ""


def test_a_peer_with_other_losses_is_refused():
    ours, theirs = Competitor("allgrad"), Competitor("numpy")
    assert step.differences({ours: [2.0, 1.0], theirs: [2.0, 1.00005]}, "M1")[theirs] == pytest.approx(5e-5)
    for loss in (1.001, float("nan")):
        with pytest.raises(SystemExit, match=r"M1: numpy has loss .* in step 1, allgrad 1.0: they do not train"):
            step.differences({ours: [2.0, 1.0], theirs: [2.0, loss]}, "M1")


@pytest.mark.parametrize("name", ["M1", "M2", "M3"])
def test_the_peer_by_hand_trains_as_allgrad_does(name):
    chosen = [w for w in WORKLOADS if w.name == name and w.batch == 8]
    ranks = [Rank("allgrad", ""), Rank("numpy", "")]
    assert chosen
    for workload in chosen:
        ours, theirs = (rank.make(workload) for rank in ranks)
        assert len(ours) == AGREE and theirs == pytest.approx(ours, rel=1e-5)


def test_weights_and_data_have_torchs_names_and_differ_between_ranks():
    transformer = next(w for w in WORKLOADS if w.text)
    weights = transformer.weights()
    assert weights["blocks.1.self_attn.in_proj_weight"].shape == (384, 128) and len(weights) == 30
    (x, y), (other, _) = (transformer.data(1, rank)[0] for rank in (0, 1))
    assert x.shape == y.shape == (transformer.batch, 64) and x.max() < 96 and (x != other).any()


def test_scaling_tells_where_overhead_ends(tmp_path):
    """Curves t = a + b x, with a floor of 3 ms that a value of 30 doubles."""
    points = []
    for panel, peer, slow in (("batch", "allgrad", 1.0), ("batch", "torch", 2.0), ("width", "allgrad", 1.0)):
        for value in (1, 10, 30, 1000, 100_000):
            turns = [slow * (3e-3 + 1e-4 * value) * noise for noise in (1.0, 0.9, 1.1)]
            ours = [seconds / slow for seconds in turns]
            points.append(scaling.Point(panel, value, peer, turns, ours))
    floor, twice, slope = scaling.curve(points[:5])
    assert floor == pytest.approx(3.1) and 30 < twice < 45 and slope == pytest.approx(1.0, abs=0.01)
    assert math.isnan(scaling.curve(points[:3])[1])
    assert scaling.line(points[5]) == "| batch | 1 | torch | 6.200 (5.580 .. 6.820) | 2.00 (2.00 .. 2.00) |"
    points.append(scaling.Point("weak", 2, "allgrad", [0.02, 0.03, 0.04], [0.018, 0.018, 0.018]))
    assert scaling.line(points[-1]).endswith("| 30.000 (20.000 .. 40.000) | 0.60 (0.45 .. 0.90) |")
    assert len([*scaling.curves(points)]) == 1 + 3
    for path in figures.save(scaling.draw(points), tmp_path / "scaling"):
        assert path.stat().st_size > 10_000


def test_a_checkout_takes_turns_with_another():
    words = [sys.executable, "-m", "benchmarks.against", ".", "--only", LABEL, "--repeats", "2", "--turn", "0.001"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    (row,) = [line.split(" | ") for line in done.stdout.splitlines() if LABEL in line]
    assert float(row[1]) > 0.0 and float(row[2]) > 0.0 and row[-1] == "same |"
    words[3] = "docs"
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and "docs is no checkout with benchmarks/worker.py" in done.stderr


def test_each_step_on_a_gpu_has_its_prediction():
    predicted = json.loads(gpu.PREDICTED.read_text())
    assert [*predicted] == [workload.label for workload in ON_GPU]
    assert all(one["waits"] == 0 and one["launches"] > 0 and one["device_ms"] > 0.0 for one in predicted.values())
    one = {"launches": 40.0, "waits": 0.0, "peak_bytes": 3 << 29, "device_ms": 0.25}
    row = f"| {ON_GPU[0].label} | predicted of allgrad | at least 0.250 | | 1.500 | 40 launches, 0 waits |"
    assert gpu.foretold(ON_GPU[0], one) == row


def test_what_a_step_asks_of_a_gpu_is_counted_without_one(capsys, monkeypatch):
    from benchmarks import device

    monkeypatch.setattr(sys, "argv", ["device", "--only", "mlp", "--optimizers", "sgd", "--shards", "1", "--waits"])
    device.main()
    head, row = (line.split("  ") for line in capsys.readouterr().out.splitlines())
    launches, waits, *_ = " ".join(row).split("sgd")[1].split()[1:]
    assert "launches" in " ".join(head) and 20 < int(launches) < 100 and float(waits) == 0.0


@pytest.mark.parametrize(
    "module, words, told",
    [
        ("device", ["--only", "gtp"], "'gtp' is not one of mlp, lenet5, resnet, lstm, gpt"),
        ("device", ["--optimizers", "sgd,sdg"], "'sdg' is not one of sgd, adam, lamb"),
        ("device", ["--shards", "1,0"], "'1,0' are not whole numbers above 0"),
        ("gpu", ["--only", "GTP"], "no workload's label contains 'GTP': they are M1"),
        ("gpu", ["--predict", "--only", "GPT"], "--predict is for all workloads"),
        ("gpu_check", ["--only", "rank"], "--only rank is not one of versions, operators"),
    ],
    ids=["model", "optimizer", "shards", "workload", "predict", "stage"],
)
def test_what_benchmarks_of_gpus_do_not_know_is_refused(module, words, told, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"benchmarks.{module}").main()
    assert told in capsys.readouterr().err
