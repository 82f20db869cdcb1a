"""Tests that all ranks of a launch run together:

mpirun -n 3 python -m pytest --with-mpi tests/ranks
torchrun --standalone --nproc-per-node 2 -m pytest tests/ranks

They hold for any number of ranks, one included.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from allgrad import ddp
from allgrad.ddp.comm import detect


@pytest.fixture(scope="session")
def comm():
    return ddp.init()


@pytest.fixture
def directory(comm):
    """A new directory that all ranks share; the ranks' pytests would clear away each other's `tmp_path`."""
    path = Path(comm.broadcast_object(tempfile.mkdtemp() if comm.rank == 0 else None))
    yield path
    comm.barrier()
    if comm.rank == 0:
        shutil.rmtree(path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    if detect().launcher == "mpirun":
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.mpi)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """A rank whose test fails ends all ranks: the others would wait for it in the next one for ever."""
    report = yield
    world = ddp.init()
    if report.failed and world.size > 1:
        print(f"\nrank {world.rank}: {item.nodeid}\n{report.longreprtext}", file=sys.stderr, flush=True)
        world.abort(1)
    return report
