"""Times of ranks: what is measured has the right shape and meaning; no test looks at how long anything took."""

import re
import sys
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from allgrad import ddp
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.costs import measure
from allgrad.launch.study.workload import Workload

CONFIG = Workload(model="mlp:8").config()
STEPS = {"kind": "steps", "config": CONFIG, "batch": 12, "steps": 3}


def test_steps_of_one_rank():
    found = measure.step_times(ddp.Communicator(), CONFIG, 12, 3)
    parts = np.array([found[part] for part in measure.PARTS])
    assert parts.shape == (5, 1, 3)
    assert (parts >= 0.0).all()
    assert (parts.sum(0) <= np.array(found["step"]) * (1.0 + 1e-9)).all()
    assert (np.array(found["exchange"]) == 0.0).all()
    assert len(found["losses"]) == 3 + measure.WARM_UPS
    assert found["bytes"] > 4 * (64 * 8 + 8 + 8 * 10 + 10)


def test_watched_objects_are_as_they_were():
    comm = ddp.Communicator()
    measure.step_times(comm, CONFIG, 12, 1)
    assert not {"exchange", "all_reduce"} & vars(comm).keys()


def test_stopwatch_counts_the_outermost_function_only():
    watch = measure.Stopwatch()
    clock = iter([10.0, 13.0, 20.0, 21.0])
    inner = watch.around(lambda: 7)
    outer = watch.around(lambda: inner() + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: next(clock))
        assert outer() == 8  # from 10 to 13
        assert watch.read() == 3.0
        assert inner() == 7  # from 20 to 21
    assert (watch.read(), watch.read()) == (1.0, 0.0)


def test_all_reduces_and_additions():
    comm = ddp.Communicator()
    found = measure.all_reduce_times(comm, [4, 4096], 6)
    assert found["sizes"] == [4, 4096]
    assert np.shape(found["seconds"]) == (2, 6)
    assert len(measure.add_times(comm, 1024, 5)["seconds"]) == 5


@pytest.mark.skipif(measure.cores() < 2, reason="two ranks need two cores")
def test_two_ranks_see_the_losses_of_one():
    x, y = np.random.default_rng(0).normal(size=(40, 5)), np.arange(40) % 3
    steps = {**STEPS, "config": Workload((x, y, x, y), "mlp:8").config()}  # data that no name can make again
    cells = [steps, {**steps, "kind": "alone"}, {"kind": "all-reduce", "sizes": [4096], "repeats": 2}]
    found = measure.times(SimpleNamespace(comm=ddp.Communicator()), 2, cells, "mpirun")
    alone = measure.measured(ddp.Communicator(), 1, [steps], {})
    steps, apart, all_reduce = found["cells"]
    assert found["oversubscribed"] is False
    assert alone["oversubscribed"] is False
    assert steps["losses"] == pytest.approx(alone["cells"][0]["losses"], rel=1e-5)
    assert np.shape(steps["exchange"]) == (2, 3)
    assert np.min(steps["exchange"]) > 0.0
    assert np.shape(apart["step"]) == (2, 3)
    assert np.max(apart["exchange"]) == 0.0
    assert np.shape(all_reduce["seconds"]) == (1, 2)


SCRIPT = """
from allgrad.launch.study import Lab, Workload
from allgrad.launch.study.costs import measure

cell = {"kind": "steps", "config": Workload(model="mlp:8").config(), "batch": 8, "steps": 2}
with Lab("study") as lab:
    for ranks in 1, 2:
        found = measure.times(lab, ranks, [cell])["cells"][0]
        print(ranks, len(found["step"]), f"{found['losses'][-1]:.4f}")
"""


def test_ranks_of_a_launch_are_measured_together(start, tmp_path):
    (tmp_path / "measuring.py").write_text(SCRIPT)
    done = start("", tmp_path, ranks=2, script="measuring.py")
    assert (done.status, done.err) == (0, "")
    one, two = (line.split() for line in done.out.splitlines())
    assert (one[:2], two[:2]) == (["1", "1"], ["2", "2"])
    assert one[2] == two[2]


def test_what_the_ranks_say_is_passed_on(monkeypatch, tmp_path):
    failing = [sys.executable, "-c", "import sys; sys.exit('no cable')"]
    monkeypatch.setattr(measure.launchers, "command", lambda *words: (failing, {}))
    with pytest.raises(ConfigurationError, match=r"2 ranks .* ended with status 1 \(no cable\): see what allgrad run"):
        measure.on_new_ranks(2, partial(len, ()))
    with pytest.raises(ConfigurationError, match="--launcher is one of mpirun, torchrun, srun, got 'lsf'"):
        measure.on_new_ranks(2, partial(len, ()), "lsf")


def test_numbers_of_ranks_take_turns_and_what_is_left_is_told_after_the_first(monkeypatch):
    seen, said = [], []
    monkeypatch.setattr(measure, "times", lambda lab, W, cells, launcher: seen.append(W) or (W, cells, launcher))
    found = measure.in_turns(SimpleNamespace(say=said.append), {1: ["a"], 4: ["b"]}, 3, "mpirun")
    assert seen == [1, 4] * 3 and found == {1: [(1, ["a"], "mpirun")] * 3, 4: [(4, ["b"], "mpirun")] * 3}
    assert said[0] == "timing steps on 1 and 4 ranks, 3 times in turns ..." and len(said) == 2
    assert re.fullmatch(r"timing: 1 of 3 turns done, about \d+ s left", said[1])
    assert measure.in_turns(SimpleNamespace(), {1: []}, 1) == {1: [(1, [], None)]}
