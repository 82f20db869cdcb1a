"""Directories that one process at a time may write to, also where several hosts see them."""

import fcntl
import json
import os
import socket
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from allgrad.ddp.errors import ConfigurationError, tell

LOCK = ".lock"  # the file in the directory: host, process and time of who holds it
_held: dict[str, int] = {}  # directories that this process has locked, and how often


@contextmanager
def locked(directory: Path):
    """Keep other processes out of a directory in this context; ConfigurationError if one is in it.

    It is a lock of POSIX on the first byte of a file (fcntl.lockf), which NFS knows too, and which ends with its
    process, however that ends. Threads of one process do not keep each other out.
    """
    name = os.path.realpath(directory)
    file = None if name in _held else _acquire(Path(directory))
    _held[name] = _held.get(name, 0) + 1
    try:
        yield
    finally:
        _held[name] -= 1
        if not _held[name]:
            del _held[name]
        if file is not None:
            with suppress(OSError):
                os.unlink(Path(directory, LOCK))  # while it is locked: nobody else holds this one
            os.close(file)


def _acquire(directory):
    """The descriptor of the locked file, until which is closed the lock holds; None where none can be had."""
    path = directory / LOCK
    while True:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # a directory that cannot be written to: whoever writes says so
            return None
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except (BlockingIOError, PermissionError):
            who = _told(file)
            os.close(file)
            raise ConfigurationError(
                f"{directory} is being written to by {who}: wait until it has ended, or give another directory"
            ) from None
        except OSError as error:
            tell(f"{directory} cannot be locked ({error}): see to it that no other process writes to it")
            os.close(file)
            return None
        if _is_there(path, file):
            break
        os.close(file)  # its last owner has removed it
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}
    with suppress(OSError):  # a full disk: the lock holds without the words
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(mine).encode() + b"\n", 0)
        os.fsync(file)
    return file


def _is_there(path, file):
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _told(file):
    try:
        found = json.loads(os.pread(file, 4096, 0))
        return f"process {found['pid']} on host {found['host']}, since {found['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
