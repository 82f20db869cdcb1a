"""Where a rank computes: with NumPy arrays, or with torch tensors on the processor or on a GPU of its own."""

import os
import re
import threading
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from allgrad.ddp.comm.devices import own_gpu
from allgrad.ddp.data.prefetch import CopyStream
from allgrad.ddp.errors import ConfigurationError

HALVES = ("bfloat16", "float16")  # dtypes to compute in, with parameters and optimizer in float32
PRECISIONS = ("ieee", "tf32")  # of products in float32 on CUDA
RESIDENT_SHARE = 0.25  # of a device's free memory, that a data set may take to stay there
PIECE_BYTES = 1 << 24  # of such a data set that are copied at once


def stored(dtype):
    """The dtype of parameters and data at rest, for one to compute in."""
    return "float32" if dtype in HALVES else dtype


class Placement:
    """Calls itself on a shard's arrays: torch tensors on `device`, floating ones in `dtype`.

    device     "numpy", "cpu", "cuda" (the GPU of the rank's number on its host) or "cuda:1": see `comm.devices`
    dtype      "float32", "float64", "bfloat16" or "float16"; halves need torch tensors
    precision  of products of float32 matrices and convolutions on CUDA: "ieee", or "tf32" for TensorFloat-32, which
               rounds their factors to 10 bits after the point and adds in float32

    On CUDA, batches are copied from pinned memory while the host goes on, products of halves are added in float32, and
    kernels are deterministic unless told otherwise. ConfigurationError if this host has no such device.
    """

    def __init__(
        self, device="numpy", dtype="float32", local_rank=0, threads=1, deterministic=True, precision="ieee",
    ):  # fmt: skip
        self.device, self.dtype, self.deterministic, self.precision = device, dtype, deterministic, precision
        self.copies: Any = None  # a CopyStream to a device that has memory of its own
        self.reading: Any = nullcontext()  # in which a data set is read: with a CopyStream by one thread at a time
        self._resident: Any = None  # {data set: its arrays there}
        if precision not in PRECISIONS:
            raise ConfigurationError("{precision} is not one of ieee, tf32", precision=precision)
        if precision == "tf32" and device in ("numpy", "cpu"):
            raise ConfigurationError(
                "{precision} is for products on a GPU, and has no effect with {device}: leave it out",
                precision=precision, device=device,
            )  # fmt: skip
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
            cublas, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
            cublas.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
            # Of a product that is cut into several sums, these would be added in half precision.
            cublas.allow_bf16_reduced_precision_reduction = cublas.allow_fp16_reduced_precision_reduction = False
            self.copies, self.reading = CopyStream(self.device), threading.Lock()
            self._resident = weakref.WeakKeyDictionary()
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
        if self.device == "cpu":
            return tensor.to(dtype=dtype)
        # Converted on the way: a copy that has to convert goes by pageable memory, and the host waits for it.
        pinned = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, pin_memory=True)
        return pinned.copy_(tensor).to(self.device, non_blocking=True)

    def resident(self, dataset) -> tuple | None:
        """The arrays of an `ArrayDataset` on the device, where they stay, if it has much more free memory; else None.

        They may take a quarter of it. A data set is copied once, and stays there as long as it exists.
        """
        if dataset not in self._resident:
            self._resident[dataset] = self._moved(dataset.arrays)
        return self._resident[dataset]

    def _moved(self, arrays):
        import torch

        if not all(a.dtype.kind in "fib" or a.dtype == np.uint8 for a in arrays):  # what CUDA can select from
            return None
        dtypes = [getattr(torch, self.dtype if a.dtype.kind == "f" else str(a.dtype)) for a in arrays]
        free, _ = torch.cuda.mem_get_info(self.device)
        if sum(a.size * dtype.itemsize for a, dtype in zip(arrays, dtypes)) > RESIDENT_SHARE * free:
            return None
        found = []
        for array, dtype in zip(arrays, dtypes):
            found.append(torch.empty(array.shape, dtype=dtype, device=self.device))
            rows = max(1, PIECE_BYTES // max(1, array.nbytes // len(array)))
            for start in range(0, len(array), rows):
                found[-1][start : start + rows] = self._placed(np.array(array[start : start + rows]))
        return tuple(found)

    def fingerprint(self) -> dict:
        """What equal bits are claimed within, beside the processor and its libraries."""
        if self.device == "numpy":
            return {}
        import torch

        found = {"torch": torch.__version__, "deterministic": self.deterministic}
        if self.device == "cpu":
            return found
        return found | {
            "precision": self.precision,
            "gpu": torch.cuda.get_device_name(self.device),
            "multiprocessors": torch.cuda.get_device_properties(self.device).multi_processor_count,
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": _nccl(torch),
            "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        }


def _driver():
    """The version of NVIDIA's driver, where Linux tells it."""
    try:
        found = re.search(r"\d+(\.\d+)+", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return found and found[0]


def _nccl(torch):
    """The version of NCCL that torch was built with, None if it was built without."""
    return ".".join(map(str, torch.cuda.nccl.version())) if hasattr(torch._C, "_nccl_version") else None
