"""The house rules: one import package, rooms on floors, imports that run down and never in a ring."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = "autograd", "ddp", "launch"  # each may import those before it
FLOORS = {  # package -> its rooms: each may import those before it
    "autograd": (
        "arrays", "engine", "init", "schedule", "random", "arena", "ops", "nn", "optim", "tools", "replay", "on_torch",
    ),
    "ddp": (
        "errors", "files", "process", "shards", "weighted", "compatibility", "comm", "reduce", "data", "scaling",
        "trace", "parallel", "trainer",
    ),
    "launch": (
        "models", "options", "flags", "data", "transfer", "plan", "report", "launchers", "train", "checkpoints",
        "predict", "slurm", "doctor", "study", "demo", "__main__",
    ),
}  # fmt: skip
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path):
    """The dotted name of a file, without the package around all: "autograd.engine.tensor"."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in FILES}


def imported(path):
    """The modules that a file imports, at its top or inside a function: those of this package without "allgrad."."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("allgrad.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            module = str(node.module).removeprefix("allgrad.")
            inside = [name for alias in node.names if (name := f"{module}.{alias.name}") in NAMES]
            inside += [alias.name for alias in node.names if node.module == "allgrad" and alias.name in NAMES]
            yield from inside
            if len(inside) < len(node.names):
                yield module


IMPORTS = {name_of(path): {*imported(path)} for path in FILES}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_imports_run_down_from_package_to_package(name):
    package = name.split(".")[0]
    above = {*PACKAGES[PACKAGES.index(package) + 1 :], "tests", "benchmarks", "examples"}
    if package == "autograd" and not name.startswith("autograd.on_torch"):
        above |= {"torch", "mpi4py"}
    assert not above & {other.split(".")[0] for other in IMPORTS[name]}
    assert package not in IMPORTS[name], "inside a package, from its rooms and not from its face"


@pytest.mark.parametrize("package", FLOORS)
def test_imports_run_down_from_room_to_room(package):
    floors = FLOORS[package]
    rooms = {
        path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - {"__init__"} == {*floors}, "every room has its floor"
    up = []
    for name, others in IMPORTS.items():
        if name.startswith(f"{package}."):
            here = floors.index(name.split(".")[1])
            seen = [other for other in others if other.startswith(f"{package}.")]
            up += [(name, other) for other in seen if floors.index(other.split(".")[1]) > here]
    assert not up


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_imports_itself_by_way_of_others(package):
    left = {name: {other for other in others if other in NAMES} for name, others in IMPORTS.items()}
    left = {name: others for name, others in left.items() if name.split(".")[0] == package}
    while bottom := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in bottom}
    assert not left, f"a ring among {sorted(left)}"


TESTED_BY = {  # module without a test file of its own: where it is tested, and why there
    "autograd.engine.errors": ("autograd/test_messages.py", "rows of the table of all messages"),
    "autograd.nn.convolution": ("autograd/nn/test_layers.py", "rows of the table of layers"),
    "autograd.nn.functions": ("autograd/nn/test_layers.py", "rows of the table of layers"),
    "autograd.nn.normalization": ("autograd/nn/test_layers.py", "rows of the table of layers"),
    "autograd.nn.padding": ("autograd/nn/test_layers.py", "rows of the table of layers"),
    "autograd.on_torch.graphs": ("device/test_graphs.py", "needs a CUDA device, or one that is pretended"),
    "autograd.replay.recorded": ("autograd/replay/test_recorder.py", "an array that needs a recording"),
    "autograd.replay.steps": ("autograd/replay/test_program.py", "steps of programs"),
    "autograd.replay.watch": ("autograd/replay/test_recorder.py", "what recordings of any library refuse"),
    "ddp.comm.mpi": ("ranks/test_communicators.py", "needs ranks that mpirun has started"),
    "ddp.comm.torch_distributed": ("ranks/test_communicators.py", "needs ranks that torchrun has started"),
    "ddp.comm.watchdog": ("launch/test_failures.py", "ends processes: needs some that may be ended"),
    "ddp.comm.world": ("launch/test_failures.py", "ends processes: needs some that may be ended"),
    "ddp.parallel.report": ("ddp/parallel/test_step_on_device.py", "what is written on a device, and read here"),
    "ddp.parallel.shard_gradients": ("ddp/parallel/test_data_parallel.py", "seen in the gradients of all shards"),
    "ddp.trainer.built_in": ("ddp/trainer/test_trainer.py", "seen in what runs do and in their checkpoints"),
    "ddp.trainer.run_summary": ("ddp/trainer/test_trainer.py", "the summaries of runs"),
    "launch.data.arrow": ("launch/data/test_columns.py", "files of columns of every type"),
    "launch.data.separated": ("launch/data/test_tables.py", "spellings of the same table, and those that are refused"),
    "launch.data.files": ("launch/data/test_idx.py", "files, hashes and downloads, by way of a set that has them"),
    "launch.study.experiments.project.findings": (
        "launch/study/experiments/project/test_extrapolation.py", "judges machines with known laws",
    ),
    "launch.study.experiments.tune.drawing": (
        "launch/study/experiments/tune/test_search.py", "figures need a whole search",
    ),
    "launch.study.outlook": ("launch/study/test_runner.py", "a run that looks for its target"),
    "launch.study.options": ("launch/study/test_experiment.py", "an experiment gets its options by its decorator"),
    "launch.study.watch_page": ("launch/study/test_watch.py", "a page, seen by way of its server"),
}  # fmt: skip
TESTS_OF_MANY = {  # test file that has not the name of a module: what it is about
    "autograd/test_compositions.py": "operators together, in graphs that share nodes",
    "autograd/test_messages.py": "every message of the package",
    "autograd/test_opinfo.py": "every operator on torch's own samples of it",
    "autograd/test_parity.py": "whole networks beside torch's",
    "autograd/ops/test_tables.py": "every operator has its row in the tables of the folder",
    "ddp/test_torch_arrays.py": "training on torch's tensors, from the loader to the checkpoint",
    "ddp/parallel/test_capture.py": "captured steps under every policy of the room",
    "launch/test_failures.py": "what goes wrong under launchers ends all ranks, and is said once",
    "launch/test_mpich.py": "all of it under another MPI",
    "launch/test_rules.py": "optimizers and schedules from the command line, to the end of a resumed run",
    "launch/test_soak.py": "the benchmark that kills ranks",
    "launch/test_world_sizes.py": "the benchmark that compares numbers of ranks",
    "launch/models/test_build.py": "models by name, of every family",
    "launch/study/test_toys.py": "the closed forms that studies are held against",
}


def test_every_module_has_its_test_file_and_every_test_file_its_module():
    modules = [path.relative_to(ROOT) for path in FILES if path.name != "__init__.py"]
    named = {str(path.with_name(f"test_{path.stem.strip('_')}.py")): name_of(ROOT / path) for path in modules}
    tests = ROOT / "tests"
    found = {str(path.relative_to(tests)) for package in PACKAGES for path in (tests / package).rglob("test_*.py")}
    assert {named[file] for file in named.keys() - found} == TESTED_BY.keys(), "a module without a test file"
    assert found - named.keys() == TESTS_OF_MANY.keys(), "a test file that has not the name of a module"
    assert all((tests / file).exists() and why for file, why in TESTED_BY.values())


OTHERS = {("--mpi", "ddp.comm.launcher")}  # srun's


def flags_in(tree):
    """The flags of a command line that the string constants of a module name, docstrings included."""
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {flag for text in texts for flag in re.findall(r"--[a-z][a-z-]*", text)}


def test_nothing_below_launch_speaks_of_flags_of_the_command_line():
    """A user of Python is told about arguments; `launch` knows what the flags are called."""
    files = [path for path in FILES if name_of(path).split(".")[0] in ("autograd", "ddp")]
    found = {(flag, name_of(path)) for path in files for flag in flags_in(ast.parse(path.read_text(encoding="utf-8")))}
    assert len(files) > 50 and found == OTHERS


def test_every_name_that_a_module_imports_is_there():
    """Also in those that are imported only when they are needed, which no checker of types has looked at."""
    code = f"import importlib\nfor name in {sorted(NAMES)}: importlib.import_module('allgrad.' + name)"
    python(code, cwd=ROOT)


def test_no_file_is_long():
    lengths = {path: len(path.read_text().splitlines()) for path in FILES}
    assert len(lengths) > 100 and max(lengths.values()) <= 500


def test_this_is_the_package_of_this_repository():
    import allgrad

    assert Path(allgrad.__file__).resolve() == ROOT / "allgrad" / "__init__.py"


def python(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **options)


def test_in_a_checkout_the_folders_are_the_same_modules_under_shorter_names():
    code = """
import autograd as ag, autograd.nn, ddp, launch
from autograd.optim import SGD
from ddp.trainer import Trainer
from launch.study import Lab
import allgrad, allgrad.nn, allgrad.optim, allgrad.study
from allgrad import ddp as other
assert ag.Tensor is allgrad.Tensor and autograd.nn is allgrad.nn is allgrad.autograd.nn
assert SGD is allgrad.optim.SGD and Trainer is allgrad.ddp.Trainer and Lab is allgrad.study.Lab and ddp is other
assert launch is allgrad.launch and allgrad.nn.__name__ == allgrad.nn.__spec__.name == "allgrad.autograd.nn"
"""
    python(code, cwd=ROOT)


def test_importing_allgrad_imports_neither_the_folders_nor_torch_scipy_or_mpi():
    code = "import sys, allgrad; print(*{'numpy', 'autograd', 'ddp', 'launch'} & {*sys.modules}); allgrad.Tensor; "
    code += "from allgrad import nn, optim; print(*{'torch', 'scipy', 'mpi4py', 'allgrad.ddp', 'ddp'} & {*sys.modules})"
    assert python(code).stdout == "\n\n"


def test_a_command_imports_what_it_needs_only():
    """Which is most of the time it takes to start: help without NumPy, training without what others need."""
    code = """
import contextlib, sys
from allgrad.launch.__main__ import main
with contextlib.suppress(SystemExit):
    main(["--help"])
found = {"numpy"} & {*sys.modules}
main("train --data digits --steps 1".split())
others = {"allgrad.launch.doctor", "allgrad.launch.study", "matplotlib", "mpi4py", "scipy", "sklearn", "torch"}
found |= others & {*sys.modules}
print(*found, file=sys.stderr)
"""
    done = python(code, cwd=ROOT)
    assert done.stderr == "\n" and "usage: allgrad" in done.stdout and "weights_sha256" in done.stdout
