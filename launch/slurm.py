"""`allgrad slurm`: the batch file that trains on the nodes of a Slurm cluster."""

import argparse
import re
import shlex
import sys
from pathlib import Path

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.launchers import ASKED, USAGE, parsed_command, program

# A rank that computes on a GPU keeps more than one core busy: with Python, NCCL's threads, the watchdogs, the writer of
# checkpoints and whatever prepares the next batch. If they share one, the GPU waits for the launch of its kernels.
CORES_OF_A_GPU = 8
SCRIPT = """\
#!/bin/bash
{directives}

export {threads}
export SRUN_CPUS_PER_TASK={cpus}  # srun does not take it from the job
{restarts}srun --kill-on-bad-exit=1{mpi} {command}{end}
"""
RESTARTS = """\
trap 'exit 143' TERM  # preempted, or out of time: Slurm decides what is next

for ((attempt = ${{SLURM_RESTART_COUNT:-0}}; ; attempt++)); do
    resume=()
    if [ -f {config} ]; then resume=(--resume); fi
    """
RESTARTED = """ "${{resume[@]}}"
    status=$?
    case $status in 0|{usage}|{asked}) exit "$status";; esac
    if ((attempt >= {most})); then exit "$status"; fi
    echo "restart $((attempt + 1)) of {most} after status $status"
done"""


def add_options(parser: argparse.ArgumentParser):
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="number of nodes [1]")
    parser.add_argument("--ntasks-per-node", type=int, metavar="N", help="ranks a node [--gpus-per-node, or 1]")
    parser.add_argument("--gpus-per-node", type=int, metavar="N", help="GPUs a node, one for each rank")
    parser.add_argument("--cpus-per-task", type=int, metavar="N", help="cores a rank [--threads of train, and at least "
                        f"{CORES_OF_A_GPU} with --gpus-per-node]")  # fmt: skip
    parser.add_argument("--time", metavar="TIME", help="limit, as sbatch takes it: minutes, or D-HH:MM:SS")
    parser.add_argument("--partition", metavar="NAME", help="partition of the cluster")
    parser.add_argument("--account", metavar="NAME", help="who is charged")
    parser.add_argument("--job-name", default="allgrad", metavar="NAME", help="name of the job [allgrad]")
    parser.add_argument("--mpi", default="pmix", metavar="TYPE", help="how srun starts the ranks of an MPI, one of "
                        "srun --mpi=list: pmix for Open MPI, pmi2 for MPICH [pmix]")  # fmt: skip
    parser.add_argument("--max-restarts", type=int, default=0, metavar="K", help="times to go on from the newest "
                        "checkpoint after a failure, a preemption or the loss of a node [0]")  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="file to write, which must not exist [standard output]")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="-- train ...")


def slurm(out: str | None, **options) -> int:
    """Write the batch file to a new file or to standard output. Raises ConfigurationError."""
    text = script(**options)
    if out is None:
        print(text, end="")
        return 0
    try:
        with open(out, "x", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
    except OSError as error:
        raise ConfigurationError(f"--out {out} cannot be written ({error}): give a new file") from None
    print(f"{out}: start it with sbatch {shlex.quote(out)}", file=sys.stderr)
    return 0


def script(
    arguments: list[str], nodes=1, ntasks_per_node: int | None = None, gpus_per_node: int | None = None,
    time: str | None = None, partition: str | None = None, account: str | None = None, job_name="allgrad", mpi="pmix",
    max_restarts=0, cpus_per_task: int | None = None,
) -> str:  # fmt: skip
    """The text of the batch file. Raises ConfigurationError.

    With GPUs the ranks talk through NCCL and see all GPUs of their node: each takes that of its number there, and has
    cores for what runs beside its GPU.
    """
    arguments, given = parsed_command(arguments, "allgrad slurm --nodes 2 -- train --data digits ...")
    ranks = gpus_per_node or 1 if ntasks_per_node is None else ntasks_per_node
    for flag, value in (
        ("--nodes", nodes),
        ("--ntasks-per-node", ranks),
        ("--gpus-per-node", gpus_per_node),
        ("--cpus-per-task", cpus_per_task),
    ):
        if value is not None and value < 1:
            raise ConfigurationError(f"{flag} is at least 1, got {value}")
    if max_restarts < 0:
        raise ConfigurationError(f"--max-restarts is at least 0, got {max_restarts}")
    if gpus_per_node:
        if ranks != gpus_per_node:
            raise ConfigurationError(
                f"--ntasks-per-node {ranks} does not fit --gpus-per-node {gpus_per_node}: each rank computes on a GPU "
                f"of its own"
            )
        if arguments[0] == "train":
            wanted = {"arrays": "torch", "device": "cuda", "backend": "nccl"}
            for name in ("arrays", "device"):
                if given.get(name, wanted[name]) != wanted[name]:
                    raise ConfigurationError(
                        f"--{name} {given[name]} does not fit --gpus-per-node: give --{name} {wanted[name]}, or no GPUs"
                    )
            arguments += [w for name, value in wanted.items() if name not in given for w in (f"--{name}", value)]
            given = {**wanted, **given}
    threads = given.get("threads") or 1
    cpus = cpus_per_task or max(threads, CORES_OF_A_GPU if gpus_per_node else 1)
    if cpus < threads:
        raise ConfigurationError(f"--cpus-per-task {cpus} does not fit --threads {threads}: give each thread a core")
    directives = {
        "job-name": job_name, "nodes": nodes, "ntasks-per-node": ranks, "cpus-per-task": cpus,
        "gpus-per-node": gpus_per_node, "time": time, "partition": partition, "account": account,
    }  # fmt: skip
    for name, value in directives.items():
        if value is not None and not re.fullmatch(r"[\w.,:/@%+-]+", str(value)):
            raise ConfigurationError(f"--{name} {value!r} is not a word that sbatch takes: give it without spaces")
    if not re.fullmatch(r"\w+", mpi):
        raise ConfigurationError(f"--mpi {mpi!r} is not a type of srun --mpi=list")
    lines = [f"#SBATCH --{name}={value}" for name, value in directives.items() if value is not None]
    restarts = end = ""
    if max_restarts:
        if given.get("out") is None:
            raise ConfigurationError("--max-restarts needs a run that leaves checkpoints: give it an --out")
        lines += ["#SBATCH --requeue", "#SBATCH --open-mode=append"]
        restarts = RESTARTS.format(config=shlex.quote(str(Path(given["out"]) / "config.json")))
        end = RESTARTED.format(usage=USAGE, asked="|".join(map(str, ASKED)), most=max_restarts)
        if "--resume" in arguments:
            arguments.remove("--resume")
    return SCRIPT.format(
        directives="\n".join(lines),
        threads=" ".join(f"{library}_NUM_THREADS={threads}" for library in ("OMP", "OPENBLAS", "MKL")),
        cpus=cpus, restarts=restarts, mpi="" if given.get("backend") in ("gloo", "nccl") else f" --mpi={mpi}",
        command=shlex.join(program(arguments)), end=end,
    )  # fmt: skip
