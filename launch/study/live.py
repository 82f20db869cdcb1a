"""What can be seen of a study while it runs: its runs so far, from the ledger, and what its progress file says."""

import json
import os
import re
import threading
import time
from collections import Counter
from pathlib import Path

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import fit, progress, runner
from allgrad.launch.study.chart import Point, legend, steps_against_batch
from allgrad.launch.study.ledger import Ledger

OUTCOMES = "ok", "diverged", "capped", "pruned", "error"
SERVED = re.compile(r"[A-Za-z0-9][\w.-]*\.(html|csv|svg)")  # files of the directory that a reader may get
SILENT_SECONDS = 90.0  # after which a study may have been stopped, and another one may write here
FEW_SEEDS = 3  # below which a point is drawn hollow
SETTING = "data", "model", "metric", "target", "sampler", "steps"  # runs that differ in none of these are compared


class Live:
    """Looks at a study's directory, again and again; of several threads one after another.

    ConfigurationError if there is no such directory.
    """

    def __init__(self, directory):
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise ConfigurationError(f"{directory} is no directory: give --out of a study")
        self._ledger: Ledger | None = None
        self._lock = threading.Lock()
        self._seen, self._said = None, {}

    def status(self) -> dict:
        """All that the page shows, as JSON values: while a study is under way, the runs that it has told of."""
        with self._lock:
            told = self._under_way()
            said, silent = told["progress"] or {"ended": True}, told["silent_s"] or 0.0
            under_way = not said.get("ended") and silent < SILENT_SECONDS
            most = said.get("ledger_bytes") if under_way else None
            if self._ledger is None and (self.directory / "runs.jsonl").is_file():
                self._ledger = Ledger(self.directory, create=False, most=most)
            if self._ledger is not None:
                self._ledger.refresh(most)
            rows = [] if self._ledger is None else list(self._ledger.rows.values())
            size = 0 if self._ledger is None else self._ledger.path.stat().st_size
            if (size, most) != self._seen:  # also where a run was done again
                self._seen, self._said = (size, most), of_runs(rows)
        return {"directory": str(self.directory), **self._said, **told, "files": self.files()}

    def files(self) -> list[str]:
        """The names of the files of the directory that may be read, report.html first."""
        with os.scandir(self.directory) as found:
            own = [entry for entry in found if SERVED.fullmatch(entry.name)]
            names = [entry.name for entry in own if entry.is_file(follow_symlinks=False)]
        return sorted(names, key=lambda name: (name != "report.html", name))

    def read(self, name: str) -> bytes | None:
        """The content of one of `files`; None for anything else."""
        if name not in self.files():
            return None
        try:
            with os.fdopen(os.open(self.directory / name, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                return file.read()
        except OSError:
            return None

    def _under_way(self):
        """What the study itself says of how far it is, and how many seconds ago that was."""
        path = self.directory / progress.FILE
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            return {"progress": told, "silent_s": round(max(0.0, time.time() - path.stat().st_mtime), 1)}
        except (OSError, ValueError):
            return {"progress": None, "silent_s": None}


def of_runs(rows: list[dict]) -> dict:
    """What runs say: outcomes by experiment, the best rates so far by setting, and the figure of the largest one."""
    outcomes = []
    for name in dict.fromkeys(row["exp"] for row in rows):
        count = Counter(row["status"] for row in rows if row["exp"] == name)
        outcomes.append({"experiment": name or "-", **{end: count[end] for end in OUTCOMES}, "runs": count.total()})
    errors = Counter(str(row.get("error")) for row in rows if row["status"] == "error")
    tables = _tables([row for row in rows if row["config"].get("kind") == "steps_to_target"])
    figure = next((table for table in tables if table["measure"] == "steps"), None)
    return {
        "runs": len(rows), "outcomes": outcomes, "errors": [[text, n] for text, n in errors.most_common(3)],
        "tables": tables, "figure": _figure(figure) if figure else "", "figure_of": figure and figure["setting"],
    }  # fmt: skip


def _tables(rows):
    """The best rate of each cell, a table for each setting, the one with the most runs first."""
    of_setting: dict[tuple, list] = {}
    for row in rows:
        of_setting.setdefault((row["exp"], *(row["config"].get(key) for key in SETTING)), []).append(row)
    tables = []
    for (name, data, model, metric, target, sampler, budget), found in of_setting.items():
        steps = target is not None
        what = f"steps to {metric} {target:g}" if steps else f"{metric} after {budget}"
        order = "" if sampler == "epoch" else f", sampler {sampler}"
        cells: dict[tuple[str, int], list] = {}
        for row in found:
            cells.setdefault((word_of(row["config"]), row["config"]["batch"]), []).append(row)
        best = [_best(word, batch, same, steps) for (word, batch), same in cells.items()]
        order_of = list(dict.fromkeys(word for word, _ in cells))
        best = sorted((cell for cell in best if cell), key=lambda c: (order_of.index(c["optimizer"]), c["batch"]))
        if best:
            setting = f"{name or 'runs'}: {data}, {model}: {what}{order}"
            measure = "steps" if steps else metric
            tables.append({"setting": setting, "measure": measure, "runs": len(found), "cells": best})
    return sorted(tables, key=lambda table: -table["runs"])


def word_of(config) -> str:
    """An optimizer as a study calls it: "momentum" for SGD with 0.9 of it."""
    own = {"momentum": config.get("momentum", 0.0), "nesterov": bool(config.get("nesterov"))}
    for word, meant in runner.OPTIMIZERS.items():
        if {"optimizer": config["optimizer"], **own} == {"momentum": 0.0, "nesterov": False, **meant}:
            return word
    return config["optimizer"] + (f" (momentum {own['momentum']:g})" if own["momentum"] else "")


def _best(optimizer, batch, rows, steps):
    """The rate with the most seeds, none of which failed, and of those the best; None as long as there is none."""
    of_rate: dict[float, list] = {}
    for row in rows:
        value = row.get("steps_to_target" if steps else f"final_{row['config']['metric']}")
        of_rate.setdefault(row["config"]["lr"], []).append(value if row["status"] == "ok" else None)
    whole = {rate: values for rate, values in of_rate.items() if None not in values}
    if not whole:
        return None
    rising = not steps and rows[0]["config"]["metric"].endswith(runner.RISING)

    def score(rate):
        value = _middle(whole[rate])
        return -len(whole[rate]), -value if rising else value

    rate = min(whole, key=score)
    values = whole[rate]
    return {
        "optimizer": optimizer, "batch": batch, "lr": rate, "value": _middle(values), "least": min(values),
        "most": max(values), "seeds": len(values), "rates": len(of_rate), "runs": len(rows),
    }  # fmt: skip


def _middle(values):
    return fit.gmean(values) if min(values) > 0.0 else sum(values) / len(values)


def _figure(table):
    series: dict[str, list[Point]] = {}
    for cell in table["cells"]:
        if cell["least"] > 0.0:
            point = Point(cell["batch"], cell["value"], cell["least"], cell["most"], cell["seeds"] < FEW_SEEDS)
            series.setdefault(cell["optimizer"], []).append(point)
    drawn = steps_against_batch(series, "batch size (examples)", table["setting"].rpartition(": ")[2])
    return drawn + legend([*series]) if drawn else ""
