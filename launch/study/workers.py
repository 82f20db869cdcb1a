"""Who does the runs of a laboratory: processes of this machine that it starts, or the ranks of its launch.

`WorkerProcess` and `RankGroup` are the ends that the laboratory holds: `do(configs)` is a generator of (k, row), the
row of the k-th configuration as soon as that run has ended; `end()` ends them.
"""

import contextlib
import multiprocessing
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from allgrad import ddp
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.trainer import SIGNALS
from allgrad.launch.study import ledger, runner, together, workload

THREADS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"
HEARTBEAT_SECONDS = 0.5  # between two looks of a worker whether its parent is alive


class Served(SystemExit):
    """A rank has served its last run, and ends in good order."""

    in_order = True


def run_here(configs, comm, finished):
    """Do runs that are asked for at once, and call finished(k, row) after the k-th, with what to say of place and time.

    Those that `together.likeness` finds alike, and only such are asked for with others, are done side by side.
    """

    def end(k, found):
        finished(k, {**found, **started, **ledger.hardware()})

    started = {"started_utc": ledger.now(), "loadavg": ledger.load()}
    if comm.size == 1 and together.likeness(configs[0]) is not None:
        together.execute(configs, end)
        return
    for k, config in enumerate(configs):
        started = {"started_utc": ledger.now(), "loadavg": ledger.load()}
        end(k, runner.execute(config, comm))


# --- worker processes ------------------------------------------------------------------------------------------------


class WorkerProcess:
    """A worker process, started when there is something to do, and again if it has died."""

    def __init__(self):
        self.process: Any = None
        self.connection: Any = None
        self.sent: set[str] = set()  # hashes of the objects that it has been given

    def do(self, configs) -> Iterator[tuple[int, dict]]:
        if self.process is None or not self.process.is_alive():
            self._begin()
        left = {*range(len(configs))}
        try:
            self.connection.send(_message(configs, self.sent))
            while left:
                k, row = self.connection.recv()
                left.remove(k)
                yield k, row
        except (EOFError, OSError):
            lost = {"status": "error", "error": f"the worker {_ending(self._ended())}", "wall_s": None}
            yield from [(k, dict(lost)) for k in sorted(left)]

    def _begin(self):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.sent = set()
        self.process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        with _starting:
            before = {name: os.environ.get(name) for name in THREADS}
            os.environ.update(dict.fromkeys(THREADS, "1"))  # read by the BLAS when it is imported
            try:
                self.process.start()
            finally:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})
        theirs.close()
        try:
            self.connection.recv()
        except EOFError:
            status = self._ended()
            raise ConfigurationError(
                f"a worker process {_ending(status)} before it was ready: see what it printed above, or give --jobs 1"
            ) from None

    def _ended(self):
        """How the process that is no more has ended; the next run starts another."""
        self.process.join()
        status, self.process = self.process.exitcode, None
        return status

    def end(self):
        if self.process is not None:
            self.process.kill()


_starting = threading.Lock()


def _ending(status):
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"was killed by {name}" + (" (is there too little memory?)" if name == "SIGKILL" else "")
    return f"ended with status {status}"


def _message(configs, sent):
    """Configurations, and those of the objects they need that the worker does not have yet."""
    needed = {key: value for config in configs for key, value in workload.unnamed_objects(config).items()}
    extra = {key: value for key, value in needed.items() if key not in sent}
    sent |= extra.keys()
    return configs, extra


def _serve(connection, parent):
    """The life of a worker process: it ends with its parent, however that ends."""
    _leave_signals_to_the_first()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    ddp.init("solo")
    with contextlib.suppress(EOFError, OSError):
        connection.send("ready")
        while True:
            configs, extra = connection.recv()
            workload.add_objects(extra)
            run_here(configs, ddp.Communicator(), lambda *ended: connection.send(ended))


def _leave_signals_to_the_first():
    """A launcher sends them to all processes of a job; the one that leads ends the others."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_with(parent):
    while os.getppid() == parent:
        time.sleep(HEARTBEAT_SECONDS)
    os._exit(1)


# --- ranks -----------------------------------------------------------------------------------------------------------


class RankGroup:
    """Ranks that share a run; each has a connection to rank 0, so that none waits for work in a collective."""

    def __init__(self, connections: list[Connection]):
        self.connections = connections
        self.sent: set[str] = set()  # hashes of the objects that it has been given

    def do(self, configs) -> Iterator[tuple[int, dict]]:
        message = _message(configs, self.sent)
        for connection in self.connections:
            connection.send(message)
        for _ in configs:
            ended, *_ = [connection.recv() for connection in self.connections]
            yield ended

    def end(self):
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.send(None)


def _groups(size, ranks_per_run):
    """The ranks that do runs, in groups; what is left over rests."""
    ranks = range(1, size)
    if len(ranks) < ranks_per_run:
        raise ConfigurationError(
            f"--ranks-per-run {ranks_per_run} needs {ranks_per_run + 1} ranks, one of which leads, and there are {size}"
        )
    return [ranks[k : k + ranks_per_run] for k in range(0, len(ranks) - ranks_per_run + 1, ranks_per_run)]


def gather_ranks(comm, ranks_per_run):
    """Rank 0's connections to the groups that do runs, and to what rests."""
    groups = _groups(comm.size, ranks_per_run)
    key = secrets.token_bytes(16)
    alone = len({*comm.all_gather_object(socket.gethostname())}) == 1
    listener = Listener(("127.0.0.1" if alone else "", 0), backlog=comm.size, authkey=key)
    host = "127.0.0.1" if alone else socket.gethostname()
    comm.broadcast_object((host, listener.address[1], key))
    found = {}
    for _ in range(comm.size - 1):
        connection = listener.accept()
        found[connection.recv()] = connection
    listener.close()
    if ranks_per_run > 1:
        comm.split(0)
    resting = sorted(found.keys() - {rank for group in groups for rank in group})
    *workers, rest = [RankGroup([found[rank] for rank in group]) for group in [*groups, resting]]
    return workers, rest


def serve_as_rank(comm, ranks_per_run):
    """The life of a rank other than 0; ends the program."""
    _leave_signals_to_the_first()
    groups = _groups(comm.size, ranks_per_run)
    comm.all_gather_object(socket.gethostname())
    host, port, key = comm.broadcast_object(None)
    connection = Client((host, port), authkey=key)
    connection.send(comm.rank)
    mine = 1 + (comm.rank - 1) // ranks_per_run
    group = comm.split(mine if mine <= len(groups) else len(groups) + 1) if ranks_per_run > 1 else ddp.Communicator()
    with contextlib.suppress(EOFError, OSError):
        while (message := connection.recv()) is not None:
            if callable(message):
                message(comm)
                continue
            configs, extra = message
            workload.add_objects(extra)
            run_here(configs, group, lambda *ended: connection.send(ended))
    raise Served(0)
