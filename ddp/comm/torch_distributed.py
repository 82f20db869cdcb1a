"""Ranks that talk through torch.distributed: with Gloo, or with NCCL from device to device.

NumPy arrays are wrapped, not copied. Gloo gets what is on a device by way of the processor's memory.
"""

import datetime
import inspect
import os
import re
import secrets
import socket
import subprocess
import time
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from allgrad.ddp.comm.activity import activity
from allgrad.ddp.comm.communicator import Communicator, write_back
from allgrad.ddp.comm.launcher import Launch
from allgrad.ddp.errors import ConfigurationError, PeerLost

TAGS = 1024  # more than there are messages of one exchange between two ranks
GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the second until torch 2.12


class TorchCommunicator(Communicator):
    adds = Communicator.adds | {"float16", "bfloat16"}

    def __init__(self, launch: Launch, group=None, object_group=None, timeout=0.0, name="0"):
        super().__init__(launch, name)
        torch.set_num_threads(1)
        self.timeout = timeout
        self.longer = datetime.timedelta(seconds=2 * timeout + 1800 if timeout else 1e7)  # than a watchdog waits
        self.options: dict = {"timeout": self.longer}  # of a group of ranks
        if group is None:
            self.backend = "gloo"  # until `connect_gpus`
            _rendezvous(launch)
            meeting: dict = {"rank": launch.rank, "world_size": launch.size}
            if launch.launcher == "torchrun" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                meeting["store"] = _fresh_store(launch, self.longer)
            dist.init_process_group("gloo", timeout=self.longer, **meeting)
            group, object_group = dist.group.WORLD, dist.new_group(backend="gloo", timeout=self.longer)
        self.group, self.object_comm = group, object_group  # two: so that a comparison never meets another operation
        self.ranks = dist.get_process_group_ranks(group)  # of the group's members in the whole job

    def connect_gpus(self, gpu: str):
        """Let arrays on this rank's GPU go from GPU to GPU, through NCCL. Collective; no two ranks have the same GPU.

        The watchdog tells of a hanging collective before NCCL does, which would end the process by SIGABRT.
        """
        os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
        longer = datetime.timedelta(seconds=self.timeout + 60) if self.timeout else self.longer
        self.options = {"backend": "cpu:gloo,cuda:nccl", "timeout": longer}
        if "device_id" in inspect.signature(dist.new_group).parameters:  # NCCL connects now, and on this GPU
            self.options["device_id"] = torch.device(gpu)
        self.group = self._in_collective("connecting the GPUs", (), _guarded, lambda: dist.new_group(**self.options))
        self.backend = "nccl"

    def _in_collective(self, name, args, f, *given):
        found = super()._in_collective(name, args, f, *given)
        if self._only_enqueued(name, args):
            activity.enqueued = name, self, args
        return found

    def _only_enqueued(self, name, args):
        """Whether a collective that has returned may still run: NCCL's does, on the device."""
        if self.backend != "nccl" or not args:
            return False
        array = (args[0] or args[1])[0][0] if name == "exchange" else args[0]
        return isinstance(array, torch.Tensor) and array.is_cuda

    def _exchange(self, sends, receives):
        given, taken = [self._tensor(a) for a, _ in sends], [self._tensor(a) for a, _ in receives]

        def start():
            if any(t.is_cuda for t in (*given, *taken)):  # NCCL pairs messages by their order, in one group
                ops = [dist.P2POp(dist.irecv, t, self.ranks[r], self.group) for t, (_, r) in zip(taken, receives)]
                ops += [dist.P2POp(dist.isend, t, self.ranks[r], self.group) for t, (_, r) in zip(given, sends)]
                work = dist.batch_isend_irecv(ops)
            else:
                work = self._messages(zip(given, [r for _, r in sends]), zip(taken, [r for _, r in receives]), 0)
            for w in work:
                w.wait()  # pyright: ignore[reportOptionalMemberAccess]

        _guarded(start)
        write_back([a for a, _ in receives], taken)

    def _start(self, sends, receives, tag):
        given, taken = ([(self._tensor(a), r) for a, r in messages] for messages in (sends, receives))
        work = _guarded(self._messages, given, taken, tag * TAGS)

        def over(wait):
            if not wait:
                return all(w.is_completed() for w in work)  # Gloo's are not, until somebody waits
            for w in work:
                _guarded(w.wait)
            return True

        return over

    def _messages(self, given, taken, tag):
        """Begin to send and to receive tensors, (tensor, rank), and return what is to be waited for."""
        count: dict = {}

        def number(rank, direction):  # of the messages of one pair, so that equal tags mean the same message
            count[rank, direction] = count.get((rank, direction), tag - 1) + 1
            return count[rank, direction]

        work: list[Any] = [dist.irecv(t, self.ranks[r], self.group, number(r, "in")) for t, r in taken]
        return work + [dist.isend(t, self.ranks[r], self.group, number(r, "out")) for t, r in given]

    def _tensor(self, array):
        """The array as the tensor that the backend takes: itself, or a copy of what Gloo finds on a device."""
        if not isinstance(array, torch.Tensor):
            return torch.from_numpy(array)
        return array if self.backend == "nccl" else array.cpu()

    def _all_to_all(self, given, received, counts):
        sent, got, own = self._tensor(given), self._tensor(received), counts[self.rank]
        _guarded(dist.all_to_all_single, got, sent, [*counts], [own] * self.size, self.group)
        write_back([received], [got])

    def _all_gather(self, part, whole):
        own, got = self._tensor(part), self._tensor(whole)
        _guarded(GATHER, got, own, self.group)
        write_back([whole], [got])

    def _all_reduce(self, array):
        tensor = self._tensor(array)
        _guarded(dist.all_reduce, tensor, group=self.group)
        write_back([array], [tensor])

    def _broadcast(self, array, root=0):
        tensor = self._tensor(array)
        _guarded(dist.broadcast, tensor, self.ranks[root], group=self.group)
        write_back([array], [tensor])

    def _gather(self, value):
        values: list = [None] * self.size
        _guarded(dist.all_gather_object, values, value, group=self.object_comm)
        return values

    def split(self, color, key=0):
        asked = self.all_gather_object((color, key))
        mine, name = None, self._name_of_split()
        for one in sorted({c for c, _ in asked}):  # every rank makes every group: torch asks for it
            members = sorted((r for r in range(self.size) if asked[r][0] == one), key=lambda r: (asked[r][1], r))
            world = [self.ranks[r] for r in members]
            order: dict = {} if world == sorted(world) else {"sort_ranks": False}  # which torch 2.11 need not know
            group = dist.new_group(world, **self.options, **order)
            object_group = dist.new_group(world, self.longer, "gloo", **order)
            if one == color:
                launch = Launch(self.launcher, self.backend, members.index(self.rank), len(members))
                mine = TorchCommunicator(launch, group, object_group, self.timeout, name)
                mine.options = self.options
        return mine

    def abort(self, status=1):
        os._exit(status)  # the launcher ends the others; a polite exit would wait for them

    def close(self):
        self.group = self.object_comm = None  # or Gloo's threads outlive the interpreter, which then aborts
        if dist.is_initialized():
            dist.destroy_process_group()


LOST = re.compile("connect|timed out|timeout|broken pipe", re.IGNORECASE)  # what Gloo says of a peer that is gone
OWN = re.compile("ncclUnhandledCudaError|ncclInvalid|ncclInternalError")  # of NCCL: nobody else's


def _guarded(f, *args, **kwargs):
    """Name what Gloo reports as "Connection closed by peer" when another rank has died; errors of this rank go on."""
    try:
        return f(*args, **kwargs)
    except RuntimeError as error:
        text = str(error)
        lost = (
            not OWN.search(text) if isinstance(error, dist.DistError) else "gloo" in text.lower() and LOST.search(text)
        )
        if not lost:
            raise
        raise PeerLost(f"another rank is gone ({text.splitlines()[0]})") from error


def _rendezvous(launch):
    """Where the ranks meet: torchrun says so; for srun and mpirun it follows from the job or from MPI, or is given."""
    if launch.launcher == "torchrun":
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise ConfigurationError(f"RANK and WORLD_SIZE are set, but not {' and '.join(missing)}: use torchrun")
        return
    if "MASTER_ADDR" not in os.environ:
        nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_JOB_NODELIST"))
        if launch.launcher == "srun" and nodes:
            hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
            os.environ["MASTER_ADDR"] = hosts.stdout.split()[0]
        elif launch.local_size == launch.size:
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        else:
            host, port = _told_by_mpi(launch)
            os.environ["MASTER_ADDR"] = host
            os.environ.setdefault("MASTER_PORT", port)
    os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ.get("SLURM_JOB_ID", os.getppid())) % 20_000))


def _told_by_mpi(launch):
    """Rank 0's host and a port that is free there, as all ranks of an mpirun hear it through MPI."""
    try:
        from allgrad.ddp.comm.mpi import MPICommunicator

        comm = MPICommunicator(replace(launch, backend="mpi"), name="the meeting")
    except (ImportError, RuntimeError):
        raise ConfigurationError(
            "{backend} over several hosts needs MASTER_ADDR in the environment, or mpi4py", backend="gloo"
        ) from None
    with socket.socket() as free:
        free.bind(("", 0))
        return comm.broadcast_object((socket.gethostname(), str(free.getsockname()[1])))


def _fresh_store(launch, timeout):
    """The store of torchrun, under a new name that the ranks of this start alone agree on.

    torchrun keeps one store over all restarts, and torch would take from it the addresses of ranks that have died. A
    rank shows a word of its own, rank 0 answers to that word, and goes on until it has heard from every living rank.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, launch.size, False, timeout)  # pyright: ignore[reportPrivateImportUsage]
    word, missing = secrets.token_hex(8), {*range(1, launch.size)}
    if launch.rank:
        store.set(f"allgrad/word/{launch.rank}", word)
        word = store.get(f"allgrad/answer/{word}").decode()
        store.set(f"allgrad/{word}/{launch.rank}", "here")
        return PrefixStore(f"allgrad/{word}", store)
    end = time.monotonic() + timeout.total_seconds()
    while missing and time.monotonic() < end:
        for rank in sorted(missing):
            if store.check([f"allgrad/word/{rank}"]):  # perhaps of one that has died
                store.set(f"allgrad/answer/{store.get(f'allgrad/word/{rank}').decode()}", word)
            if store.check([f"allgrad/{word}/{rank}"]):
                missing.remove(rank)
        time.sleep(0.01)
    return PrefixStore(f"allgrad/{word}", store)
