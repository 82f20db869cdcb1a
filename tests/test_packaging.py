"""The wheel and the source distribution: what is in them, and that the wheel installs next to anything."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = "autograd", "ddp", "launch"
pytestmark = pytest.mark.packaging


def run(*command, **options):
    """A command that finds packages where its interpreter installs, and in no checkout."""
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, env=variables, **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both, built of this checkout without an index: by the backend that is installed."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def source(built, tmp_path_factory):
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.iterdir())


def names(wheel):
    return {*zipfile.ZipFile(wheel).namelist()}


def of_checkout():
    """What belongs to the checkout: its files that git knows, or would take."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT, check=True).stdout
    return {name for name in listed.splitlines() if (ROOT / name).is_file()}


def test_the_wheel_has_one_package_with_all_its_rooms_and_data(wheel):
    found = names(wheel)
    above = {name.partition("/")[0] for name in found}
    assert above == {
        "allgrad",
        *(name for name in above if name.startswith("allgrad-") and name.endswith(".dist-info")),
    }
    expected = {name for name in of_checkout() if name.startswith("allgrad/")}
    expected |= {f"allgrad/{name}" for name in of_checkout() if name.startswith(tuple(f"{part}/" for part in PACKAGES))}
    assert {name for name in found if name.startswith("allgrad/")} == expected
    assert {"allgrad/py.typed", "allgrad/launch/data/digits.npz", "allgrad/autograd/engine/tensor.py"} <= found


def test_the_source_distribution_is_the_checkout(source, wheel, tmp_path):
    """With all that `make demo` and `make test` read; and the same wheel can be built of it."""
    found = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert found == of_checkout() | {"PKG-INFO"}
    assert {"Makefile", "constraints.txt", ".ci/run", "LICENSE", "README.md", "docs/steps.png"} <= found
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=source, check=True)
    assert names(next(tmp_path.glob("*.whl"))) == names(wheel)


@pytest.fixture
def environment(tmp_path):
    """The interpreter of a new environment, and where it installs: half a gigabyte, which is cleared away."""
    folder = tmp_path / "env"
    venv.create(folder, symlinks=True)
    yield folder / "bin" / "python", next((folder / "lib").glob("python*/site-packages"))
    shutil.rmtree(folder)


USER = """
import allgrad as ag
from allgrad import ddp, nn, optim, study
from allgrad.extend import primitive
from allgrad.nn import Linear
from allgrad.optim import SGD
from allgrad.study import Lab, Workload, steps

x = ag.tensor([1.0, 2.0], requires_grad=True)
(x * x).sum().backward()
model = nn.Sequential(Linear(2, 3), nn.ReLU())
parallel = ddp.DistributedDataParallel(model, ddp.init(), shards=8)
optim.SGD(parallel, lr=0.1).step()
loss: ag.Tensor = ag.cross_entropy(model(x), x)
print(x.grad, study.Lab, ag.nn.Linear, SGD, Lab, Workload, steps, primitive)
ag.tensr
"""


def test_a_user_s_file_type_checks_against_the_wheel(wheel, environment, tmp_path):
    python, site = environment
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (tmp_path / "user.py").write_text(USER)
    done = run(sys.executable, "-m", "pyright", "--pythonpath", python, "user.py", cwd=tmp_path)
    said = [line for line in done.stdout.splitlines() if "user.py:" in line]
    assert len(said) == 1 and '"tensr" is not a known attribute of module "allgrad"' in said[0], done.stdout


THEIRS = """
import autograd, autograd.numpy as np
assert autograd.__file__.startswith(SITE) and abs(autograd.grad(np.tanh)(0.5) - 1 / np.cosh(0.5) ** 2) < 1e-12

import pandas
from lifelines import WeibullFitter, CoxPHFitter
weeks, died = [6, 7, 10, 15, 19, 25, 30, 31], [1, 1, 1, 0, 1, 0, 1, 1]
assert 1.0 < WeibullFitter().fit(weeks, died).rho_ < 4.0
"""
OURS = """
import sys
import allgrad as ag
assert ag.__file__.startswith(SITE) and not {"autograd", "ddp", "launch"} & {*sys.modules}

import numpy as np
from allgrad import ddp, nn, optim
random = np.random.default_rng(0)
x = random.standard_normal((64, 8)).astype("float32")
y = x @ random.standard_normal((8, 1)).astype("float32")
model = nn.Linear(8, 1)
parallel = ddp.DistributedDataParallel(model, ddp.init(), shards=4)
optimizer = optim.SGD(parallel, lr=0.1)
losses = []
for batch in ddp.DataLoader((x, y), global_batch=64, comm=parallel.comm, shards=4, seed=0).epoch(0):
    for _ in range(5):
        losses.append(parallel.backward(batch, lambda x, y: ag.mse_loss(model(x), y)))
        optimizer.step()
assert losses[-1] < 0.5 * losses[0] and not {"autograd", "ddp", "launch"} & {*sys.modules}
"""


def test_the_wheel_and_what_has_the_name_autograd_install_side_by_side_in_either_order(wheel, environment, tmp_path):
    """autograd (HIPS) is what lifelines and others import; a package with a folder of that name would overwrite it."""
    python, site = environment
    outside = tmp_path / "elsewhere"
    outside.mkdir()

    def there(*command):
        return run(*command, cwd=outside)

    def pip(*words):
        return there(sys.executable, "-m", "pip", "--python", python, *words)

    def install(*what):
        return pip("install", "--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt", *what)

    def works(code):
        done = there(python, "-W", "ignore", "-c", f"SITE = {str(site)!r}\n{code}")
        assert done.returncode == 0, done.stderr

    done = install("autograd", "lifelines")
    if done.returncode and "CI" not in os.environ:
        pytest.skip(f"autograd and lifelines cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr

    done = install(wheel)  # ours second
    assert done.returncode == 0, done.stderr
    works(OURS + THEIRS)
    command = python.with_name("allgrad")
    assert there(command, "--help").stdout.startswith("usage: allgrad")
    for words in ([command], [python, "-m", "allgrad"]):
        done = there(*words, "train", "--steps", 3)
        assert done.returncode == 0 and "weights_sha256" in done.stdout, done.stderr
    assert not [*outside.iterdir()]

    assert pip("uninstall", "--yes", "autograd").returncode == 0
    assert install("--no-deps", "autograd").returncode == 0  # ours first
    assert pip("check").returncode == 0
    works(OURS + THEIRS)

    assert pip("uninstall", "--yes", "allgrad").returncode == 0
    assert not {"allgrad", "ddp", "launch"} & {path.name for path in site.iterdir()}
    works(THEIRS)
