"""Starting the command line as its users do: in a process of its own, under each launcher."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from allgrad.ddp.comm import VARIABLES
from allgrad.launch.launchers import command

ROOT = Path(__file__).parents[2]
TIME_OUT = 300  # seconds; a launch takes one or two, those of torchrun up to ten, on a busy machine many more

LEFT_BY_LAUNCHERS = {name for names in VARIABLES.values() for name in names} | {"TORCHELASTIC_RUN_ID"}


class Run(NamedTuple):
    status: int
    out: str
    err: str

    def told(self, prefix="allgrad: "):
        """What a user is told: the lines of stderr with this prefix. (Open MPI ends its own messages with a NUL.)"""
        return [line.removeprefix(prefix) for line in self.err.splitlines() if line.startswith(prefix)]


def start(arguments, directory, ranks=0, launcher="mpirun", script=None, **variables):
    """Run `allgrad ARGUMENTS`, or a script, in a directory: in one process if ranks is 0, else under a launcher."""
    words, needed = [sys.executable, "-m", "allgrad", *arguments.split()], {}
    if ranks:
        words, needed = command(launcher, ranks, arguments.split())
    if script:
        words = [*words[: words.index("allgrad") - 1], script, *arguments.split()]
    clean = {name: value for name, value in os.environ.items() if name not in LEFT_BY_LAUNCHERS}
    environment = {**clean, "PYTHONPATH": str(ROOT), **needed, **variables}
    done = subprocess.run(
        words,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIME_OUT,
        check=False,
    )
    out, err = (
        stream.decode(errors="replace").replace("\0", "").replace("\r", "") for stream in (done.stdout, done.stderr)
    )
    return Run(done.returncode, out, err)


def summary(out):
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="session", name="start")
def start_fixture():
    return start


@pytest.fixture(scope="session")
def train(tmp_path_factory):
    """train(FLAGS) trains in a new directory and returns the summary; the start has to succeed."""

    def f(flags, ranks=0, launcher="mpirun", out=None):
        out = out or tmp_path_factory.mktemp("train") / "out"
        done = start(f"train {flags} --out {out.name}", out.parent, ranks, launcher)
        assert done.status == 0, done.err
        return summary(out)

    return f
