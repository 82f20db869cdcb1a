"""What a process makes of the variables that launchers leave: a table of environments."""

import pytest

from allgrad.ddp import ConfigurationError
from allgrad.ddp.comm import Launch, detect, refuse_to_share, speaks


def torchrun(rank="1", size="4", **more):
    return {"RANK": rank, "WORLD_SIZE": size, "TORCHELASTIC_RUN_ID": "none", **more}


def open_mpi(rank="1", size="4", **more):
    return {"OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_SIZE": size, **more}


def mpich(rank="1", size="4", **more):
    return {"PMI_RANK": rank, "PMI_SIZE": size, **more}


def slurm(rank="1", size="4", **more):
    return {"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": size, "SLURM_JOB_ID": "77", **more}


OMPI_LOCAL = {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "77"}
FOUND = [
    ("nothing", {}, "auto", Launch("solo", "solo")),
    ("unrelated", {"PATH": "/bin", "PMI_FD": "3"}, "auto", Launch("solo", "solo")),
    ("Open MPI", open_mpi(**OMPI_LOCAL), "auto", Launch("mpirun", "mpi", 1, 4, 0, 2)),
    ("Open MPI, no local rank", open_mpi(), "auto", Launch("mpirun", "mpi", 1, 4, 1, 4)),
    ("Open MPI over gloo", open_mpi(), "gloo", Launch("mpirun", "gloo", 1, 4, 1, 4)),
    ("MPICH", mpich(), "auto", Launch("mpirun", "mpi", 1, 4, 1, 4)),
    ("Intel MPI", mpich(MPI_LOCALRANKID="0", MPI_LOCALNRANKS="2"), "auto", Launch("mpirun", "mpi", 1, 4, 0, 2)),
    (
        "torchrun",
        torchrun("3", "4", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2"),
        "auto",
        Launch("torchrun", "gloo", 3, 4, 1, 2),
    ),
    ("srun", slurm("5", "7", SLURM_LOCALID="1"), "auto", Launch("srun", "mpi", 5, 7, 1, 7)),
    ("srun, tasks a node", slurm(SLURM_STEP_TASKS_PER_NODE="3(x2),1"), "auto", Launch("srun", "mpi", 1, 4, 1, 3)),
    ("srun over gloo", slurm(), "gloo", Launch("srun", "gloo", 1, 4, 1, 4)),
    ("a batch script of Slurm", BATCH_SCRIPT, "auto", Launch("solo", "solo")),
    ("mpirun inside Slurm", slurm("0", "1") | open_mpi(), "auto", Launch("mpirun", "mpi", 1, 4, 1, 4)),
    ("srun with PMI-2", slurm(SLURM_LOCALID="0") | mpich(), "auto", Launch("srun", "mpi", 1, 4, 0, 4)),
    ("mpiexec in a step", slurm("0", "2") | mpich(), "auto", Launch("mpirun", "mpi", 1, 4, 1, 4)),
    (
        "MPICH's mpiexec as srun's ranks",
        slurm() | mpich(MPI_LOCALRANKID="1", MPI_LOCALNRANKS="2"),
        "auto",
        Launch("mpirun", "mpi", 1, 4, 1, 2),
    ),
    ("torchrun inside Slurm", slurm("0", "1") | torchrun(), "auto", Launch("torchrun", "gloo", 1, 4, 1, 4)),
    ("both, MPI named", torchrun("0", "1") | open_mpi(), "mpi", Launch("mpirun", "mpi", 1, 4, 1, 4)),
    ("both, Gloo named", torchrun() | open_mpi("0", "1"), "gloo", Launch("torchrun", "gloo", 1, 4, 1, 4)),
    ("both, solo named", torchrun() | open_mpi(), "solo", Launch("solo", "solo")),
    ("a rank without a size", {"RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, "auto", Launch("solo", "solo")),
    ("one rank", torchrun("0", "1"), "auto", Launch("torchrun", "gloo", 0, 1, 0, 1)),
]
REFUSED = [
    (
        "both",
        torchrun("0", "2") | open_mpi(),
        "auto",
        ["torchrun: rank 0 of 2", "Open MPI: rank 1 of 4", "backend='mpi'"],
    ),
    ("both, alike", torchrun() | mpich(), "auto", ["torchrun: rank 1 of 4", "MPICH or Intel MPI: rank 1 of 4"]),
    ("not a number", torchrun("one"), "auto", ["RANK='one'", "not an integer"]),
    ("an empty size", open_mpi(size=""), "auto", ["OMPI_COMM_WORLD_SIZE=''", "not an integer"]),
    ("a local rank that is no number", torchrun(LOCAL_RANK="x"), "auto", ["LOCAL_RANK='x'", "not an integer"]),
    ("a local size that is no number", torchrun(LOCAL_WORLD_SIZE="two"), "auto", ["LOCAL_WORLD_SIZE='two'"]),
    ("a rank too many", torchrun("4", "4"), "auto", ["RANK=4 is not a rank of WORLD_SIZE=4"]),
    ("a negative rank", slurm("-1"), "auto", ["SLURM_PROCID=-1 is not a rank of SLURM_STEP_NUM_TASKS=4"]),
    ("no ranks", mpich("0", "0"), "auto", ["PMI_RANK=0 is not a rank of PMI_SIZE=0"]),
    ("MPI without ranks", {}, "mpi", ["backend='mpi' needs ranks", "use mpirun or srun"]),
    ("MPI under torchrun", torchrun(), "mpi", ["backend='mpi' needs ranks", "use mpirun or srun"]),
    ("Gloo without ranks", {}, "gloo", ["backend='gloo' needs ranks", "use torchrun"]),
    ("an unknown backend", {}, "nvlink", ["'nvlink' is not one of auto, mpi, gloo, nccl, solo"]),
]
SPEAKING = [
    ({}, True),
    (open_mpi("0"), True),
    (open_mpi("1"), False),
    (mpich("1"), False),
    (torchrun("0"), True),
    (torchrun("3"), False),
    ({"RANK": "1", "WORLD_SIZE": "2"}, False),
    (slurm("0"), True),
    (slurm("2"), False),
    (slurm("0") | open_mpi("1"), False),
    (slurm("1") | torchrun("0"), True),
    (BATCH_SCRIPT, True),
    ({"RANK": "0", "WORLD_SIZE": "1"} | open_mpi("1"), False),  # a leftover RANK does not make every rank speak
    (torchrun("1") | open_mpi("0", "1"), False),  # nor does a leftover of mpirun under torchrun
]


@pytest.mark.parametrize("variables, backend, launch", [row[1:] for row in FOUND], ids=[row[0] for row in FOUND])
def test_found(variables, backend, launch):
    assert detect(variables, backend) == launch


@pytest.mark.parametrize("variables, backend, texts", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_in_one_sentence(variables, backend, texts):
    with pytest.raises(ConfigurationError) as caught:
        detect(variables, backend)
    for text in texts:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variables, expected", SPEAKING)
def test_one_rank_speaks(variables, expected):
    assert speaks(variables) is expected


@pytest.mark.parametrize("variables, launcher", [
    (torchrun(), "torchrun"), (open_mpi("0"), "Open MPI"), (mpich(), "MPICH or Intel MPI"), (slurm("3"), "srun"),
    (slurm("0", "1") | open_mpi(), "Open MPI"),
])  # fmt: skip
def test_processes_that_were_started_together_do_not_share_a_directory(variables, launcher):
    with pytest.raises(ConfigurationError, match=f"{launcher} has started 4 processes.* would write to out='runs/a':"):
        refuse_to_share("out", "runs/a", variables)


@pytest.mark.parametrize("variables", [{}, open_mpi("0", "1"), torchrun("0", "1"), BATCH_SCRIPT, {"PMI_FD": "3"}])
def test_one_process_shares_with_nobody(variables):
    assert refuse_to_share("out", "runs/a", variables) is None
