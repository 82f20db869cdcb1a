"""Where runs are done and kept: rows, worker processes, ranks, and what a kill leaves behind."""

import contextlib
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from allgrad import ddp
from allgrad.launch.study import Lab, Workload, configuration
from allgrad.launch.study.ledger import Ledger, flat

ROOT = Path(__file__).parents[3]


FLAGS = "steps --optimizer sgd --batches 128,256,512 --seeds 1 --report-seeds 2 --target 0.2"


def lines(out):
    path = out / "runs.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def tables(out):
    """The rows of each table, but for seconds, which are never twice the same."""
    found = {}
    for path in out.glob("*.csv"):
        with path.open(newline="") as file:
            found[path.name] = [row | {"seconds": ""} for row in csv.DictReader(file)]
    return found


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """The directory of a small study that nobody disturbed, in one process."""
    folder = tmp_path_factory.mktemp("whole")
    done = start(f"study {FLAGS} --jobs 1 --out out", folder)
    assert done.status == 0, done.err
    return folder / "out"


def test_a_row_says_where_it_comes_from(whole):
    rows = [json.loads(line) for line in lines(whole)]
    needed = {
        "schema", "run_id", "study", "exp", "status", "steps_to_target", "examples", "final_val_loss", "wall_s",
        "started_utc", "host", "cpu_model", "n_cores", "loadavg", "world_size", "backend", "python", "numpy", "blas",
        "threads", "git_commit", "argv", "config.lr", "config.data_sha256", "config.optimizer_options",
    }  # fmt: skip
    assert needed <= flat(rows[0]).keys() and {row["exp"] for row in rows} == {"steps"}
    assert not any(isinstance(value, dict | list) for value in flat(rows[0]).values())


# --- the laboratory --------------------------------------------------------------------------------------------------


def configs(seeds, **given):
    return [configuration(Workload(), "sgd", **{"target": 0.5, "lr": 0.5, "seed": seed, **given}) for seed in seeds]


def test_rows_come_in_the_order_asked_for_and_are_kept(tmp_path):
    with Lab(tmp_path, jobs=1) as lab:
        rows = lab.run(configs((3, 1, 2, 1)))
        assert [row["config"]["seed"] for row in rows] == [3, 1, 2, 1] and rows[1] is rows[3]
        assert (lab.asked, lab.known, lab.done) == (3, 0, 3)
    with Lab(tmp_path, jobs=1) as lab:
        assert lab.run(configs((1, 2, 4)))[:2] == rows[1:3]
        assert (lab.asked, lab.known, lab.done) == (3, 2, 1)
        assert lab.map(lambda seed: lab.run(configs((seed,)))[0]["config"]["seed"], [2, 7, 1]) == [2, 7, 1]


def test_runs_that_failed_are_tried_again_next_time(tmp_path):
    wrong = configs((0,), schedule="spiral")
    for retry, done in (("error", 2), ("error", 1), ("all", 2)):
        with Lab(tmp_path, jobs=1, retry=retry) as lab:
            assert [row["status"] for row in lab.run(wrong + configs((1,)))] == ["error", "ok"]
            lab.run(wrong)
            assert lab.done == done


def test_curves_are_kept_if_asked_for(tmp_path):
    import numpy as np

    with Lab(tmp_path, jobs=1) as lab:
        (row,) = lab.run(configs((0,), trace=True))
    with np.load(tmp_path / "traces" / f"{row['run_id']}.npz") as curve:
        assert curve["step"][-1] == row["steps"] and curve["train_loss"][-1] == row["final_train_loss"]
    assert "trace" not in row


def test_a_closed_laboratory_and_bad_numbers():
    with pytest.raises(ddp.ConfigurationError, match="--jobs and --ranks-per-run are at least 1, got 0 and 1"):
        Lab("nowhere", jobs=0)


def alive(pids):
    """Those of the processes that are neither gone nor zombies."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


@pytest.fixture
def sweep(tmp_path):
    """Starts the study of `whole` in a process of its own, with that many workers."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(jobs):
        words = [sys.executable, "-m", "allgrad", "study", *FLAGS.split(), "--jobs", str(jobs), "--out", "out"]
        return subprocess.Popen(words, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


def test_a_sweep_ended_at_any_moment_ends_with_the_same_table(whole, sweep, tmp_path):
    out, rng = tmp_path / "out", random.Random(0)
    for number in (signal.SIGINT, signal.SIGTERM, *[signal.SIGKILL] * 5):
        asked = number != signal.SIGKILL
        goal = len(lines(out)) + (1 if asked else rng.randrange(3))  # none: while it starts
        process = sweep(jobs=2)
        while len(lines(out)) < goal and process.poll() is None:
            time.sleep(0.01)
        if not asked:
            time.sleep(rng.uniform(0.0, 0.15))
        process.send_signal(signal.SIGSTOP)  # or it might come to its end meanwhile
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        said = process.communicate()[1].decode()
        if asked and process.returncode:  # on a busy machine it may have come to its end before
            assert process.returncode == 128 + number
            goes_on = f"the same command goes on from the {len(lines(out))} runs in out"
            assert re.search(rf"allgrad: interrupted by SIG[A-Z]+; {goes_on}$", said, re.MULTILINE), said
            assert "Traceback" not in said, said
        deadline = time.monotonic() + 30
        while alive(found) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(found), "workers outlive their parent"
    last = sweep(jobs=2)
    assert last.communicate()[1] is not None and last.returncode == 0
    assert tables(out) == tables(whole) and len(tables(out)) == 4
    ids = [json.loads(line)["run_id"] for line in lines(out)]
    assert len(ids) == len({*ids}) == len(lines(whole))  # nothing was run twice


def test_two_sweeps_in_one_directory_lose_nothing(whole, sweep, tmp_path):
    both = [sweep(jobs=1), sweep(jobs=2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert tables(tmp_path / "out") == tables(whole)
    assert {json.loads(line)["run_id"] for line in lines(tmp_path / "out")} == {*Ledger(whole).rows}


@pytest.mark.parametrize("flags", ["", "--ranks-per-run 2"])
def test_ranks_give_the_same_table(flags, start, whole, tmp_path):
    reference = whole
    if flags:
        assert start(f"study {FLAGS} --shards 2 --jobs 1 --out alone", tmp_path).status == 0
        reference = tmp_path / "alone"
    done = start(f"study {FLAGS} {flags} --out out", tmp_path, ranks=3)
    assert done.status == 0, done.err
    assert tables(tmp_path / "out") == tables(reference)
    assert {json.loads(line)["world_size"] for line in lines(tmp_path / "out")} == {3}
