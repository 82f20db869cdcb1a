"""How far a sweep is: the runs that are done, and about how long those that are known will still take."""

import json
import statistics
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from allgrad.ddp.comm import speaks
from allgrad.ddp.trainer import screen

RECENT_RUNS = 16  # of which the mean is taken
ENDS = {"diverged": "diverged", "error": "failed"}  # that a reader hears of while runs go on
UNLIKE = "seed", "lr", "cap", "prune"  # runs that differ in these only take about as long as each other


class Progress:
    """A bar on a terminal, else a line on stderr every `every` seconds, on the rank that leads only; thread-safe.

    with Progress("steps") as progress:
        progress.expect(45)           # so many more runs are known; a tuner, which adds runs, says so again
        progress.started(config)      # not for a run whose row is known already
        progress.finished(row)

    Rows have a `status`, their `config` and the seconds `wall_s`; one that was not started was known before. A run
    under way is taken to last as long as the last of its like, the same configuration but for seed and learning rate;
    one still to come, or the first of its kind, as the last runs of any kind.
    """

    def __init__(self, name="runs", total=0, every=30.0, speak=None, clock=time.monotonic):
        self.name, self.every, self.clock = name, every, clock
        self.speak = speaks() if speak is None else speak
        self.known, self.done, self.cached, self.ends = total, 0, 0, Counter()
        self.running: dict[Any, list[float]] = defaultdict(list)  # when runs began, by likeness
        self.seconds: dict[Any, list[float]] = defaultdict(list)  # of finished runs, by likeness; None: of all
        self.lock = threading.RLock()
        self.began = self.said = clock()
        self.bar = None

    def __enter__(self):
        if self.speak and (terminal := screen()):
            from rich.console import Console
            from rich.live import Live
            from rich.progress_bar import ProgressBar
            from rich.table import Column, Table

            def shown():
                row = Table.grid(Column(), Column(no_wrap=True, overflow="ellipsis"), padding=(0, 1))
                row.add_row(ProgressBar(max(self.known, self.done, 1), self.done, 8), self.line())
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

    def expect(self, runs: int):
        """So many more runs have become known."""
        with self.lock:
            self.known += runs
            self._show()

    def started(self, config: Mapping[str, Any]):
        with self.lock:
            self.running[_like(config)].append(self.clock())
            self._show()

    def finished(self, row: Mapping[str, Any]):
        with self.lock:
            like, lasted = _like(row["config"]), row.get("wall_s")
            if begun := self.running.get(like):
                began = begun.pop(0)
                lasted = self.clock() - began if lasted is None else lasted
            else:
                self.cached += 1
            if lasted is not None:
                self.seconds[like].append(lasted)
                self.seconds[None].append(lasted)
            self.done += 1
            self.ends[row["status"]] += 1
            self._show()

    def left(self) -> float | None:
        """Seconds until the runs known by now are done, if as many run side by side as do now; None if unknown."""
        with self.lock:
            now = self.clock()
            rest = [max(0.0, mean + t - now) for like, began in self.running.items() for t in began
                    if (mean := self._mean(like)) is not None]  # fmt: skip
            active = sum(map(len, self.running.values()))
            waiting = max(0, self.known - self.done - active)
            mean = self._mean(None)
            if waiting + active == 0:
                return 0.0
            if mean is None:
                return None
            return max([(sum(rest) + waiting * mean) / max(active, 1), *rest])

    def line(self) -> str:
        with self.lock:
            active = sum(map(len, self.running.values()))
            parts = [f"{self.name}: {self.done} of {max(self.known, self.done + active)} known runs"]
            parts += [f"{self.cached} from the ledger"] * bool(self.cached)
            parts += [f"{active} running"] * bool(active)
            parts += [f"{self.ends[end]} {word}" for end, word in ENDS.items() if self.ends[end]]
            parts.append(_clock(self.clock() - self.began))
            left = self.left()
            return ", ".join(parts) + (f", about {_clock(left)} left" if left else "")

    def _mean(self, like):
        last = self.seconds.get(like) or self.seconds.get(None)
        return statistics.fmean(last[-RECENT_RUNS:]) if last else None

    def _show(self):
        if not self.bar and self.clock() - self.said >= self.every:
            self._say()

    def _say(self):
        self.said = self.clock()
        if self.speak:
            print(self.line(), file=sys.stderr, flush=True)


def _like(config):
    """What a configuration has in common with others that take as long."""
    return json.dumps({key: config[key] for key in sorted(config) if key not in UNLIKE}, default=str)


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"
