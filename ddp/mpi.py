"""Ranks that talk through MPI: any library that mpi4py finds, arrays through the buffer interface."""

from mpi4py import MPI

from autograd.kernels import is_torch, to_numpy
from ddp.communicator import Communicator, write_back
from ddp.environment import Launch
from ddp.errors import ConfigurationError


class MPICommunicator(Communicator):
    def __init__(self, launch: Launch, comm: MPI.Comm | None = None):
        super().__init__(launch)
        self.comm = MPI.COMM_WORLD.Dup() if comm is None else comm
        if self.comm.Get_size() != launch.size:
            raise ConfigurationError(
                f"{launch.launcher} started {launch.size} ranks, but MPI sees {self.comm.Get_size()}: "
                f"use the mpirun of the MPI library that mpi4py loads (see allgrad doctor), or srun --mpi=pmix"
            )
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()

    def exchange(self, sends, receives):
        if is_torch((receives or sends)[0][0]):
            hosts = [(to_numpy(array), source) for array, source in receives]
            self.exchange([(to_numpy(array), target) for array, target in sends], hosts)
            return write_back([array for array, _ in receives], [host for host, _ in hosts])
        self.count(sends)
        if len(sends) == len(receives) == 1 and sends[0][1] == receives[0][1]:
            partner = sends[0][1]
            self.comm.Sendrecv(sends[0][0], partner, recvbuf=receives[0][0], source=partner)
            return
        # Between two ranks MPI delivers in the order of sending, so one tag does for all.
        requests = [self.comm.Irecv(array, source) for array, source in receives]
        requests += [self.comm.Isend(array, target) for array, target in sends]
        MPI.Request.Waitall(requests)

    def all_reduce(self, array):
        host = to_numpy(array)
        self.count([(host, None)])
        self.comm.Allreduce(MPI.IN_PLACE, host)
        write_back([array], [host])

    def broadcast(self, array, root=0):
        host = to_numpy(array)
        self.comm.Bcast(host, root)
        write_back([array], [host])

    def all_gather_object(self, value):
        return self.comm.allgather(value)

    def broadcast_object(self, value, root=0):
        return self.comm.bcast(value, root)

    def barrier(self):
        self.comm.Barrier()

    def split(self, color, key=0):
        part = self.comm.Split(color, key)
        return MPICommunicator(Launch(self.launcher, self.backend, part.Get_rank(), part.Get_size()), part)

    def abort(self, status=1):
        MPI.COMM_WORLD.Abort(status)
