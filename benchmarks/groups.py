"""The processes of the competitors: started once, and asked one group at a time, so that nobody disturbs another.

Each rank connects to a socket of its group and blocks in a read until it is asked: no rank waits in a barrier, where
MPI would use up a core. One BLAS thread a rank; no rank is bound to a core.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection, wait

from allgrad.ddp.comm import VARIABLES
from allgrad.launch.launchers import find_mpirun
from benchmarks.peers import PEERS, Unavailable

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}  # fmt: skip


class Failed(Exception):
    """A competitor has ended with an error, and its processes with it."""


class Group:
    """The ranks of a peer with one of its settings; of the checkout in `root`, if it is not this one."""

    def __init__(self, name, setting, ranks, root=None):
        self.name, self.setting = name, setting
        self.folder = tempfile.mkdtemp(prefix="allgrad-")
        address = os.path.join(self.folder, "socket")
        words = [sys.executable, "-m", "benchmarks.worker", address, name, setting]
        left = {variable for names in VARIABLES.values() for variable in names}
        variables = {k: v for k, v in os.environ.items() if k not in left} | ONE_THREAD
        if root is not None:
            variables["PYTHONPATH"] = str(root)
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(address)
            door.listen()
            door.settimeout(0.5)
            self.processes = list(_started(words, variables, PEERS[name].starter, ranks, self.folder, root))
            self.connections = [self._met(door) for _ in range(ranks)]
        self.connections.sort(key=lambda rank: rank.recv())

    def _met(self, door):
        while True:
            try:
                return Connection(door.accept()[0].detach())
            except TimeoutError:
                if any(process.poll() is not None for process in self.processes):
                    raise self._failed("a process ended while the group started") from None

    def ask(self, *command):
        """What each rank answers. Unavailable if they say so; Failed, and the end of the group, if one fails."""
        answers = {}
        for rank in self.connections:
            rank.send(command)
        while len(answers) < len(self.connections):
            for rank in wait([rank for rank in self.connections if rank not in answers]):
                try:
                    answers[rank] = kind, value = rank.recv()
                except EOFError:
                    raise self._failed("a process has ended") from None
                if kind == "failed":
                    raise self._failed(value)
        for kind, value in answers.values():
            if kind == "unavailable":
                raise Unavailable(value)
        return [answers[rank][1] for rank in self.connections]

    def _failed(self, reason):
        for process in self.processes:
            process.terminate()
        self.connections = []
        self.close()
        return Failed(reason)

    def close(self):
        for rank in self.connections:
            rank.send(None)
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _started(words, variables, starter, ranks, folder, root):
    """Start the ranks as a user would: mpirun, or a process a rank with the variables that torchrun sets."""
    if ranks == 1:
        yield subprocess.Popen(words, env=variables, cwd=root)
    elif starter == "mpirun":
        variables |= OPEN_MPI
        if ranks > (os.cpu_count() or 1):
            variables["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
        words = [find_mpirun(), "-n", str(ranks), *words]
        yield subprocess.Popen(words, env=variables, cwd=root, stdin=subprocess.DEVNULL)
    else:
        for rank in range(ranks):
            mine = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "STORE": f"file://{folder}/store"}
            yield subprocess.Popen(words, env=variables | mine, cwd=root)


def why_not(name, ranks):
    """Why a peer cannot run on so many ranks, or None."""
    peer = PEERS[name]
    if ranks < peer.fewest:
        return f"takes {peer.fewest} ranks or more"
    if ranks > 1 and peer.starter is None:
        return "runs on 1 rank only"
    if ranks > 1 and peer.starter == "mpirun" and find_mpirun() is None:
        return "there is no mpirun here"
    return None
