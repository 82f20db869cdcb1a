"""How often the intervals of `allgrad study` hold the truth: 95 %, where that is what they are called.

    python -m benchmarks.coverage [--studies 400] [--seeds 5] [--only NAME] [--truths]

Whole studies are simulated on problems whose answer is known (`benchmarks.planted`): rates are tuned by the protocol of
the study, from a first rate that differs from study to study, the winner is run on fresh seeds, and the intervals are
those of `launch.study.critical`. The truth is that of steps at the best rate, which `--truths` computes anew from many
runs on a fine grid of rates, and which is kept in benchmarks/coverage_truths.json.

A curve that is rejected says so, and what is claimed then is B_2x: its B_crit and S_min are listed over all studies,
and over those in which it leads.
"""

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from allgrad.launch.study.critical import cell, cells_of, curve, doubling, useful
from allgrad.launch.study.lr_tuning import run_report_seeds, tune_batches
from benchmarks.planted import Curved, PlantedLab, Quadratic, Regression

BATCHES = [4 * 2**k for k in range(9)]
PROBLEMS = {
    "linear regression, 99 features": Regression(99), "linear regression, 30 features": Regression(30),
    "noisy quadratic, 100 weights": Quadratic(100), "hyperbola": Curved(), "hyperbola, t3 scatter": Curved(tails=3),
}  # fmt: skip
TRUTHS = Path(__file__).with_name("coverage_truths.json")


def configure(batch, **given):
    return {"optimizer": "sgd", "batch": batch, "metric": "train_loss", "target": 0.1, **given}


def study(name: str, seeds: int, number: int) -> tuple[dict[int, list[float]], dict[int, float]]:
    """{batch: steps of the report seeds} of one study, and {batch: doubt of its rate}."""
    problem = PROBLEMS[name]
    lab = PlantedLab(problem, number)
    first = problem.rate * 2.0 ** np.random.default_rng(10_000 + number).uniform(-0.5, 0.5)
    found = tune_batches(lab, configure, "sgd", BATCHES, first, seeds=(0, 1, 2), report_seeds=(), cap=6000)
    for batch, tuned in found.items():
        if math.isfinite(tuned.score):
            run_report_seeds(lab, partial(configure, batch), tuned, tuple(range(100, 100 + seeds)))
    found = {batch: tuned for batch, tuned in found.items() if tuned.rows}
    return {b: tuned.steps for b, tuned in found.items()}, {b: tuned.doubt for b, tuned in found.items()}


def truth(name_and_batch) -> float:
    """exp of the mean logarithm of the steps at the best rate, by many runs at rates 2^(1/16) apart."""
    name, batch = name_and_batch
    problem = PROBLEMS[name]
    if isinstance(problem, Curved):
        return problem.steps(batch)
    rough = lambda lr: float(np.log(problem.simulate(batch, lr, 100, 2000, np.random.default_rng(7))).mean())
    best = min((0.01 * 2.0 ** (k / 2) for k in range(18)), key=rough)
    cap = int(3.0 * math.exp(rough(best))) + 20
    fine = [best * 2.0 ** (k / 16) for k in range(-8, 9)]
    logs = [float(np.log(problem.simulate(batch, lr, 4000, cap, np.random.default_rng(11))).mean()) for lr in fine]
    k = int(np.argmin(logs))
    near = logs[max(k - 1, 0) : k + 2]
    if len(near) < 3 or not all(map(math.isfinite, near)):
        return math.exp(logs[k])
    bend, tilt = (near[0] + near[2]) / 2.0 - near[1], (near[2] - near[0]) / 2.0
    return math.exp(near[1] - tilt * tilt / 4.0 / bend) if bend > 0.0 else math.exp(near[1])


def estimates(steps: dict, doubts: dict | None = None) -> dict:
    """Everything a study of these steps would say."""
    cells = cells_of(steps, doubts)
    found = curve(cells)
    leads = not found.rejected
    return {
        "B_2x": doubling(cells), "CBS-20": useful(cells), "B_crit": found.b_crit, "S_min": found.s_min,
        **({"B_crit, not rejected": found.b_crit, "S_min, not rejected": found.s_min} if leads else {}),
    }  # fmt: skip


def table(name: str, truths: dict[int, float], studies: list[tuple[dict, dict]]) -> list[dict]:
    """A row for each number that is claimed: how often its interval holds the truth, and on which side it does not."""
    whole = estimates({b: [s] for b, s in truths.items()})
    held: dict[str, list] = {}
    for steps, doubts in studies:
        for batch, values in steps.items():
            held.setdefault("steps of a cell", []).append((truths[batch], cell(values, doubts[batch])))
        for what, e in estimates(steps, doubts).items():
            held.setdefault(what, []).append((whole[what.removesuffix(", not rejected")].value, e))
    rows = []
    for what, pairs in held.items():
        known = [(value, e) for value, e in pairs if e.known]
        low, high = sum(value > e.high for value, e in known), sum(value < e.low for value, e in known)
        of = max(len(known), 1)
        missed = {"covered": 1.0 - (low + high) / of, "too low": low / of, "too high": high / of}
        rows.append({"problem": name, "interval of": what, **missed, "of": len(known)})
    return rows


def show(rows: list[dict]):
    """Print rows as a table in Markdown."""
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        words = (f"{100.0 * v:.1f} %" if isinstance(v, float) else str(v) for v in row.values())
        print("| " + " | ".join(words) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400, help="simulated studies of each problem")
    parser.add_argument("--seeds", type=int, default=5, help="report seeds of a study")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first study, which its random numbers follow"
    )
    parser.add_argument("--only", choices=PROBLEMS, help="one problem")
    parser.add_argument("--truths", action="store_true", help="compute the truths anew, which takes minutes")
    given = parser.parse_args()
    names = [given.only] if given.only else list(PROBLEMS)
    with ProcessPoolExecutor() as pool:
        if given.truths:
            pairs = [(name, batch) for name in PROBLEMS for batch in BATCHES]
            found = dict(zip(pairs, pool.map(truth, pairs)))
            kept = {name: {str(b): round(found[name, b], 5) for b in BATCHES} for name in PROBLEMS}
            TRUTHS.write_text(json.dumps(kept, indent=1) + "\n")
        truths = json.loads(TRUTHS.read_text())
        for name in names:
            numbers = range(given.first, given.first + given.studies)
            studies = list(pool.map(partial(study, name, given.seeds), numbers, chunksize=10))
            rows = table(name, {int(b): s for b, s in truths[name].items()}, studies)
            rejected = 1.0 - sum(not curve(cells_of(*s)).rejected for s in studies) / len(studies)
            print(f"\n{name}: {given.studies} studies, {given.seeds} seeds; the curve is rejected in {rejected:.1%}")
            show(rows)


if __name__ == "__main__":
    main()
