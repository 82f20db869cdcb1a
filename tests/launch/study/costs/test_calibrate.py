"""Fits of the cost model to times whose law is known."""

import numpy as np
import pytest
from pytest import approx

from allgrad.launch.study.costs import calibrate, cost_model
from allgrad.launch.study.costs.drawn import BlockErrors

SIZES = calibrate.ALL_REDUCE_BYTES["quick"]
NET = cost_model.Network("", 2e-5, 1e-9, 0.25e-9)


def times_of(p):
    exact = lambda n: cost_model.ALGORITHMS[calibrate.exact(p, n)]
    return SIZES, [exact(n)(p, n, NET.A, NET.B, NET.C) for n in SIZES]


def test_line_through_points_on_a_line():
    found = calibrate.line([1, 10, 1000, 1e6], [3e-4 + 2e-9 * x for x in (1, 10, 1000, 1e6)])
    assert (found.a, found.b) == (approx(3e-4), approx(2e-9))
    assert found(500.0) == approx(3e-4 + 1e-6)
    assert found.worst == approx(0.0, abs=1e-9)


def test_line_weighs_relative_errors():
    # With weights 1, the point at 1e6 would decide alone; here each is off by about the same share.
    found = calibrate.line([1.0, 1e6], [1.0, 1e6])
    assert found(1.0) == approx(1.0) and found(1e6) == approx(1e6)
    off = calibrate.line([1.0, 1.0, 100.0, 100.0], [0.9, 1.1, 90.0, 110.0])
    assert [abs(off(x) / t - 1.0) < 0.12 for x, t in zip(off.x, off.t)] == [True] * 4


def test_line_is_not_below_zero():
    falling = calibrate.line([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])
    assert falling.b == 0.0 and falling.a > 0.0
    steep = calibrate.line([1.0, 2.0, 3.0], [0.5, 2.0, 4.0])
    assert steep.a == 0.0 and steep.b > 0.0


def test_errors_leave_one_size_out():
    t = [1.0, 2.0, 3.0, 8.0]
    found = calibrate.line([1.0, 2.0, 3.0, 4.0], t)
    assert found.errors[3] == approx(4.0 / 8.0 - 1.0)  # the other three lie on t = x
    assert found.worst == approx(0.5)
    assert np.isnan(calibrate.line([1.0, 2.0], [1.0, 2.0]).errors).all()


@pytest.mark.parametrize("ranks", [(2,), (4,), (3,), (2, 4), (2, 3, 8)])
def test_network_is_found_again(ranks):
    found = calibrate.network({p: times_of(p) for p in ranks}, NET.C)
    assert (approx(NET.A), approx(NET.B), NET.C) == (found.A, found.B, found.C)


def test_the_exact_sum_has_the_costs_of_a_textbook_algorithm():
    small, large = 2**12, 2**24
    assert [calibrate.exact(p, large) for p in (2, 3, 4, 6, 8)] == [
        "rabenseifner", "ring", "rabenseifner", "ring", "rabenseifner",
    ]  # fmt: skip
    assert calibrate.exact(2, small) == "recursive-doubling"


def test_network_survives_noise():
    rng = np.random.default_rng(0)
    sizes, seconds = times_of(2)
    found = calibrate.network({2: (sizes, np.array(seconds) * rng.lognormal(0.0, 0.1, len(sizes)))}, NET.C)
    assert approx(NET.A, rel=0.25) == found.A
    assert approx(NET.B, rel=0.25) == found.B
    assert "over 2 ranks" in found.basis


def test_adding_that_takes_all_the_time_leaves_none_for_the_wire():
    sizes = [2**20, 2**22]
    found = calibrate.network({2: (sizes, [n * 1e-9 / 2 for n in sizes])}, 1.5e-9)
    assert (found.A, found.B) == (0.0, 0.0)


def timed(blocks, crowding=()):
    """A rank that takes (200 + 3 b) us, in blocks that last so many times as long."""
    steps = [[(200 + 3 * b) * 1e-6 * k for b in (8, 64, 256)] for k in blocks]
    return calibrate.Timed((8, 64, 256), steps, crowding, [(0.9, 1.0, 1.0, 1.0, 1.4)] * len(blocks))


def test_compute_of_a_step():
    found = timed([1.0, 1.0]).compute
    assert (found.line.a, found.line.b) == (approx(200e-6), approx(3e-6))
    assert found(100) == approx(500e-6)
    assert sorted({round(r, 9) for r in found.relative}) == [0.9, 1.0, 1.4]
    assert found.straggling(1) == approx(np.mean([0.9, 1.0, 1.0, 1.0, 1.4]))
    assert found.straggling(1000) == approx(1.4)
    assert found.slowest_median(1) == approx(1.0)
    assert found.slowest_median(1000) == approx(1.4)
    assert timed([0.5, 2.0], crowding=[1.5, 1.5]).compute(100) == approx(750e-6)


def test_edges_of_the_least_squares_are_those_of_scipy():
    from scipy.optimize import nnls

    rng = np.random.default_rng(0)
    u, v, y = rng.standard_normal((3, 200, 6))
    found = np.transpose(calibrate.least_squares(u, v, y))
    expected = [nnls(np.stack(pair, 1), one)[0] for *pair, one in zip(u, v, y)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert all(np.sum(np.array(expected) == 0.0, axis=0) > 20)  # both edges, and the inside, are among them


def test_draws_scatter_as_the_blocks_do():
    """Blocks whose speed differs by 10 %: the mean of n has an error of 10 % / sqrt(n), of Student's t."""
    rng = np.random.default_rng(1)
    scale = np.exp(0.1 * rng.standard_normal(6))
    one = timed(scale)
    drawn = one.drawn_compute(BlockErrors(rng, 6, 20000), rng, [1, 64])
    logs = np.log(drawn(100) / one.compute(100))
    error = np.log(scale).std(ddof=1) / np.sqrt(6)
    ends = np.quantile(logs, (0.025, 0.975)) / error
    assert ends == approx([-2.571, 2.571], abs=0.12)  # Student's t of 5 degrees of freedom
    assert np.ptp(np.log(drawn.line.a / drawn.line.b)) < 1e-9  # all points move together
    assert np.ptp(drawn.late[64]) == approx(0.0, abs=1e-12)  # every block has the same stragglers


def test_draws_know_that_times_bend():
    bent = calibrate.Timed((8, 64, 256), [[1.0, 3.0, 4.0]] * 3, (), [(1.0,)] * 3)
    rng = np.random.default_rng(0)
    drawn = bent.drawn_compute(BlockErrors(rng, 3, 2000), rng)
    assert np.quantile(drawn(64), 0.9) / np.quantile(drawn(64), 0.1) > 1.3
    straight = calibrate.Timed((8, 64, 256), [[16.0, 72.0, 264.0]] * 3, (), [(1.0,)] * 3)
    assert np.ptp(straight.drawn_compute(BlockErrors(rng, 3, 2000), rng)(64)) < 1e-9


def test_the_networks_draws_lie_about_it():
    rng = np.random.default_rng(0)
    sizes, seconds = times_of(2)
    scale = np.exp(0.05 * rng.standard_normal((8, 1)))
    one = calibrate.Timed((1, 2, 4), np.ones((8, 3)), (), [(1.0,)] * 8, {2: (sizes, scale * seconds)}, [NET.C] * 8)
    drawn, at = one.drawn_network(BlockErrors(rng, 8), rng), one.network()
    for name in "AB":
        low, high = np.quantile(getattr(drawn, name), (0.025, 0.975))
        assert low < getattr(at, name) < high
    assert np.ptp(drawn.C) == approx(0.0, abs=1e-20)
