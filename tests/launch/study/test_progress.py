"""The progress of a sweep, on a clock that is set by hand."""

import json
import threading

import pytest

from allgrad.launch.study.lab import Lab
from allgrad.launch.study.progress import Progress


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def config(batch, seed=0, lr=0.1):
    return {"batch": batch, "seed": seed, "lr": lr, "model": "mlp:8"}


def row(batch, seconds, seed=0, lr=0.1, status="ok"):
    return {"config": config(batch, seed, lr), "wall_s": seconds, "status": status}


def test_time_left_comes_from_runs_of_the_same_kind(clock):
    progress = Progress(clock=clock)
    progress.expect(2)
    assert progress.left() is None
    for batch, seconds in ((4, 60.0), (64, 2.0)):
        progress.started(config(batch))
        progress.finished(row(batch, seconds))
    assert progress.left() == 0.0
    progress.expect(1)
    progress.started(config(4, seed=1, lr=0.2))
    clock.now += 12.0
    assert progress.left() == pytest.approx(48.0)
    clock.now += 100.0
    assert progress.left() == 0.0


def test_time_left_grows_with_what_becomes_known_and_shrinks_with_runs_side_by_side(clock):
    progress = Progress(total=1, clock=clock)
    progress.started(config(8))
    progress.finished(row(8, 10.0))
    progress.expect(5)
    assert progress.left() == pytest.approx(50.0)
    progress.started(config(8, 1))
    progress.started(config(8, 2))
    assert progress.left() == pytest.approx(25.0)


def test_the_line_counts_known_done_running_diverged_failed_and_those_of_the_ledger(clock):
    progress = Progress("steps", total=6, clock=clock)
    progress.finished(row(4, 1.0, seed=9))
    progress.started(config(4))
    progress.started(config(8))
    progress.finished(row(4, 1.0, status="diverged"))
    progress.started(config(16))
    progress.finished(row(16, 1.0, status="error"))
    clock.now += 3725.0
    words = "steps: 3 of 6 known runs, 1 from the ledger, 1 running, 1 diverged, 1 failed, 1:02:05, about 0:02 left"
    assert progress.line() == words


def test_without_a_terminal_a_line_every_so_often_and_one_at_the_end(clock, capsys, monkeypatch):
    monkeypatch.setattr("allgrad.launch.study.progress.screen", lambda: None)
    with Progress(total=8, every=30.0, speak=True, clock=clock) as progress:
        for seed in range(8):
            progress.started(config(8, seed))
            clock.now += 10.0
            progress.finished(row(8, 10.0, seed))
    out, err = capsys.readouterr()
    assert not out and [line.split()[1] for line in err.splitlines()] == ["3", "6", "8"]


def test_other_ranks_are_silent(clock, capsys):
    with Progress(total=1, every=0.0, speak=False, clock=clock) as progress:
        progress.started(config(8))
        progress.finished(row(8, 1.0))
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_bar(tmp_path, monkeypatch):
    with (tmp_path / "screen").open("w+") as terminal:
        monkeypatch.setattr("allgrad.launch.study.progress.screen", lambda: terminal)
        monkeypatch.setenv("COLUMNS", "80")
        with Progress("steps", total=4, speak=True) as progress:
            progress.started(config(8))
            progress.finished(row(8, 1.0))
        terminal.seek(0)
        assert "steps: 1 of 4 known runs" in terminal.read()


def test_many_threads_lose_nothing(capsys):
    progress = Progress(every=1e9, speak=True)

    def work(thread):
        for seed in range(200):
            progress.expect(1)
            progress.started(config(thread, seed))
            progress.finished(row(thread, 0.0, seed, status="error" if seed % 2 else "ok"))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (progress.known, progress.done, progress.ends["error"], progress.cached) == (1600, 1600, 800, 0)
    assert progress.left() == 0.0


# --- what is forecast ------------------------------------------------------------------------------------------------

CELLS = {("steps", "sgd", 4): (10, 14), ("steps", "sgd", 64): (20, 28)}


def run_all(progress, clock, batch, count, seconds, first=0):
    for seed in range(first, first + count):
        progress.expect(1)
        progress.started(config(batch, seed))
        clock.now += seconds
        progress.finished(row(batch, seconds, seed))


def test_time_left_counts_the_runs_that_are_forecast_by_the_seconds_of_their_batch(clock):
    progress = Progress("steps", speak=False, clock=clock)
    with progress.under_way("steps", CELLS):
        run_all(progress, clock, 4, 4, 10.0)
        assert "left" not in progress.line()  # four runs say too little
        run_all(progress, clock, 64, 5, 1.0)
        assert progress.forecast_left([progress.stage]) == pytest.approx((6 * 10.0 + 15 * 1.0, 10 * 10.0 + 23 * 1.0))
        assert progress.line() == "steps: 9 of about 36 runs, 0:45, about 1:15 to 2:03 left"
        run_all(progress, clock, 4, 6, 10.0, 4)
        run_all(progress, clock, 64, 15, 1.0, 5)
        assert progress.forecast_left([progress.stage]) == pytest.approx((0.0, 4 * 10.0 + 8 * 1.0))
    assert progress.forecast_left(progress.stages.values()) == (0.0, 0.0)  # whatever was forecast, it is done


def test_a_batch_that_was_not_run_yet_takes_as_long_as_the_nearest(clock):
    progress = Progress("steps", speak=False, clock=clock)
    with progress.under_way("steps", {("steps", "sgd", 8): (1, 1), ("steps", "sgd", 32): (1, 1)}):
        run_all(progress, clock, 4, 3, 10.0)
        run_all(progress, clock, 64, 3, 1.0)
        assert progress.forecast_left([progress.stage]) == pytest.approx((11.0, 11.0))


def test_several_experiments_each_in_its_place_and_the_same_cells_once(clock):
    progress = Progress("all", speak=False, clock=clock)
    with progress.under_way("all", {}):
        progress.plan({"steps": CELLS, "noise": {**CELLS, ("noise", "sgd", 64): (8, 8)}, "scaling": {}})
        assert [(s["least"], s["most"]) for s in progress.status()["stages"]] == [(30, 42), (8, 8), (0, 0)]
        with progress.under_way("steps", CELLS):
            run_all(progress, clock, 64, 24, 2.0)  # of the noise, 8 runs of 40 s, and 1.5 times more or less of it
            assert progress.line() == (
                "steps (1 of 3): 24 of about 36 runs, 0:48, about 0:20 to 0:36 left; whole study about 3:53 to 8:36 "
                "left and what scaling will take"
            )
        with progress.under_way("noise", {}), progress.under_way("steps", CELLS):  # the second is a part of the first
            run_all(progress, clock, 64, 2, 2.0, 50)
            assert progress.line().startswith("noise (2 of 3): 2 of about 8 runs, 0:52, about 0:08 to 0:18 left; whole")
        assert [s["state"] for s in progress.status()["stages"]] == ["done", "done", "to come"]


def test_more_runs_than_were_forecast_are_counted_as_they_become_known(clock):
    progress = Progress("steps", speak=False, clock=clock)
    with progress.under_way("steps", {("steps", "sgd", 4): (2, 3)}):
        run_all(progress, clock, 4, 6, 1.0)
        progress.expect(4)
        assert progress.line() == "steps: 6 of 10 known runs, 0:06, about 0:04 left"


def test_an_expensive_study_tells_its_runs_before_the_first(clock, capsys):
    for most, told in ((199, ""), (260, "steps: about 180 to 260 runs, of which those that the directory has are not")):
        progress = Progress("steps", speak=True, clock=clock)
        with progress.under_way("steps", {("steps", "sgd", 4): (180, most)}):
            assert capsys.readouterr().err == ""
            progress.expect(1)
            progress.expect(1)
            err = capsys.readouterr().err
            assert err.startswith(told) and err.count("\n") == bool(told)


def test_the_file_for_others_is_written_once_a_second_and_at_the_end(clock, tmp_path, monkeypatch):
    timers = []

    class Timer:
        def __init__(self, seconds, function):
            assert seconds == 1.0
            self.function, self.cancelled = function, False
            timers.append(self)

        def start(self):
            assert self.daemon

        def cancel(self):
            self.cancelled = True

    monkeypatch.setattr(threading, "Timer", Timer)
    (tmp_path / "runs.jsonl").write_text("0123456789")
    read = lambda: json.loads((tmp_path / "progress.json").read_text())
    progress = Progress("steps", speak=True, clock=clock, every=1e9, out=tmp_path)
    with progress, progress.under_way("steps", CELLS):
        assert read()["stages"] == [{"name": "steps", "state": "under way", "done": 0, "least": 30, "most": 42}]
        run_all(progress, clock, 4, 3, 0.3)
        assert read()["stages"][0]["done"] == 0 and read()["ledger_bytes"] == 10 and len(timers) == 1
        timers[0].function()  # a second later
        assert read()["stages"][0]["done"] == 3
        run_all(progress, clock, 4, 5, 0.3, 3)
        assert 3 < read()["stages"][0]["done"] < 8 and not read()["ended"]
    assert [timer.cancelled for timer in timers] == [False, True]
    timers[1].function()  # too late to be cancelled
    assert read()["ended"] and read()["stages"][0] | {"least": 0} == {
        "name": "steps", "state": "done", "done": 8, "least": 0, "most": 8,
    }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"progress.json", "runs.jsonl"}


def test_what_is_no_run_is_said_by_the_rank_that_leads(clock, capsys, tmp_path):
    for speak in (True, False):
        with Lab(tmp_path, jobs=1, progress=Progress(speak=speak, clock=clock)) as lab:
            lab.say("looking ...")
    with Lab(tmp_path, jobs=1) as lab:
        lab.say("silence")
    assert capsys.readouterr() == ("", "looking ...\n")
