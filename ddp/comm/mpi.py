"""Ranks that talk through MPI: any library that mpi4py finds, arrays through the buffer interface."""

import os

import mpi4py

from allgrad.autograd.arrays import is_torch, to_numpy
from allgrad.ddp.comm.activity import described
from allgrad.ddp.comm.communicator import Communicator, write_back
from allgrad.ddp.comm.launcher import Launch
from allgrad.ddp.errors import ConfigurationError, counted

mpi4py.rc(initialize=False, finalize=True)  # `_start` starts it, once it is certain that it can be

from mpi4py import MPI  # noqa: E402

TAGS = 32768  # that any MPI has


def library() -> str:
    """Name and version of the MPI library that mpi4py loads: "Open MPI v5.0.11", "MPICH Version: 5.0.2"."""
    return " ".join(MPI.Get_library_version().splitlines()[0].split(",")[0].split())


def _start(launch):
    if launch.local_size == launch.size:  # Open MPI's module for fabrics sleeps for a second, and is for other hosts
        os.environ.setdefault("OMPI_MCA_btl", "^ofi")
    # MPICH would end this process with an internal error instead, before Python could say anything.
    if "OMPI_COMM_WORLD_SIZE" in os.environ and not library().startswith("Open MPI"):
        raise ConfigurationError(
            f"two MPIs are mixed: these ranks were started by the mpirun of Open MPI, and mpi4py loads {library()}: "
            f"use the mpirun that came with it (see allgrad doctor)"
        )
    MPI.Init_thread()


class MPICommunicator(Communicator):
    adds = Communicator.adds | {"float16", "int16", "uint16", "uint32", "uint64", "longdouble", "float128", "bfloat16"}

    def __init__(self, launch: Launch, comm: MPI.Comm | None = None, name="0"):
        super().__init__(launch, name)
        if not MPI.Is_initialized():
            _start(launch)
        self.comm = MPI.COMM_WORLD.Dup() if comm is None else comm
        if self.comm.Get_size() != launch.size:
            raise ConfigurationError(
                f"{launch.launcher} started {counted(launch.size, 'rank')}, but MPI sees {self.comm.Get_size()}: "
                f"use the mpirun of {library()}, which mpi4py loads, or in Slurm set SLURM_MPI_TYPE to what "
                f"it takes (pmix for Open MPI, pmi2 for MPICH)"
            )
        self.object_comm = self.comm.Dup()  # so that a comparison never meets another operation
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()
        self.fence = self.comm.Barrier
        self.threads = MPI.Query_thread() == MPI.THREAD_MULTIPLE

    def _exchange(self, sends, receives):
        if is_torch((receives or sends)[0][0]):
            hosts = [(to_numpy(array), source) for array, source in receives]
            self._exchange([(to_numpy(array), target) for array, target in sends], hosts)
            return write_back([array for array, _ in receives], [host for host, _ in hosts])
        if len(sends) == len(receives) == 1 and sends[0][1] == receives[0][1]:
            partner = sends[0][1]
            status = MPI.Status()
            self.comm.Sendrecv(sends[0][0], partner, recvbuf=receives[0][0], source=partner, status=status)
            if status.Get_count(MPI.BYTE) != receives[0][0].nbytes:
                self._whole(receives, [status])
            return
        self._start(sends, receives, 0)(True)

    def _start(self, sends, receives, tag):
        # Between two ranks MPI delivers in the order of sending, so one tag does for all messages of an exchange.
        tag = tag and 1 + tag % (TAGS - 1)
        requests = [self.comm.Irecv(to_numpy(array), source, tag) for array, source in receives]
        requests += [self.comm.Isend(to_numpy(array), target, tag) for array, target in sends]
        statuses = [MPI.Status() for _ in requests]

        def over(wait):
            if wait:
                MPI.Request.Waitall(requests, statuses)
            elif not MPI.Request.Testall(requests, statuses):
                return False
            self._whole(receives, statuses)
            return True

        return over

    def _whole(self, receives, statuses):
        for (array, source), status in zip(receives, statuses):
            if (got := status.Get_count(MPI.BYTE)) != array.nbytes:
                raise ConfigurationError(
                    f"rank {source} sent {got} bytes where rank {self.rank} expects {array.nbytes} "
                    f"({described(array)}): let both exchange arrays of one shape and dtype"
                )

    def _all_reduce(self, array):
        host = to_numpy(array)
        self.comm.Allreduce(MPI.IN_PLACE, host)
        write_back([array], [host])

    def _broadcast(self, array, root=0):
        host = to_numpy(array)
        self.comm.Bcast(host, root)
        write_back([array], [host])

    def _gather(self, value):
        return self.object_comm.allgather(value)

    def split(self, color, key=0):
        part = self.comm.Split(color, key)
        launch = Launch(self.launcher, self.backend, part.Get_rank(), part.Get_size())
        mine = MPICommunicator(launch, part, self._name_of_split())
        mine.ranks = mine.all_gather_object(self.ranks[self.rank])
        return mine

    def abort(self, status=1):
        MPI.COMM_WORLD.Abort(status)
