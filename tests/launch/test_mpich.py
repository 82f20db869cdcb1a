"""The same ranks under MPICH: its mpiexec, its library under mpi4py, the bits of Open MPI."""

import ctypes.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from allgrad.launch.launchers import find_mpirun

HYDRA = shutil.which("mpiexec.hydra")
BESIDE = Path(HYDRA or "/none/none").resolve().parents[1] / "lib" / "libmpi.so.12"
LIBRARY = str(BESIDE) if BESIDE.is_file() else ctypes.util.find_library("mpich")
FLAGS = "train --model mlp:16 --steps 10 --shards 6 --momentum 0.9"

pytestmark = pytest.mark.skipif(
    HYDRA is None or LIBRARY is None,
    reason="MPICH is not here: pip install mpich, in an environment of its own, and put its bin/ on the path",
)


def under_mpich(words, directory, **variables):
    """Run a command in which mpi4py loads MPICH."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "MPI4PY_LIBMPI": LIBRARY or "", **variables}
    return subprocess.run(
        words, cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


def ranks(n, arguments, directory, mpiexec=HYDRA):
    return under_mpich([mpiexec, "-n", str(n), sys.executable, "-m", "allgrad", *arguments.split()], directory)


@pytest.fixture(scope="module")
def alone(train):
    return train(FLAGS.removeprefix("train "), 0)


@pytest.mark.parametrize("n", [2, 3])
def test_training_gives_the_bits_of_any_other_launch(n, alone, tmp_path):
    done = ranks(n, f"{FLAGS} --out out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (found["launcher"], found["backend"], found["world_size"]) == ("mpirun", "mpi", n)
    assert found["weights_sha256"] == alone["weights_sha256"]
    assert done.stdout.count("weights_sha256") == 1


def test_run_starts_it(alone, tmp_path):
    code = "import sys; from allgrad.launch import launchers; launchers.find_mpirun = lambda: sys.argv[1]; "
    code += "sys.exit(launchers.run(2, 'mpirun', 0, sys.argv[2:]))"
    words = [sys.executable, "-c", code, HYDRA, *f"{FLAGS} --out out".split()]
    done = under_mpich(words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["weights_sha256"] == alone["weights_sha256"]


def test_what_all_ranks_find_wrong_is_told_once(tmp_path):
    done = ranks(2, "train --lr none", tmp_path)
    told = [line for line in done.stderr.splitlines() if line.startswith("allgrad: ")]
    assert done.returncode == 2 and told == ["allgrad: --lr takes a number, got 'none'"]


def test_doctor_names_it(tmp_path):
    done = ranks(2, "doctor", tmp_path)
    assert "MPI library: MPICH" in done.stdout and "this launch: mpirun, 2 ranks, backend mpi" in done.stdout


def test_the_mpirun_of_open_mpi_is_refused_in_words(tmp_path):
    mpirun = find_mpirun()
    version = mpirun and subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False).stdout
    if not version or "Open MPI" not in version:
        pytest.skip("the mpirun here is not that of Open MPI")
    done = ranks(2, f"{FLAGS} --out out", tmp_path, mpirun)
    told = [line for line in done.stderr.splitlines() if line.startswith("allgrad: ")]
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert len(told) == 1 and "two MPIs are mixed" in told[0] and "mpi4py loads MPICH" in told[0]
