"""Ranks that talk through MPI: any library that mpi4py finds, arrays through the buffer interface."""

from mpi4py import MPI

from autograd.kernels import is_torch, to_numpy
from ddp.communicator import Communicator, write_back
from ddp.environment import Launch
from ddp.errors import ConfigurationError
from ddp.watchdog import described


class MPICommunicator(Communicator):
    def __init__(self, launch: Launch, comm: MPI.Comm | None = None):
        super().__init__(launch)
        self.comm = MPI.COMM_WORLD.Dup() if comm is None else comm
        if self.comm.Get_size() != launch.size:
            raise ConfigurationError(
                f"{launch.launcher} started {launch.size} ranks, but MPI sees {self.comm.Get_size()}: "
                f"use the mpirun of the MPI library that mpi4py loads (see allgrad doctor), or srun --mpi=pmix"
            )
        self.words = self.comm.Dup()  # so that a comparison never meets another operation
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()

    def _exchange(self, sends, receives):
        if is_torch((receives or sends)[0][0]):
            hosts = [(to_numpy(array), source) for array, source in receives]
            self._exchange([(to_numpy(array), target) for array, target in sends], hosts)
            return write_back([array for array, _ in receives], [host for host, _ in hosts])
        if len(sends) == len(receives) == 1 and sends[0][1] == receives[0][1]:
            partner = sends[0][1]
            status = MPI.Status()
            self.comm.Sendrecv(sends[0][0], partner, recvbuf=receives[0][0], source=partner, status=status)
            return self._whole(receives, [status])
        # Between two ranks MPI delivers in the order of sending, so one tag does for all.
        requests = [self.comm.Irecv(array, source) for array, source in receives]
        requests += [self.comm.Isend(array, target) for array, target in sends]
        statuses = [MPI.Status() for _ in requests]
        MPI.Request.Waitall(requests, statuses)
        self._whole(receives, statuses)

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
        return self.words.allgather(value)

    def split(self, color, key=0):
        part = self.comm.Split(color, key)
        mine = MPICommunicator(Launch(self.launcher, self.backend, part.Get_rank(), part.Get_size()), part)
        mine.ranks = mine.all_gather_object(self.ranks[self.rank])
        return mine

    def abort(self, status=1):
        MPI.COMM_WORLD.Abort(status)
