"""Which batch size to take, and how those of two optimizers compare."""

import math

import numpy as np
import pytest

from allgrad.launch.study.choices import Cell, Finding, against
from allgrad.launch.study.lr_tuning import Tuned

BATCHES = 4, 8, 16, 32, 64, 128, 256, 512, 1024


def planted(name, critical, seed, bent=1.0, batches=BATCHES):
    """What steps of S = 100 (1 + critical / B) with a scatter of 2 % say; bent: a factor at two of the batches."""
    rng, cells = np.random.default_rng(seed), []
    for b in batches:
        steps = 100.0 * (1.0 + critical / b) * (bent if b in (8, 64) else 1.0)
        drawn = steps * np.exp(0.02 * rng.standard_normal(5))
        rows = [{"status": "ok", "steps_to_target": s} for s in drawn]
        cells.append(Cell(name, b, Tuned(0.1, steps, False, {0.1: steps}, 1, rows, doubt=0.005)))
    return Finding.of(name, cells)


def test_the_ratio_of_critical_batch_sizes_is_in_its_interval():
    found = [planted("adamw", 80.0, 1), planted("muon", 160.0, 2), planted("lion", 80.0, 3)]
    ratios = against(found)
    assert ratios.keys() == {"muon", "lion"} and {which for which, _ in ratios.values()} == {"B_crit"}
    assert ratios["muon"][1].low <= 2.0 <= ratios["muon"][1].high and ratios["muon"][1].low > 1.5
    assert ratios["lion"][1].low <= 1.0 <= ratios["lion"][1].high


def test_where_a_curve_is_rejected_both_are_read_without_one():
    found = [planted("adamw", 80.0, 1), planted("soap", 160.0, 2, bent=1.5)]
    assert [f.lead for f in found] == ["B_crit", "B_2x"]
    which, ratio = against(found)["soap"]
    assert which == "B_2x" and ratio.value == pytest.approx(found[1].b_2x.value / found[0].b_2x.value)


def test_without_the_other_or_its_interval_nothing_is_compared():
    assert against([planted("muon", 160.0, 2)]) == {}
    found = [planted("adamw", 80.0, 1), planted("muon", 1e6, 2, batches=(4, 8, 16))]
    assert not against(found)["muon"][1].known and math.isnan(against(found)["muon"][1].low)
