"""The tables of this folder have a row for each operator, in the file named after its module."""

import ast
import importlib
import re
from pathlib import Path

import pytest
import torch

import allgrad as ag
from tests.autograd.ops import kinks, large, table, values

FACE = ast.parse(Path(ag.autograd.ops.__file__).read_text())
OPERATORS = {  # module: the operators that the face of the folder hands on from it
    node.module.split(".")[-1]: {alias.name for alias in node.names} - {"NoVarianceError", "part_of_batch"}
    for node in FACE.body
    if isinstance(node, ast.ImportFrom)
}


def file_of(module):
    return importlib.import_module(f"tests.autograd.ops.test_{module}")


def used(module):
    """The operators that the rows of a module's test file name."""
    tables = vars(file_of(module))
    rows = [case.ours for case in tables.get("TABLE", ())] + tables.get("VALUES", [])
    return {*re.findall(r"\bm\.(\w+)", " ".join(rows))}


@pytest.mark.parametrize("module", OPERATORS)
def test_the_table_of_a_module_has_its_operators(module):
    missing = OPERATORS[module] - used(module)
    assert OPERATORS[module] and not missing, f"TABLE of test_{module}.py has no row of {missing}"


@pytest.mark.parametrize("module", OPERATORS)
def test_what_stands_in_a_table_is_tested(module):
    names = vars(file_of(module))
    for rows, tests in {"TABLE": table, "KINKS": kinks, "LARGE": large, "VALUES": values}.items():
        assert all((test in names) == (rows in names) for test in tests.__all__)


def test_the_table_covers_every_exported_operation():
    others = {
        "Tensor", "Arena", "tensor", "default_dtype", "get_default_dtype", "no_grad", "enable_grad", "manual_seed",
        "gradcheck", "draw_graph", "to_dot", "summary", "count_operations", "detect_anomaly", "vjp", "grad", "jvp",
        "hvp", "jacobian", "hessian", "primitive", "shared", "capture", "checkpoint", "as_tensor", "from_numpy",
            "is_grad_enabled", "set_grad_enabled", "inference_mode",
    }  # fmt: skip
    exported = {name for name in dir(ag) if callable(getattr(ag, name))}
    aliases = {name for name in exported if getattr(ag, getattr(ag, name).__name__, None) is not getattr(ag, name)}
    aliases |= {name for name in exported if getattr(ag, name).__name__ != name}
    assert all(hasattr(torch, name) for name in aliases - {"permute_dims"})
    assert exported - others - aliases == set().union(*map(used, OPERATORS)) - {"array", "linalg"} - aliases
