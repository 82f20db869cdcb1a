"""Results as files of a study's directory, from which its report is made again whenever an experiment is added.

OUT/results/NAME.json holds all that a page says of one experiment: words, rows, estimates, and which figures have been
drawn. The experiments of another workload lie in a folder of their own in OUT, so that neither replaces the other.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from allgrad.ddp.files import replace
from allgrad.launch.study import intervals, result as parts
from allgrad.launch.study.experiments import VERBS
from allgrad.launch.study.result import Result

FORMAT = 1  # of the files: those of another one are not read
FOLDER = "results"
KINDS = {  # what may stand in a file besides JSON's own, by name
    kind.__name__: kind
    for kind in (
        intervals.Estimate,
        intervals.Share,
        intervals.Settled,
        parts.Claim,
        parts.Table,
        parts.Figure,
        parts.Result,
    )
}


@dataclass
class Kept:
    """A result in its file, and what a report says of where it is from.

    apart: the name of the folder, "" if it is the study's directory itself
    """

    result: Result
    folder: Path
    workload: str = ""
    title: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    apart: str = ""


def keep(kept: Kept):
    """Write OUT/results/NAME.json, as a whole or not at all, in the place of an older one of that name."""
    (kept.folder / FOLDER).mkdir(parents=True, exist_ok=True)
    words = {"format": FORMAT, "workload": kept.workload, "title": kept.title, "provenance": dict(kept.provenance)}
    text = json.dumps(_plain({**words, "result": kept.result}), indent=1, ensure_ascii=False, allow_nan=False)
    replace(kept.folder / FOLDER / f"{kept.result.name}.json", text + "\n")


def read(out: Path) -> tuple[list[Kept], list[str]]:
    """What a directory holds, workload by workload, each in the order of the verbs; and which files cannot be read."""
    found, lost = [], []
    for folder in _folders(out):
        here = []
        for path in sorted((folder / FOLDER).glob("*.json")):
            try:
                words = _whole(json.loads(path.read_text(encoding="utf-8")))
                if words.pop("format") != FORMAT:
                    raise ValueError
                here.append(Kept(folder=folder, apart=folder.name if folder != out else "", **words))
            except (ValueError, KeyError, TypeError, AttributeError):
                lost.append(f"{path.relative_to(out)} is of another version or damaged, and left out: do it again.")
        found += sorted(here, key=lambda kept: _place(kept.result.name))
    return found, lost


def replaced(result: Result, out: Path, workload: str) -> str:
    """What a directory's result of this name and workload has that the new one lacks, before it is kept; or ""."""
    found, _ = read(out)
    for old in (one.result for one in found if (one.result.name, one.workload) == (result.name, workload)):
        before, now = _compared(old), _compared(result)
        lacks = [key for key in before if before[key] - now[key]]
        if lacks:
            was, becomes = (" and ".join(_listed(key, each[key]) for key in lacks) for each in (before, now))
            again = f"; its runs are kept, and {old.command} brings it back" * bool(old.command)
            return f"replaces the {result.name} study of {was} by one of {becomes}{again}"
    return ""


def _compared(result):
    """The optimizers and batch sizes of a result's main table, where it has both."""
    rows = [row for row in result.tables[0].rows if {"optimizer", "B"} <= row.keys()] if result.tables else []
    return {key: {row[key] for row in rows} for key in ("optimizer", "B")}


def _listed(key, values):
    return ("batch size " if key == "B" else "") + (", ".join(map(str, sorted(values))) or "none")


def folder_of(out: Path, workload: str) -> Path:
    """Where the results of a workload go: OUT for the first one there, a folder in it with its name for another."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", workload).strip("-.") or "other"
    here = {folder: _workload(folder) for folder in _folders(out)}
    if mine := [folder for folder, name in here.items() if name == workload]:
        return mine[0]
    if out not in here:
        return out
    taken = {folder.name for folder in here}
    return out / next(name for k in range(len(taken) + 1) if (name := slug + f"-{k + 1}" * (k > 0)) not in taken)


def _folders(out):
    """The folders with results, OUT itself first; one with runs is a study of its own."""
    inside = [folder for folder in sorted(out.glob("*/")) if not (folder / "runs.jsonl").exists()]
    return [folder for folder in (out, *inside) if any((folder / FOLDER).glob("*.json"))]


def _workload(folder):
    """The workload of a folder, None if its files do not say."""
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            return json.loads(path.read_text(encoding="utf-8"))["workload"]
        except (ValueError, KeyError, TypeError):
            continue
    return None


def _place(name):
    """The summary of all experiments first, then the order of the verbs, then experiments of the user's own."""
    order = ["all", *(verb for verb in VERBS if verb != "all")]
    return order.index(name) if name in order else len(order), name


def _plain(value):
    """JSON's own types, with everything else as {"type": its kind, ...}."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, parts.Table):  # what else its rows hold is for those who made it
        shown = [{key: cell for key, cell in row.items() if key in value.columns} for row in value.rows]
        value = dataclasses.replace(value, rows=shown)
    if isinstance(value, parts.Claim):
        bounds = [bound for bound in (value.least, value.most) if math.isfinite(bound)]
        read = [e if type(e).__name__ in KINDS else intervals.Settled.of(e, bounds) for e in value.estimates]
        value = dataclasses.replace(value, estimates=read)
    if type(value).__name__ in KINDS:
        names = (f.name for f in dataclasses.fields(value) if f.name != "draw")
        return {"type": type(value).__name__, **{name: _plain(getattr(value, name)) for name in names}}
    if isinstance(value, float) and not math.isfinite(value):
        return {"type": "float", "value": str(value)}
    if isinstance(value, Mapping) and all(isinstance(key, str) and key != "type" for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Mapping):
        return {"type": "dict", "items": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, np.ndarray):
        return {"type": "array", "kind": value.dtype.str, "items": _plain(value.tolist())}
    if isinstance(value, tuple):
        return {"type": "tuple", "items": [_plain(item) for item in value]}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a result holds numbers, words and lists of them, not {type(value).__name__}")


def _whole(value):
    """What `_plain` was made of."""
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.pop("type", None)
    if kind == "float":
        return float(value["value"])
    if kind == "array":
        return np.array(_whole(value["items"]), value["kind"])
    if kind == "tuple":
        return tuple(_whole(item) for item in value["items"])
    if kind == "dict":
        return {_whole(key): _whole(item) for key, item in value["items"]}
    found = {name: _whole(item) for name, item in value.items()}
    return KINDS[kind](**found) if kind else found
