"""runs.jsonl: one line a run, only ever appended to, shared by every sweep into one directory."""

import errno
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from allgrad.ddp import process
from allgrad.ddp.errors import ConfigurationError

PARTS = {"run_id", "exp", "config", "status"}  # what makes a line a row


def run_id(config: dict) -> str:
    """The name of a run: the start of the SHA-256 of its configuration as canonical JSON."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Ledger:
    """The rows of a directory's runs, by id. The latest row of an id counts.

    A row is one write to a file opened for appending, and lies on the disk when `append` returns: whoever is killed
    loses the line he was writing, and nobody else's. What is no whole row is passed over.
    """

    def __init__(self, out: str | Path, create=True, most: int | None = None):
        self.out = Path(out)
        self.path = self.out / "runs.jsonl"
        self.rows: dict[str, dict] = {}
        self._read = 0  # bytes
        try:
            if create:
                self.out.mkdir(parents=True, exist_ok=True)
            flags = (os.O_CREAT if create else 0) | (os.O_RDWR | os.O_APPEND if create else os.O_RDONLY)
            self.file = os.open(self.path, flags, 0o666)
            if not self.path.is_file():
                os.close(self.file)
                raise IsADirectoryError(errno.EISDIR, "not a file")
        except OSError as error:
            if not create:
                raise ConfigurationError(f"{self.path} cannot be read: give the directory of a study") from None
            raise ConfigurationError(f"--out {out} cannot be used ({error.strerror}): give another directory") from None
        self.refresh(most)

    def refresh(self, most: int | None = None):
        """Read what has been appended, by anybody, since the last time; no more than the first so many bytes."""
        size = os.fstat(self.file).st_size
        size = size if most is None else min(size, most)
        if size <= self._read:
            return
        new = os.pread(self.file, size - self._read, self._read)
        whole = new.rfind(b"\n") + 1
        self._read += whole
        for line in new[:whole].splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and row.keys() >= PARTS:
                self.rows[row["run_id"]] = row

    def append(self, row: dict):
        """Write a row."""
        line = json.dumps(row, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        size = os.fstat(self.file).st_size
        if size and os.pread(self.file, 1, size - 1) != b"\n":
            line = b"\n" + line  # somebody was killed in the middle of his
        try:
            written = os.write(self.file, line)
            os.fsync(self.file)
        except OSError as error:
            raise ConfigurationError(f"{self.path} cannot be written: {error.strerror}") from None
        if written != len(line):
            raise ConfigurationError(f"{self.path} cannot be written: the disk is full")
        self.rows[row["run_id"]] = row

    def save_trace(self, name: str, arrays: dict):
        """Write traces/NAME.npz, whole or not at all."""
        folder = self.out / "traces"
        folder.mkdir(exist_ok=True)
        partial = folder / f".{name}.{os.getpid()}.npz"
        named: dict[str, Any] = {key: np.array(value, float) for key, value in arrays.items()}
        np.savez_compressed(partial, **named)
        os.replace(partial, folder / f"{name}.npz")

    def close(self):
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def flat(row: dict) -> dict:
    """A row with the configuration's entries as `config.lr`, and so on: one level, ready for a table."""
    config = {f"config.{key}": value for key, value in row.get("config", {}).items()}
    found = {**{key: value for key, value in row.items() if key != "config"}, **config}
    return {key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in found.items()}


def now() -> str:
    """The time, as in 2026-03-01T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@cache
def software() -> dict:
    """What the process that leads a study knows of itself: versions, the commit, the command."""
    root = Path(__file__).parents[2]
    commit = _git(root, "rev-parse", "HEAD")
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": _version("torch"),
        "mpi": _version("mpi4py"),
        "git_commit": commit,
        "git_dirty": None if commit is None else bool(_git(root, "status", "--porcelain", "--untracked-files=no")),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


@cache
def hardware() -> dict:
    """What a process that trains knows of its machine."""
    blas = process.blas()
    return {
        "host": socket.gethostname(),
        "cpu_model": _cpu(),
        "n_cores": os.cpu_count(),
        "blas": f"{blas.get('internal_api')} {blas.get('version')} {blas.get('architecture')}",
        "threads": blas.get("num_threads"),
    }


def load() -> float | None:
    """Processes that have waited for this machine, on average over a minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(root, *words):
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
