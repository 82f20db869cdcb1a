"""The progress of a sweep, on a clock that is set by hand."""

import threading

import pytest

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
