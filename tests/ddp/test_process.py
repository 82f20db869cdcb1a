"""What a rank sets in its own process: the threads of the BLAS, and what malloc keeps."""

import os
import subprocess
import sys

import numpy as np
import pytest

from allgrad.ddp import process


def test_threads_are_pinned_and_reported():
    x = np.ones((4, 4)) @ np.ones((4, 4))  # the BLAS is loaded
    process.pin_threads(1)
    blas = process.blas()
    assert x[0, 0] == 4.0 and blas["num_threads"] == 1
    assert set(blas) == {"internal_api", "version", "architecture", "num_threads"}


FAULTS_OF_A_STEP = """
import resource, sys
import numpy as np
from allgrad import ddp
comm = ddp.init()
a = np.ones(1 << 18, np.float32)  # 1 MiB
b = [a + 1 for _ in range(8)]
del b
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    b = [a + 1 for _ in range(8)]
    del b
from allgrad.ddp.process import malloc
print(*sorted(malloc()), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif("glibc" not in str(os.confstr_names and os.confstr("CS_GNU_LIBC_VERSION")), reason="no glibc")
@pytest.mark.parametrize(
    "variables, kept",
    [
        ({}, ["mmap_threshold", "trim_threshold"]),
        ({"MALLOC_MMAP_THRESHOLD_": "131072"}, ["trim_threshold"]),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}, []),
    ],
)
def test_memory_is_kept_from_step_to_step_unless_the_environment_decides(variables, kept):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS_OF_A_STEP], env=clean | variables, capture_output=True, text=True, check=True
    )
    *names, faults = done.stdout.split()
    assert names == kept
    assert (int(faults) < 5000) == (len(kept) == 2), faults  # 256 for each of 160 arrays, if all are new memory
