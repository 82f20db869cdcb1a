"""docs/architecture.md says what is so: the rooms and what they import, the way of a batch, the afternoon's reading."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from tests.ddp.conftest import simulate
from tests.test_house import FLOORS, IMPORTS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(title):
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def arrows(package):
    """{room: the other rooms of the package that it imports}."""
    found = {room: set() for room in FLOORS[package]}
    for name, others in IMPORTS.items():
        if name.startswith(f"{package}."):
            room = name.split(".")[1]
            found[room] |= {other.split(".")[1] for other in others if other.startswith(f"{package}.")} - {room}
    return found


@pytest.mark.parametrize("package", ["autograd", "ddp"])
def test_the_tables_have_the_rooms_and_what_each_imports(package):
    told = {}
    for line in re.findall(r"^\| `.*\|$", section(f"The rooms of {package}"), re.MULTILINE):
        rooms, _, imports = line.strip("|").split("|")
        told |= {room: {*re.findall(r"`(\w+)`", imports)} for room in re.findall(r"`(\w+)`", rooms)}
    assert told == arrows(package) and [*told] == [*FLOORS[package]]


def step_of_rank_0():
    """(file, qualified name) of every call into the package in the second of three steps, in order."""
    x, y = np.random.default_rng(0).standard_normal((32, 6), np.float32), np.arange(32) % 3

    def run(comm):
        ag.manual_seed(1)
        model, seen = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), []
        parallel = ddp.DistributedDataParallel(model, comm, shards=4, noise=ddp.NoiseScale())
        loader = ddp.DataLoader((x, y), 16, comm, shards=4)
        trainer = ddp.Trainer(
            parallel, optim.SGD(parallel, 0.1, momentum=0.9), loader, lambda x, y: ag.cross_entropy(model(x), y),
            lambda x, y: {"loss": ag.cross_entropy(model(x), y, reduction="none")}, steps=3,
        )  # fmt: skip
        one_step = trainer._one_step

        def watched():
            def on_call(frame, event, arg):
                if event == "call":
                    seen.append((frame.f_code.co_filename.removeprefix(f"{ROOT}/"), frame.f_code.co_qualname))

            if comm.rank or trainer.step != 1:
                return one_step()
            before = sys.getprofile()
            sys.setprofile(on_call)
            try:
                return one_step()
            finally:
                sys.setprofile(before)

        trainer._one_step = watched
        trainer.fit()
        return seen

    return simulate(2, run)[0]


def test_the_way_of_a_batch_is_that_of_a_debugger():
    told = re.findall(r"^\d+\. `([\w/.]+)`: `([\w.<>]+)`", section("The way of a batch"), re.MULTILINE)
    numbers = re.findall(r"^(\d+)\. ", section("The way of a batch"), re.MULTILINE)
    assert numbers == [str(i) for i in range(1, len(told) + 1)] and len(told) > 30
    seen = iter(step_of_rank_0())
    for number, call in enumerate(told, 1):
        assert call in seen, f"{number}. {call[0]}: {call[1]} comes earlier, or not at all"


def test_the_afternoon_is_as_long_as_it_says():
    files = re.findall(r"`([\w/]+\.py)`", section("An afternoon's reading"))
    lines = sum(len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in files)
    said = int(re.findall(r"About ([\d,]+) lines", section("An afternoon's reading"))[0].replace(",", ""))
    assert len({*files}) == len(files) and abs(lines - said) <= 100, lines


def test_every_file_and_name_that_is_mentioned_exists():
    for file in re.findall(r"`((?:autograd|ddp|launch|allgrad|tests)/[\w/]+\.py)`", TEXT):
        assert (ROOT / file).is_file(), file
