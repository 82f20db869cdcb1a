"""One process at a time writes to a directory."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from allgrad.ddp import ConfigurationError
from allgrad.ddp.trainer import LOCK, locked, locks
from tests.ddp.trainer.test_trainer import trainer_of

HOLDER = """
import sys
from allgrad.ddp.trainer import locked
with locked(sys.argv[1]):
    print("mine", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds the directory tmp_path / "out"."""
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"mine\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_told_who_is_there(holder, tmp_path):
    with pytest.raises(ConfigurationError) as error, locked(tmp_path / "out"):
        pass
    expected = f"out is being written to by process {holder.pid} on host {socket.gethostname()}, since "
    assert expected in str(error.value) and re.search(
        r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: wait", str(error.value)
    )
    with pytest.raises(ConfigurationError, match="is being written to by process"):
        trainer_of(out=tmp_path / "out").fit()


@pytest.mark.parametrize("end", ["in order", "killed"])
def test_the_lock_ends_with_its_process_however_it_ends(end, holder, tmp_path):
    if end == "killed":
        holder.send_signal(signal.SIGKILL)
    else:
        holder.stdin.close()
    holder.wait()
    assert (tmp_path / "out" / LOCK).exists() == (end == "killed")
    with locked(tmp_path / "out"):
        assert f'"pid": {os.getpid()}' in (tmp_path / "out" / LOCK).read_text()
    assert not (tmp_path / "out" / LOCK).exists()


def test_one_process_may_lock_again_what_it_holds(tmp_path):
    with locked(tmp_path):
        with locked(tmp_path / ".." / tmp_path.name):
            pass
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_a_lock_on_a_file_that_its_owner_has_removed_meanwhile_is_none(tmp_path, monkeypatch):
    plain, calls = locks.fcntl.lockf, []

    def late(file, *args):
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()
        plain(file, *args)

    monkeypatch.setattr(locks.fcntl, "lockf", late)
    with locked(tmp_path):
        assert len(calls) == 2 and (tmp_path / LOCK).exists()


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", refuse)
    with locked(tmp_path):
        pass
    assert "cannot be locked ([Errno 37] No locks available): see to it that no other" in capsys.readouterr().err
