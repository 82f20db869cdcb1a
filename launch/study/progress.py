"""How far a study is: the runs that are done, how many there will be, and about how long they will still take."""

import contextlib
import json
import math
import statistics
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allgrad.ddp import files
from allgrad.ddp.comm import speaks
from allgrad.ddp.trainer import screen
from allgrad.launch.study import ledger
from allgrad.launch.study.forecast import COST, Cells

FILE = "progress.json"  # in the study's directory: what `allgrad study watch` shows beside the runs
RECENT_RUNS = 16  # of which the mean is taken
TIMED_RUNS = 5  # before which nothing is said of the time left
EXPENSIVE = 200  # runs, from which on their number is told before the first
UNSURE = 1.5  # factor, both ways, of the seconds of an experiment that has not had a run yet
ROUGHLY = 1.25  # up to this ratio of the most to the least, one number is told for both
ENDS = {"diverged": "diverged", "error": "failed"}  # that a reader hears of while runs go on
UNLIKE = "seed", "lr", "cap", "prune"  # runs that differ in these only take about as long as each other


class Stage:
    """An experiment of a study: the runs that are forecast, known and done, by batch."""

    def __init__(self, name: str, cells: Cells):
        self.name, self.state = name, "to come"
        self.known = self.done = 0
        self.done_at: Counter = Counter()
        self.cost = COST.get(name, 1.0)
        self.seconds: dict[Any, list[float]] = defaultdict(list)  # of its runs, by batch
        self.forecast: dict[Any, list[int]] = defaultdict(lambda: [0, 0])  # by batch: least and most
        for (_, _, batch), bounds in cells.items():
            for end, runs in enumerate(bounds):
                self.forecast[batch][end] += runs

    def runs(self, end) -> int:
        """The least (0) or the most (1) there will be."""
        runs = sum(bounds[end] for bounds in self.forecast.values())
        return self.known if self.state == "done" else max(self.known, runs)

    def rest(self, end) -> dict[Any, int]:
        """Runs that are not done, by batch; those that nobody has forecast under None."""
        if self.state == "done":
            return {}
        rest = {batch: max(0, bounds[end] - self.done_at[batch]) for batch, bounds in self.forecast.items()}
        rest[None] = rest.get(None, 0) + max(0, self.known - self.done - sum(rest.values()))
        return rest


class Progress:
    """A bar on a terminal, else a line on stderr every `every` seconds, on the rank that leads only; thread-safe.

    with Progress("steps", out="studies/a") as progress:
        progress.expect(45)           # so many more runs are known; a tuner, which adds runs, says so again
        progress.started(config)      # not for a run whose row is known already
        progress.finished(row)

    Rows have a `status`, their `config` and the seconds `wall_s`; one that was not started was known before. A run
    under way is taken to last as long as the last of its like, the same configuration but for seed and learning rate;
    one that is forecast, as the last of its experiment with its batch, or with the nearest; one of an experiment that
    has had none, as those of the others, by their costs.

    An experiment says by `under_way` about how many runs it will do, and one of several, by `plan`, what all will. With
    `out`, what is known goes to OUT/progress.json too, at most once a second.
    """

    def __init__(self, name="runs", total=0, every=30.0, speak=None, clock=time.monotonic, out=None):
        self.name, self.every, self.clock, self.out = name, every, clock, None if out is None else Path(out)
        self.speak = speaks() if speak is None else speak
        self.known, self.done, self.cached, self.ends = total, 0, 0, Counter()
        self.running: dict[Any, list[float]] = defaultdict(list)  # when runs began, by likeness
        self.seconds: dict[Any, list[float]] = defaultdict(list)  # of finished runs, by likeness; None: of all
        self.seconds_at: dict[Any, list[float]] = defaultdict(list)  # by batch, each over the cost of its experiment
        self.stages: dict[str, Stage] = {}
        self.stage: Stage | None = None
        self.abreast = 1  # runs side by side, lately
        self.lock = threading.RLock()
        self.began = self.said = clock()
        self.written = -math.inf
        self.later: threading.Timer | None = None  # writes the file of what has come since
        self.bar = None

    def __enter__(self):
        if self.speak and (terminal := screen()):
            from rich.console import Console
            from rich.live import Live
            from rich.progress_bar import ProgressBar
            from rich.table import Column, Table

            def shown():
                row = Table.grid(Column(), Column(no_wrap=True, overflow="ellipsis"), padding=(0, 1))
                row.add_row(ProgressBar(max(self._all_runs(), self.done, 1), self.done, 8), self.line())
                return row

            console = Console(file=terminal, force_terminal=True, markup=False, highlight=False)
            self.bar = Live(console=console, get_renderable=shown, refresh_per_second=2)
            self.bar.start()
            console.show_cursor(True)  # a killed sweep could not bring it back
        return self

    def __exit__(self, *exc):
        if self.bar:
            self.bar.stop()
        elif self.done:
            self._say()
        with self.lock:
            if self.later:
                self.later.cancel()
                self.later = None
            self._write(ended=True)

    # --- what is under way -------------------------------------------------------------------------------------------

    def plan(self, cells: Mapping[str, Cells]):
        """What the experiments of a study are about to do, in this order; the same runs are counted once."""
        with self.lock:
            seen: set = set()
            self.stages = {}
            for name, of_it in cells.items():
                self.stages[name] = Stage(name, {cell: runs for cell, runs in of_it.items() if cell not in seen})
                seen |= of_it.keys()
            self.stage = None

    @contextlib.contextmanager
    def under_way(self, name: str, cells: Cells):
        """While an experiment does its runs. One that is called by another is a part of that."""
        with self.lock:
            if not self.stages:
                self.stages[name] = Stage(name, cells)
            here = self.stages.get(name) if self.stage is None else None
            if here is not None:
                self.stage, here.state = here, "under way"
            self._write(at_once=True)
        try:
            yield
        finally:
            with self.lock:
                if here is not None:
                    here.state = "done"
                    self.stage = None if self.stage is here else self.stage

    def expect(self, runs: int):
        """So many more runs have become known."""
        with self.lock:
            if not self.known:
                self._announce()
            self.known += runs
            if self.stage:
                self.stage.known += runs
            self._show()

    def started(self, config: Mapping[str, Any]):
        with self.lock:
            self.running[_like(config)].append(self.clock())
            self.abreast = self._active()
            self._show()

    def finished(self, row: Mapping[str, Any]):
        with self.lock:
            config = row["config"]
            like, lasted = _like(config), row.get("wall_s")
            if begun := self.running.get(like):
                began = begun.pop(0)
                lasted = self.clock() - began if lasted is None else lasted
            else:
                self.cached += 1
            if lasted is not None:
                self.seconds[like].append(lasted)
                self.seconds[None].append(lasted)
                self.seconds_at[config.get("batch")].append(lasted / (self.stage.cost if self.stage else 1.0))
                if self.stage:
                    self.stage.seconds[config.get("batch")].append(lasted)
            self.done += 1
            if self.stage:
                self.stage.done += 1
                batch = config.get("batch")
                self.stage.done_at[batch if batch in self.stage.forecast else None] += 1
            self.ends[row["status"]] += 1
            self._show()

    def say(self, text: str):
        """A line on stderr, above the bar if there is one, on the rank that leads only."""
        if self.speak:
            self.bar.console.print(text) if self.bar else print(text, file=sys.stderr, flush=True)

    # --- what can be said of it --------------------------------------------------------------------------------------

    def left(self) -> float | None:
        """Seconds until the runs known by now are done, if as many run side by side as do now; None if unknown."""
        with self.lock:
            now = self.clock()
            rest = [max(0.0, mean + t - now) for like, began in self.running.items() for t in began
                    if (mean := self._mean(like)) is not None]  # fmt: skip
            active = self._active()
            waiting = max(0, self.known - self.done - active)
            mean = self._mean(None)
            if waiting + active == 0:
                return 0.0
            if mean is None:
                return None
            return max([(sum(rest) + waiting * mean) / max(active, 1), *rest])

    def forecast_left(self, stages) -> tuple[float, float] | None:
        """Seconds, least and most, until these stages are done; None as long as too little is known."""
        with self.lock:
            if len(self.seconds[None]) < TIMED_RUNS:
                return None
            now = self.clock()
            gone = sum(min(now - t, self._mean(like) or 0.0) for like, began in self.running.items() for t in began)
            ends = [0.0, 0.0]
            for stage in stages:
                unsure = 1.0 if sum(map(len, stage.seconds.values())) >= TIMED_RUNS else UNSURE
                for end, factor in enumerate((1.0 / unsure, unsure)):
                    work = sum(runs * self._seconds_at(stage, batch) for batch, runs in stage.rest(end).items())
                    ends[end] += factor * work
            least, most = (max(0.0, work - gone) / max(self.abreast, 1) for work in ends)
            return least, most

    def line(self) -> str:
        with self.lock:
            active = self._active()
            parts = [self._counted(active)]
            parts += [f"{self.cached} from the ledger"] * bool(self.cached)
            parts += [f"{active} running"] * bool(active)
            parts += [f"{self.ends[end]} {word}" for end, word in ENDS.items() if self.ends[end]]
            parts.append(_clock(self.clock() - self.began))
            if not self.stages:
                left = self.left()
                return ", ".join(parts) + (f", about {_clock(left)} left" if left else "")
            if self.stage and (here := self.forecast_left([self.stage])):
                parts.append(f"{_between(*here)} left")
            whole = self.forecast_left(self.stages.values()) if len(self.stages) > 1 else None
            return ", ".join(parts) + (
                f"; whole study {_between(*whole)} left{self._without()}" if whole and whole[1] >= 1.0 else ""
            )

    def status(self) -> dict:
        """All of it as JSON values: see `allgrad study watch`."""
        with self.lock:
            several = len(self.stages) > 1
            return {
                "study": self.name, "updated_utc": ledger.now(), "seconds": round(self.clock() - self.began, 1),
                "running": self._active(), "from_ledger": self.cached, "line": self.line(),
                "left_s": self.forecast_left([self.stage]) if self.stage else None,
                "whole_left_s": self.forecast_left(self.stages.values()) if several else None,
                "stages": [
                    {"name": s.name, "state": s.state, "done": s.done, "least": s.runs(0), "most": s.runs(1)}
                    for s in self.stages.values()
                ],
            }  # fmt: skip

    def _counted(self, active):
        stage = self.stage
        if stage is None:
            return f"{self.name}: {self.done} of {max(self.known, self.done + active)} known runs"
        place = f" ({[*self.stages].index(stage.name) + 1} of {len(self.stages)})" if len(self.stages) > 1 else ""
        about = _two_digits((stage.runs(0) + stage.runs(1)) / 2)
        many = f"about {about}" if about > stage.known else f"{max(stage.known, stage.done + active)} known"
        return f"{stage.name}{place}: {stage.done} of {many} runs"

    def _without(self):
        """Which experiments the time of the whole study leaves out."""
        unknown = [s.name for s in self.stages.values() if s.state != "done" and not s.forecast and not s.known]
        return f" and what {' and '.join(unknown)} will take" if unknown else ""

    def _announce(self):
        least, most = (sum(stage.runs(end) for stage in self.stages.values()) for end in (0, 1))
        if most >= EXPENSIVE:
            many = f"{_two_digits(least)} to {_two_digits(most)}" if most > least * ROUGHLY else f"{_two_digits(most)}"
            self.say(f"{self.name}: about {many} runs, of which those that the directory has are not done again")

    def _all_runs(self):
        return max(self.known, sum(stage.runs(0) + stage.runs(1) for stage in self.stages.values()) // 2)

    def _active(self):
        return sum(map(len, self.running.values()))

    def _mean(self, like):
        last = self.seconds.get(like) or self.seconds.get(None)
        return statistics.fmean(last[-RECENT_RUNS:]) if last else None

    def _seconds_at(self, stage, batch):
        """Of a run with a batch, from those of its experiment, else of all, with that batch or with the nearest."""
        seconds, cost = (stage.seconds, 1.0) if stage.seconds else (self.seconds_at, stage.cost)
        known = [other for other in seconds if isinstance(other, int)]
        if not isinstance(batch, int) or not known:
            return cost * statistics.fmean(t for last in seconds.values() for t in last[-RECENT_RUNS:])
        nearest = min(known, key=lambda other: (abs(math.log(other / batch)), other))
        return cost * statistics.fmean(seconds[nearest][-RECENT_RUNS:])

    def _show(self):
        if not self.bar and self.clock() - self.said >= self.every:
            self._say()
        self._write()

    def _say(self):
        self.said = self.clock()
        if self.speak:
            print(self.line(), file=sys.stderr, flush=True)

    def _write(self, at_once=False, ended=False):
        if self.out is None or not self.speak or not self.out.is_dir():
            return
        now = self.clock()
        if at_once or ended or now - self.written >= 1.0:
            self.written = now
            with contextlib.suppress(OSError):  # what is shown must not end what is done
                path = self.out / "runs.jsonl"  # as long as it is when these runs are done, for a reader of both
                told = {**self.status(), "ended": ended, "ledger_bytes": path.stat().st_size if path.is_file() else 0}
                files.replace(self.out / FILE, json.dumps(told) + "\n")
        elif self.later is None:
            self.later = threading.Timer(1.0, self._write_later)
            self.later.daemon = True
            self.later.start()

    def _write_later(self):
        with self.lock:
            if self.later is not None:  # and it has not ended meanwhile
                self.later = None
                self._write(at_once=True)


def _like(config):
    """What a configuration has in common with others that take as long."""
    return json.dumps({key: config[key] for key in sorted(config) if key not in UNLIKE}, default=str)


def _between(least, most):
    if most <= least * ROUGHLY or most - least < 10.0:
        return f"about {_clock((least + most) / 2)}"
    return f"about {_clock(least)} to {_clock(most)}"


def _two_digits(count):
    unit = 10 ** max(0, len(str(int(count))) - 2)
    return round(count / unit) * unit


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"
