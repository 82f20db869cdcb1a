"""A stream of work beside the one in which a device computes."""

from allgrad.autograd.arrays import on_cpu


class SideStream:
    """Work that a device does beside what the main stream asks for; in the memory of the CPU it is done at once.

    like  an array, on the device

    Memory that both streams use has to outlive them: it is allocated once, and is not to be freed and allocated anew.
    """

    def __init__(self, like):
        self._cuda = None
        if not on_cpu(like):
            from torch import cuda

            self._cuda, self._stream = cuda, cuda.Stream(like.device, priority=-1)  # small kernels, before large ones

    def run(self, f, *args):
        """f(*args), whose work on the device begins when that is done which the current stream has been asked for."""
        if self._cuda is None:
            return f(*args)
        self._stream.wait_stream(self._cuda.current_stream())
        with self._cuda.stream(self._stream):
            return f(*args)

    def join(self):
        """What the current stream is asked for from now on begins when all of `run` is done."""
        if self._cuda is not None:
            self._cuda.current_stream().wait_stream(self._stream)
