"""Slurm without Slurm: the batch file, and an `srun` that starts its ranks on this machine."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.launchers import find_mpirun
from allgrad.launch.slurm import script

# As srun does, it numbers the ranks; those of --mpi=pmix meet through PMIx, here that of Open MPI's mpirun.
SRUN = """#!{python}
import os, subprocess, sys

words, ranks, mpi = sys.argv[1:], int(os.environ.get("SLURM_NTASKS", 1)), os.environ.get("SLURM_MPI_TYPE")
open("srun.txt", "a").write(" ".join(words) + chr(10))
while words[0].startswith("-"):
    word = words.pop(0)
    if word == "-n":
        ranks = int(words.pop(0))
    elif word.startswith("--mpi="):
        mpi = word[6:]
    else:
        assert word == "--kill-on-bad-exit=1", word
common = {{"SLURM_JOB_ID": "77", "SLURM_STEP_NUM_TASKS": str(ranks), "SLURM_STEP_TASKS_PER_NODE": str(ranks),
          "SLURM_STEP_NODELIST": "node[1-2]"}}
if mpi == "pmix":
    wrap = '''import os, sys
for name in [name for name in os.environ if name.startswith("OMPI_COMM_WORLD_")]:
    value = os.environ.pop(name)
    os.environ.update({{"SLURM_PROCID": value}} if name.endswith("WORLD_RANK") else {{}})
    os.environ.update({{"SLURM_LOCALID": value}} if name.endswith("LOCAL_RANK") else {{}})
os.execv(sys.argv[1], sys.argv[1:])'''
    sys.exit(subprocess.run(["{mpirun}", "--oversubscribe", "-n", str(ranks), "{python}", "-c", wrap, *words],
                            env={{**os.environ, **common}}).returncode)
started = []
for rank in range(ranks):
    own = {{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), **({{"PMI_RANK": str(rank), "PMI_SIZE": str(ranks)}}
           if mpi == "pmi2" else {{}})}}
    started.append(subprocess.Popen(words, env={{**os.environ, **common, **own}}))
statuses = [process.wait() for process in started]
sys.exit(max((s if s >= 0 else 128 - s for s in statuses), default=0))
"""
SCONTROL = "#!/bin/sh\n[ \"$*\" = 'show hostnames node[1-2]' ] && echo 127.0.0.1 && echo 127.0.0.2\n"
TRAIN = "train --model mlp:8 --steps 8 --shards 2 --checkpoint-every 2 --momentum 0.9"


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A directory with srun and scontrol on the path."""
    if find_mpirun() is None:
        pytest.skip("there is no mpirun that srun could be made of")
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN.format(python=sys.executable, mpirun=find_mpirun())), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def alone(train):
    return train(TRAIN.removeprefix("train "))["weights_sha256"]


# --- srun --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend, mpi", [("mpi", "pmix"), ("gloo", "none")])
def test_run_starts_srun(backend, mpi, cluster, alone, start, tmp_path):
    words = f"run --launcher srun -n 2 -- {TRAIN} --out out --backend {backend}"
    done = start(words, tmp_path, SLURM_MPI_TYPE=mpi, **cluster)
    assert done.status == 0, done.err
    assert done.out.splitlines()[0] == f"srun -n 2 {sys.executable} -m allgrad {TRAIN} --out out --backend {backend}"
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (found["launcher"], found["backend"], found["world_size"]) == ("srun", backend, 2)
    assert found["weights_sha256"] == alone


@pytest.mark.parametrize("mpi", ["none", "pmi2"])
def test_ranks_that_srun_does_not_connect_are_told_how(mpi, cluster, start, tmp_path):
    done = start(f"run --launcher srun -n 2 -- {TRAIN} --out out", tmp_path, SLURM_MPI_TYPE=mpi, **cluster)
    assert done.status == 2 and "srun started 2 ranks, but MPI sees 1" in done.err
    assert "set SLURM_MPI_TYPE to what it takes (pmix for Open MPI, pmi2 for MPICH)" in done.err
    assert not (tmp_path / "out").exists()


# --- the batch file ----------------------------------------------------------------------------------------------


def directives(text):
    """{name: value} of the #SBATCH lines, which must all stand before the first command."""
    head, _, rest = text.partition("\n\n")
    assert head.startswith("#!/bin/bash\n") and "#SBATCH" not in rest
    found = [re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line) for line in head.splitlines()[1:]]
    return {match[1]: match[2] for match in found}


def correct(text):
    return subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False).stderr == ""


@pytest.mark.parametrize(
    "options, words, wanted",
    [
        ({}, "train", {"nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "1"}),
        ({"nodes": 2, "ntasks_per_node": 4}, "train", {"nodes": "2", "ntasks-per-node": "4"}),
        ({}, "train --threads 3", {"cpus-per-task": "3"}),
        ({"gpus_per_node": 4}, "train", {"ntasks-per-node": "4", "gpus-per-node": "4", "cpus-per-task": "8"}),
        ({"gpus_per_node": 1}, "train --threads 9", {"gpus-per-node": "1", "cpus-per-task": "9"}),
        ({"gpus_per_node": 1, "cpus_per_task": 5}, "train", {"gpus-per-node": "1", "cpus-per-task": "5"}),
        ({"cpus_per_task": 5}, "train --threads 3", {"cpus-per-task": "5"}),
        ({"time": "1-02:03:04", "partition": "a,b"}, "train", {"time": "1-02:03:04", "partition": "a,b"}),
        ({"max_restarts": 2}, "train --out o", {"requeue": None, "open-mode": "append"}),
        ({"job_name": "x", "account": "me"}, "train", {"job-name": "x", "account": "me"}),
    ],
)  # fmt: skip
def test_directives(options, words, wanted):
    text = script(["--", *words.split()], **options)
    always = {"job-name": "allgrad", "nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "1"}
    assert directives(text) == always | wanted and correct(text)
    threads = words.partition("--threads ")[2] or "1"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        assert re.search(rf"\b{name}={threads}\b", text)
    assert re.search(rf"\bSRUN_CPUS_PER_TASK={wanted.get('cpus-per-task', '1')}\b", text)
    assert len(re.findall(r"^\s*srun ", text, re.M)) == 1


@pytest.mark.parametrize("backend, mpi", [(None, " --mpi=pmix"), ("mpi", " --mpi=pmix"), ("gloo", ""), ("nccl", "")])
def test_mpi_is_started_where_it_is_used(backend, mpi):
    more = ["--backend", backend] if backend else []
    assert f"\nsrun --kill-on-bad-exit=1{mpi} {sys.executable} -m allgrad train" in script(["train", *more])


@pytest.mark.parametrize(
    "words, added",
    [
        ("train", "--arrays torch --device cuda --backend nccl"),
        ("train --backend mpi", "--arrays torch --device cuda"),
        ("train --device cuda --arrays torch --backend nccl", ""),
        ("train --config c.toml", "--device cuda --backend nccl"),
        ("doctor", ""),
    ],
)
def test_a_rank_for_each_gpu(words, added, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text('arrays = "torch"\n')
    text = script(words.split(), gpus_per_node=2)
    assert text.endswith(f"-m allgrad {f'{words} {added}'.strip()}\n") and directives(text)["ntasks-per-node"] == "2"


@pytest.mark.parametrize(
    "options, words, text",
    [
        ({}, "", "nothing to run: write allgrad slurm"),
        ({"nodes": 0}, "train", "--nodes is at least 1, got 0"),
        ({"gpus_per_node": 0}, "train", "--gpus-per-node is at least 1, got 0"),
        ({"ntasks_per_node": 4, "gpus_per_node": 2}, "train", "--ntasks-per-node 4 does not fit --gpus-per-node 2"),
        ({"gpus_per_node": 2}, "train --arrays numpy", "--arrays numpy does not fit --gpus-per-node"),
        ({"gpus_per_node": 2}, "train --device cuda:0", "--device cuda:0 does not fit --gpus-per-node"),
        ({"max_restarts": 2}, "train", "--max-restarts needs a run that leaves checkpoints: give it an --out"),
        ({"cpus_per_task": 0}, "train", "--cpus-per-task is at least 1, got 0"),
        ({"cpus_per_task": 2}, "train --threads 3", "--cpus-per-task 2 does not fit --threads 3"),
        ({"max_restarts": -1}, "train", "--max-restarts is at least 0, got -1"),
        ({"time": "1\n#"}, "train", "--time .* is not a word that sbatch takes"),
        ({}, "train --threads two", "--threads takes a whole number, got 'two'"),
        ({}, "train --out", "expected one argument"),
    ],
)
def test_what_cannot_be_written_is_refused(options, words, text):
    with pytest.raises(ConfigurationError, match=text):
        script(words.split(), **options)


def batch(file, directory, **variables):
    """Run a batch file as Slurm does on the first node of a job."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
    return subprocess.run(
        ["bash", file], cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


def test_names_reach_the_ranks_as_they_are(cluster, tmp_path):
    """Spaces, quotes and what the shell would expand."""
    text = script(["train", "--data", "a b.csv", "--out", "it's $HOME/*"], max_restarts=1)
    assert correct(text)
    show = "import sys; print(sys.argv)"
    text = text.replace("-m allgrad", f"-c '{show}'").replace(" --mpi=pmix", "")
    (tmp_path / "job.sh").write_text(text)
    done = batch("job.sh", tmp_path, **cluster)
    assert done.stdout.splitlines() == [str(["-c", "train", "--data", "a b.csv", "--out", "it's $HOME/*"])]


MORTAL = """
import os, pathlib
from allgrad import nn

class Net(nn.Module):
    def __init__(self, inputs, outputs):
        self.fc, self.calls = nn.Linear(inputs, outputs), 0

    def __call__(self, x):
        self.calls += self.training
        if self.calls == 5 and os.environ["SLURM_PROCID"] == "1" and not pathlib.Path("died").exists():
            pathlib.Path("died").touch()
            os.kill(os.getpid(), 9)
        return self.fc(x)
"""


@pytest.mark.parametrize("requeued", [False, True])
def test_the_batch_file_goes_on_after_a_failure(requeued, cluster, start, tmp_path):
    """On its own, or once Slurm has put the job back into the queue; up to --max-restarts times."""
    (tmp_path / "net.py").write_text(MORTAL)
    train = "train --model net.py:Net --steps 12 --checkpoint-every 2 --shards 2 --momentum 0.9"
    done = start(f"slurm --ntasks-per-node 2 --max-restarts 1 --out job.sh -- {train} --out out", tmp_path)
    assert done.status == 0 and "sbatch job.sh" in done.err and done.out == ""
    assert start("slurm --out job.sh -- train", tmp_path).status == 2

    def job(count):
        return batch("job.sh", tmp_path, **cluster, SLURM_NTASKS="2", SLURM_RESTART_COUNT=str(count))

    done = job(1 if requeued else 0)
    if requeued:  # the one restart has been used up
        assert done.returncode not in (0, 2) and not (tmp_path / "out" / "summary.json").exists()
        done = job(1)
    assert done.returncode == 0, done.stderr
    assert ("restart 1 of 1 after status " in done.stdout) == (not requeued)
    sruns = (tmp_path / "srun.txt").read_text().splitlines()
    assert [line.endswith(" --resume") for line in sruns] == [False, True]
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert found["resumed_at"] and found["launcher"] == "srun"
    shutil.rmtree(tmp_path / "bin")
    assert start(f"{train} --out alone", tmp_path, SLURM_PROCID="1").status == 0
    assert json.loads((tmp_path / "alone" / "summary.json").read_text())["weights_sha256"] == found["weights_sha256"]


def test_bad_usage_is_not_started_again(cluster, tmp_path):
    text = script(["train", "--lr", "none", "--out", "out"], max_restarts=3)
    (tmp_path / "job.sh").write_text(text)
    done = batch("job.sh", tmp_path, **cluster)
    assert done.returncode == 2 and len((tmp_path / "srun.txt").read_text().splitlines()) == 1
