"""A whole study again and again, with other seeds and other first rates: do its intervals hold each other's estimates?

    python -m benchmarks.repeats [--optimizer sgd] [--times 8] [--out build/repeats]

The pairs are ordered: how many of the intervals of one study hold the estimate of another. Two independent estimates of
the same error differ by root 2 times it, so that honest 95 % intervals hold each other's estimates in about 83 %.
"""

import argparse
import itertools
from pathlib import Path

from allgrad.launch.study.experiments.steps import run
from allgrad.launch.study.lab import Lab
from allgrad.launch.study.lr_tuning import first_rate
from allgrad.launch.study.workload import Workload

NUMBERS = "B_2x", "B_crit", "S_min", "cbs20"


def study(optimizer: str, number: int, out: Path) -> dict:
    """The row of the fit of a quick study of the digits, with seeds and a first rate of its own."""
    seeds, golden = 1000 * number, number * 0.618 % 1.0
    with Lab(out / f"{optimizer}{number}") as lab:
        result = run(
            lab, Workload(), "quick", optimizers=(optimizer,), seeds=tuple(range(seeds, seeds + 3)),
            report_seeds=tuple(range(seeds + 100, seeds + 105)), lr=first_rate(optimizer, 4) * 2.0 ** (golden - 0.5),
        )  # fmt: skip
    return result.tables[1].rows[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--times", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("build/repeats"))
    given = parser.parse_args()
    rows = [study(given.optimizer, number, given.out) for number in range(1, given.times + 1)]
    print("| number | estimates and 95 % intervals | pairs held |\n|---|---|---|")
    for name in NUMBERS:
        found = [(row[name], row[f"{name}_lo"], row[f"{name}_hi"]) for row in rows]
        pairs = [low <= other <= high for (_, low, high), (other, *_) in itertools.permutations(found, 2)]
        words = ", ".join(f"{value:.3g} [{low:.3g}, {high:.3g}]" for value, low, high in found)
        print(f"| {name} | {words} | {sum(pairs)} of {len(pairs)} |")
    print(f"leading: {', '.join(row['lead'] for row in rows)}; the curve is rejected in "
          f"{sum(row['p_fit'] < 0.05 for row in rows)} of {len(rows)}")  # fmt: skip


if __name__ == "__main__":
    main()
