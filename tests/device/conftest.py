import contextlib

import pytest
import torch

from tests.device.pretend import pretend
from tests.device.real import REAL, Device


@pytest.fixture
def device():
    """A CUDA device "cuda:0" with deterministic kernels: a real one if there is one, else a pretended one."""
    strict, fills = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    with contextlib.nullcontext(Device()) if REAL else pretend() as found:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        yield found
    torch.use_deterministic_algorithms(strict)
    torch.utils.deterministic.fill_uninitialized_memory = fills
