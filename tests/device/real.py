"""A real CUDA device behind what `pretend` gives, for tests that run on either."""

import contextlib
from collections import Counter

import torch

REAL = torch.cuda.is_available()


class Device:
    """Counts nothing, but knows whether the host waits."""

    def __init__(self):
        self.launches, self.waits, self.behind, self.copies = Counter(), Counter(), Counter(), Counter()

    @contextlib.contextmanager
    def no_waits(self):
        """Context in which RuntimeError is raised where torch sees the host wait."""
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def reset(self):
        pass
