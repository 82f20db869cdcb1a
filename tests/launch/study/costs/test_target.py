"""Steps to a target as `study steps` has left them: the curve, or what was measured."""

import math

import numpy as np
import pytest
from pytest import approx

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.costs import target
from allgrad.launch.study.costs.target import Hyperbola, Measured
from allgrad.launch.study.options import typed

FITS = "optimizer,S_min,S_min_lo,S_min_hi,B_crit,B_crit_lo,B_crit_hi,B_2x,lead\n"
CELLS = "optimizer,B,S,ci_lo,ci_hi,n_seeds,n_fail\n"


def directory(path, fits, cells=""):
    (path / "steps_fit.csv").write_text(FITS + fits)
    (path / "steps.csv").write_text(CELLS + cells)
    return path


def hyperbolic(optimizer="sgd", batches=(4, 16, 64, 256, 1024)):
    return "".join(f"{optimizer},{B},{13 * (1 + 100 / B)},1,2,5,0\n" for B in batches)


def test_a_curve_is_drawn_with_the_intervals_of_the_table(tmp_path):
    assert target.found(tmp_path) is None
    where = directory(
        tmp_path, "sgd,13.0,12.0,14.1,100.0,80.0,125.0,110,B_crit\nadam,0,,,inf,,,,B_crit\n", hyperbolic()
    )
    found = target.found(where)
    assert isinstance(found, Hyperbola) and (found.s_min, found.b_crit, found.batches) == (13.0, 100.0, (4.0, 1024.0))
    drawn = found.drawn(np.random.default_rng(0), 100_000)
    assert np.quantile(drawn.s_min, (0.025, 0.975)) == approx([12.0, 14.1], rel=0.02)
    assert np.quantile(drawn.b_crit, (0.025, 0.975)) == approx([80.0, 125.0], rel=0.02)
    assert found.beyond(2048) and not found.beyond(64)
    assert target.found(where, "lars") is None
    assert target.found(where, "adam").why == "the fit of study steps, adam has no interval"


def test_the_correlation_is_that_of_least_squares():
    """S_min and B_crit fitted again and again to steps with errors of 2 %."""
    from allgrad.launch.study import fit

    batches = np.array([4.0, 16.0, 64.0, 256.0, 1024.0])
    rng = np.random.default_rng(0)
    fits = [
        fit.fit_hyperbola(batches, 13.0 * (1.0 + 100.0 / batches) * rng.lognormal(0.0, 0.02, 5)) for _ in range(2000)
    ]
    expected = np.corrcoef(np.log([f.s_min for f in fits]), np.log([f.b_crit for f in fits]))[0, 1]
    row = {"optimizer": "sgd", "S_min": 13.0, "S_min_lo": 12.0, "S_min_hi": 14.0, "B_crit": 100.0, "B_crit_lo": 80.0,
           "B_crit_hi": 125.0}  # fmt: skip
    found = target.of_rows([row], [{"optimizer": "sgd", "B": B, "S": 13.0 * (1.0 + 100.0 / B)} for B in batches], "sgd")
    assert found.correlation == approx(expected, abs=0.03) and found.dof == 3.0
    drawn = found.drawn(rng, 20_000)
    assert np.corrcoef(np.log(drawn.s_min), np.log(drawn.b_crit))[0, 1] == approx(expected, abs=0.06)


def test_steps_that_no_curve_describes_are_interpolated(tmp_path):
    cells = "sgd,8,40,36,44.444444444,5,0\nsgd,32,20,18,22.2222222,5,0\nsgd,128,16,14.4,17.777777,5,0\n"
    where = directory(tmp_path, "sgd,1,,,2,,,35.0,B_2x\n", cells + "sgd,512,15,,,5,1\nadam,8,1,1,1,5,0\n")
    found = target.found(where)
    assert isinstance(found, Measured) and found.sizes == (8.0, 32.0, 128.0)  # a seed of 512 failed
    assert [found(B) for B in (8, 16, 128)] == approx([40.0, math.sqrt(800.0), 16.0])
    assert math.isnan(found(4)) and math.isnan(found(256)) and found.b_crit == 35.0
    drawn = found.drawn(np.random.default_rng(0), 50_000)
    assert np.quantile(drawn(32), (0.025, 0.975)) == approx([18.0, 22.22], rel=0.02)
    # Between two batches the errors of both are averaged.
    assert np.log(drawn(16)).std() == approx(np.log(drawn(8)).std() / math.sqrt(2.0), rel=0.1)
    assert np.isnan(drawn(256)).all()


def test_without_intervals_there_are_no_draws(tmp_path):
    where = directory(tmp_path, "sgd,13,,,100,,,90,B_2x\n", "sgd,8,40,,,1,0\nsgd,32,20,,,1,0\n")
    found = target.found(where)
    assert found.why == "the steps of study steps, sgd have no interval"
    assert np.ptp(found.drawn(np.random.default_rng(0), 10)(8)) == 0.0
    where = directory(tmp_path, "sgd,13,,,100,,,90,B_2x\n", "sgd,8,40,,,1,1\nsgd,32,20,,,1,0\n")
    with pytest.raises(ConfigurationError, match="only 1 batch size was measured without a failed seed"):
        target.found(where)


def test_numbers_that_are_given():
    assert target.given(None, None) is None
    assert [typed("b_crit", given) for given in ("107:80:143", (107, 80, 143), "107", 107.0)] == (
        [(107.0, 80.0, 143.0)] * 2 + [107.0] * 2
    )
    assert "without intervals" in target.given(13.0, 100.0).why
    found = target.given((13.0, 12.0, 14.0), (100.0, 80.0, 125.0))
    drawn = found.drawn(np.random.default_rng(0), 100_000)
    assert np.quantile(drawn.b_crit, (0.025, 0.975)) == approx([80.0, 125.0], rel=0.02)
    assert np.corrcoef(drawn.s_min, drawn.b_crit)[0, 1] == approx(0.0, abs=0.02)


@pytest.mark.parametrize(
    "numbers, message",
    [((3.0, None), "give both or none"), ((-3.0, 1.0), "--s-min is above 0"),
     (((13.0, 14.0, 15.0), 1.0), "--s-min with an interval is VALUE:LOW:HIGH, .* got 13:14:15"),
     ((1.0, (13.0, 0.0, 15.0)), "--b-crit with an interval")],
)  # fmt: skip
def test_numbers_that_cannot_be(numbers, message):
    with pytest.raises(ConfigurationError, match=message):
        target.given(*numbers)
