"""Where a rank computes: with NumPy arrays, or with torch tensors on the processor or on a GPU of its own."""

import os

import numpy as np

from allgrad.ddp.comm.devices import own_gpu
from allgrad.ddp.errors import ConfigurationError

HALVES = ("bfloat16", "float16")  # dtypes to compute in, with parameters and optimizer in float32


def stored(dtype):
    """The dtype of parameters and data at rest, for one to compute in."""
    return "float32" if dtype in HALVES else dtype


class Placement:
    """Calls itself on a shard's arrays: torch tensors on `device`, floating ones in `dtype`.

    device  "numpy", "cpu", "cuda" (the GPU of the rank's number on its host) or "cuda:1": see `comm.devices`
    dtype   "float32", "float64", "bfloat16" or "float16"; halves need torch tensors

    On CUDA, batches are copied from pinned memory while the host goes on, TensorFloat-32 is off, and kernels are
    deterministic unless told otherwise. ConfigurationError if this host has no such device.
    """

    def __init__(self, device="numpy", dtype="float32", local_rank=0, threads=1, deterministic=True):
        self.device, self.dtype, self.deterministic = device, dtype, deterministic
        if device == "numpy":
            if dtype in HALVES:
                raise ConfigurationError(
                    "NumPy does not compute in {dtype.value}: give {arrays:torch}, or {dtype:float32}", dtype=dtype
                )
            return
        try:
            import torch
        except ImportError:
            raise ConfigurationError("{arrays} needs torch: pip install 'allgrad[torch]'", arrays="torch") from None
        torch.set_num_threads(threads)
        if device != "cpu":
            self.device = self._gpu(local_rank)
            torch.cuda.set_device(self.device)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = False  # of new arrays, with nan: a pass over each

    def _gpu(self, local_rank):
        # cuBLAS reads this when it starts, and is not deterministic without.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        return own_gpu(self.device, local_rank)

    @property
    def arrays(self):
        return "numpy" if self.device == "numpy" else "torch"

    def __call__(self, arrays):
        if self.device == "numpy":
            return arrays
        return tuple([self._placed(a) for a in arrays])

    def _placed(self, array):
        import torch

        dtype = getattr(torch, self.dtype) if np.issubdtype(array.dtype, np.floating) else None
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device != "cpu":
            return tensor.pin_memory().to(self.device, dtype=dtype, non_blocking=True)
        return tensor.to(dtype=dtype)

    def fingerprint(self) -> dict:
        """What equal bits are claimed within, beside the processor and its libraries."""
        if self.device == "numpy":
            return {}
        import torch

        found = {"torch": torch.__version__, "deterministic": self.deterministic}
        if self.device != "cpu":
            found |= {"gpu": torch.cuda.get_device_name(self.device), "cuda": torch.version.cuda}
        return found
