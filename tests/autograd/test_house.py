"""The house rules: whose package this is, what it imports, how long its files are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import autograd

ROOT = Path(__file__).parents[2]
LAYERS = "autograd", "ddp", "launch"  # each may import those before it
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def test_autograd_is_the_package_of_this_repository():
    assert Path(autograd.__file__).resolve() == ROOT / "autograd" / "__init__.py"


def test_importing_autograd_imports_neither_torch_nor_scipy_nor_mpi():
    others = "{'torch', 'scipy', 'mpi4py', 'ddp'}"
    code = f"import sys, autograd, autograd.nn, autograd.optim; print({others} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_command_imports_what_it_needs_only():
    """Which is most of the time it takes to start: help without NumPy, training without what others need."""
    code = """
import contextlib, sys
from launch.__main__ import main
with contextlib.suppress(SystemExit):
    main(["--help"])
found = {"numpy"} & {*sys.modules}
main("train --data digits --steps 1".split())
found |= {"launch.doctor", "launch.study", "matplotlib", "mpi4py", "scipy", "sklearn", "torch"} & {*sys.modules}
print(*found, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "\n" and "usage: allgrad" in done.stdout and "weights_sha256" in done.stdout


def imported(path):
    """The packages that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield path.relative_to(ROOT).parts[0] if node.level else node.module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    rank = LAYERS.index(path.relative_to(ROOT).parts[0])
    above = {*LAYERS[rank + 1 :], "tests"} | ({"torch", "mpi4py"} if rank == 0 else set())
    if path.name in ("on_torch.py", "aten.py"):  # imported with the first torch tensor, see the test above
        above.discard("torch")
    assert not above & set(imported(path))


def test_no_file_of_the_engine_is_long():
    lengths = {path: len(path.read_text().splitlines()) for path in FILES if ROOT / "autograd" in path.parents}
    assert len(lengths) > 20 and max(lengths.values()) <= 500
