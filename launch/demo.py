"""`allgrad demo`: the digits on two ranks and on one, the same weights, and the curves."""

import argparse
import json
from pathlib import Path

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.launchers import run
from allgrad.launch.report import ROWS, cell
from allgrad.launch.study import figures

RUN = (
    "train --data digits --model mlp:256 --dropout 0.2 --optimizer sgd --lr 0.1 --momentum 0.9 --schedule cosine "
    "--global-batch 64 --shards 8 --epochs 15"
)


def add_options(parser: argparse.ArgumentParser):
    parser.add_argument("--out", default="runs/demo", help="directory for its two runs and the figure [runs/demo]")


def demo(out: str) -> int:
    """Train with two ranks and with one, print both summaries side by side, write curves.png; 0 if the bits agree."""
    directory = Path(out)
    if directory.exists() and any(directory.iterdir()):
        raise ConfigurationError(f"--out {directory} exists: remove it, or give another directory")
    summaries = []
    for ranks in (2, 1):
        name = directory / f"{ranks}-rank"
        status = run(ranks, None, 0, [*RUN.split(), "--out", str(name)])
        if status:
            return status
        summaries.append(json.loads((name / "summary.json").read_text(encoding="utf-8")))
    print()
    for label, key, form in ROWS:
        if key not in summaries[0]:
            continue
        print(f"{label:>22}  " + "  ".join(f"{cell(s[key], form)[:16]:>16}" for s in summaries))
    figure = _draw(directory)
    print(f"\ncurves: {figure}")
    two, one = (s["weights_sha256"] for s in summaries)
    if two != one:
        print(f"the weights of the 2-rank run ({two}) differ from those of the 1-rank run ({one})")
        return 1
    print(f"the weights of the 2-rank run equal those of the 1-rank run, bit for bit: sha256 {two}")
    return 0


def _draw(directory):
    """Loss and accuracy over the steps of the 2-rank run."""
    lines = [
        json.loads(line) for line in (directory / "2-rank" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    evaluated = [line for line in lines if "val_loss" in line]
    figure, (left, right) = figures.new(1, 2, figures.PAGE)
    steps = [p["step"] for p in evaluated]
    figures.line_with_interval(left, [p["step"] for p in lines], [p["loss"] for p in lines], label="training")
    figures.line_with_interval(left, steps, [p["val_loss"] for p in evaluated], i=1, label="validation")
    figures.line_with_interval(right, steps, [100 * p["val_accuracy"] for p in evaluated], i=1)
    left.set(xlabel="step", ylabel="cross-entropy (nats)")
    right.set(xlabel="step", ylabel="validation accuracy (%)", ylim=(80, 100))
    figures.logarithmic(left.yaxis)
    figures.legend(figure)
    return figures.save(figure, directory / "curves")[0]
