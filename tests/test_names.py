"""One module under several names: whatever it is imported, reloaded, run, pickled or completed by."""

import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import inspect
import pickle
import rlcompleter
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import allgrad as ag
import autograd
import ddp
from allgrad import nn, optim, study

ROOT = Path(__file__).parents[1]


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, **options)


def forget(*names):
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "other, own",
    [
        ("allgrad.nn", "allgrad.autograd.nn"),
        ("allgrad.nn.layers", "allgrad.autograd.nn.layers"),
        ("allgrad.optim.optimizers", "allgrad.autograd.optim.optimizers"),
        ("allgrad.study.lab", "allgrad.launch.study.lab"),
        ("autograd", "allgrad.autograd"),
        ("autograd.ops.activations", "allgrad.autograd.ops.activations"),
        ("ddp.trainer", "allgrad.ddp.trainer"),
        ("launch.__main__", "allgrad.launch.__main__"),
    ],
)
def test_another_name_is_the_same_module_and_leaves_its_spec(other, own):
    first = importlib.import_module(own)
    assert importlib.import_module(other) is first
    forget(other)
    assert importlib.import_module(other) is first
    assert first.__name__ == first.__spec__.name == own
    found = importlib.util.find_spec(other)
    assert found is not None and found.name in (other, own)


def test_a_file_that_checkers_read_is_never_run():
    assert {Path(inspect.getfile(module)).name for module in (nn, optim, study)} == {"__init__.py"}


def test_threads_that_import_one_module_by_several_names_leave_its_spec():
    others = "allgrad.nn.layers", "autograd.nn.layers", "allgrad.nn", "autograd.nn"
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(50):
                forget(*others)
                list(pool.map(importlib.import_module, others))
                assert nn.__spec__.name == "allgrad.autograd.nn"
                assert nn.layers.__spec__.name == "allgrad.autograd.nn.layers"
    finally:
        sys.setswitchinterval(interval)


def test_looking_for_a_module_imports_nothing():
    """A finder that imports waits for a module that another thread may hold, while that one waits for the finder."""
    code = "import sys, allgrad.names as n; f = sys.meta_path[0]; assert f.find_spec('allgrad.nn', ['.'])\n"
    code += "assert f.find_spec('allgrad.nn.layers', [sys.argv[1]]); print('allgrad.autograd' in sys.modules)"
    assert python("-c", code, str(ROOT / "autograd" / "nn"), check=True).stdout == "False\n"


def test_reload_runs_the_file_of_the_own_name():
    code = """
import importlib, allgrad, autograd, allgrad.nn as nn
for module in (allgrad, autograd, nn):
    assert importlib.reload(module) is module
assert allgrad.nn is nn and allgrad.Tensor is autograd.Tensor and nn.__spec__.name == nn.__name__
"""
    assert python("-c", code).stderr == ""


def test_classes_are_pickled_by_their_own_names_and_found_by_others():
    assert b"allgrad.autograd.nn.layers" in pickle.dumps(nn.Linear)
    assert pickle.loads(pickle.dumps(optim.SGD)) is optim.SGD
    for name in (b"autograd.optim", b"allgrad.optim.optimizers"):
        assert pickle.loads(b"c" + name + b"\nSGD\n.") is optim.SGD


def test_python_dash_m_runs_a_module_by_another_name():
    for name in ("launch", "allgrad", "allgrad.launch"):
        assert python("-m", name, "--help").stdout.startswith("usage: allgrad")
    done = python("-m", "autograd.ops.activations")
    assert (done.returncode, done.stderr) == (0, "")
    done = python("-m", "allgrad.study")
    assert "'allgrad.study' is a package and cannot be directly executed" in done.stderr


def test_files_and_sources_are_found():
    for package in ("launch.data", "allgrad.launch.data"):
        assert importlib.resources.files(package).joinpath("digits.npz").is_file()
    assert importlib.resources.files("allgrad").joinpath("py.typed").is_file()
    assert inspect.getsource(nn.Linear).startswith("class Linear")
    assert inspect.getmodule(nn.Linear).__name__ == "allgrad.autograd.nn.layers"


def test_a_name_that_does_not_exist_is_reported_as_it_was_written():
    with pytest.raises(AttributeError, match="module 'allgrad' has no attribute 'tensr'") as caught:
        ag.tensr  # noqa: B018
    assert caught.value.name == "tensr" and caught.value.obj is ag
    assert "Did you mean: 'tensor'?" in python("-c", "import allgrad; allgrad.tensr").stderr
    assert not hasattr(ag, "__wrapped__")
    with pytest.raises(ImportError, match="cannot import name 'tensr' from 'allgrad'"):
        from allgrad import tensr  # noqa: F401
    for name in ("allgrad.nope", "allgrad.nn.nope", "autograd.core"):
        assert importlib.util.find_spec(name) is None
        with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'"):
            importlib.import_module(name)


def test_only_the_parts_are_found_beside_the_folder():
    for name in ("allgrad.allgrad", "allgrad.tests", "allgrad.benchmarks", "allgrad.examples"):
        assert importlib.util.find_spec(name) is None


def test_names_are_listed_completed_and_imported_by_a_star():
    assert {"Tensor", "cross_entropy", "nn", "optim", "ddp", "study", "extend"} <= {*dir(ag)}
    assert all(hasattr(ag, name) for name in dir(ag))
    complete = rlcompleter.Completer({"ag": ag}).complete
    assert complete("ag.tens", 0) == "ag.tensor("
    space = {}
    exec("from allgrad import *", space)
    assert space["nn"] is nn and space["tensor"] is autograd.tensor and "sys" not in space


def test_what_ddp_hands_on_is_what_it_declares():
    """A type checker takes no other name of an installed package for a public one."""
    found = {name for name, value in vars(ddp).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert found == {*ddp.__all__}


def test_nothing_of_the_interpreter_s_set_up_is_needed_to_import_it():
    assert python("-S", "-c", "import allgrad, allgrad.launch.__main__").stderr == ""


def test_it_is_imported_from_a_zip_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "allgrad.zip", "w") as archive:
        for path in sorted((ROOT / "allgrad").glob("*.py")):
            archive.write(path, path.relative_to(ROOT))
        for path in sorted((ROOT / "autograd").rglob("*.py")):
            archive.write(path, "allgrad" / path.relative_to(ROOT))
        archive.writestr("autograd/__init__.py", "raise SystemExit('somebody else')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'allgrad.zip')!r}); import allgrad\n"
    code += "import allgrad.nn.layers as layers\n"
    code += "print(layers.__file__); print(float(allgrad.tensor([2.0]).sum().item()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "allgrad.zip" in done.stdout and done.stdout.endswith("2.0\n")


def test_the_version_is_that_of_the_distribution():

    assert ag.__version__ == importlib.metadata.version("allgrad")
