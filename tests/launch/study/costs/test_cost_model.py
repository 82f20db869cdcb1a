"""The cost model against numbers computed by hand, and against simulation."""

import math

import numpy as np
import pytest
from pytest import approx

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.costs import cost_model as cm

EXACT = {"rel": 1e-6}
US = 1e-6


@pytest.mark.parametrize(
    "n, expected",
    [
        (2**20, {"ring": 2204.384, "rabenseifner": 2124.384, "recursive-doubling": 3962.160, "tree": 7137.888}),
        (1024, {"ring": 142.016, "rabenseifner": 62.016, "recursive-doubling": 33.840, "tree": 66.912}),
    ],
)
def test_all_reduce_of_eight_ranks(n, expected):
    net = cm.network("custom:1e-5,1e-9,0.25e-9")
    found = {name: cm.all_reduce(name, 8, n, net) / US for name in cm.ALGORITHMS}
    assert found == {name: approx(value, **EXACT) for name, value in expected.items()}
    assert cm.best_algorithm(8, n, net) == min(expected, key=lambda name: expected[name])
    assert cm.all_reduce("best", 8, n, net) == min(cm.all_reduce(name, 8, n, net) for name in cm.ALGORITHMS)


def test_crossover_of_recursive_doubling_and_rabenseifner():
    n = cm.crossover(8, 10 * US, 1e-9, 0.25e-9)
    assert n == approx(16842.1, rel=1e-5)
    assert cm.recursive_doubling(8, n, 10 * US, 1e-9, 0.25e-9) == approx(cm.rabenseifner(8, n, 10 * US, 1e-9, 0.25e-9))


def test_hierarchical():
    # within a node 1.5 n (.1 ns + C/2) + 6 us, between two nodes (n / 4) (1 ns + C/2) + 20 us, C = .25 ns
    found = cm.hierarchical(2, 4, 2**20, 1 * US, 0.1e-9, 10 * US, 1e-9, 0.25e-9) / US
    assert found == approx(674.806, rel=1e-6)


def test_ranks_that_are_no_power_of_two_fold_first():
    A, B, C, n = 3.0, 0.5, 0.25, 8
    fold = 2 * (A + n * B) + n * C
    for p, lg in ((3, 1), (6, 2), (7, 2), (12, 3)):
        q = 2**lg
        assert cm.recursive_doubling(p, n, A, B, C) == approx(lg * (A + n * B + n * C) + fold)
        assert cm.tree(p, n, A, B, C) == approx(lg * (2 * (A + n * B) + n * C) + fold)
        assert cm.rabenseifner(p, n, A, B, C) == approx(2 * lg * A + (q - 1) / q * n * (2 * B + C) + fold)


def test_one_rank_costs_nothing():
    assert [f(1, 10**6, 1.0, 1.0, 1.0) for f in cm.ALGORITHMS.values()] == [0.0] * 4
    assert cm.hierarchical(1, 1, 10**6, 1.0, 1.0, 1.0, 1.0, 1.0) == 0.0


def test_networks_by_name():
    assert cm.network("10gbe") is cm.network("10GbE")
    assert approx(0.8e-9) == cm.network("10GbE").B
    assert cm.network("ib").name == "IB-HDR"
    assert all(net.basis and 0 < net.A < 1e-4 and 0 < net.B < 1e-9 + 1e-12 for net in cm.NETWORKS.values())
    assert cm.network("custom:2e-5,1e-9") == cm.Network("custom:2e-5,1e-9", 2e-5, 1e-9, 0.0, "given by the user")
    for wrong in ("token-ring", "custom:", "custom:1e-5", "custom:1,2,3,4", "custom:-1,0", "custom:a,b", "ib:3"):
        with pytest.raises(ConfigurationError, match=r"give 10GbE|write custom:2e-5,1e-9"):
            cm.network(wrong)
    with pytest.raises(ConfigurationError, match="an algorithm is one of best, ring"):
        cm.all_reduce("star", 2, 1, cm.network("ib"))


def test_overlap_of_buckets_with_backward():
    ready, exchange = (14, 18, 22), (6, 3, 2)
    assert cm.overlap(ready, exchange) == [20, 23, 25]
    assert cm.step_time(ready, exchange) == 25
    assert cm.step_time(ready, exchange, optimizer=3) == 28
    assert cm.step_time((22,), (11,)) == 33  # one bucket, nothing overlaps
    assert cm.overlap((1, 2), (0.5, 0.25)) == [1.5, 2.25]  # the channel waits for gradients


def test_stragglers():
    table = {1: 0.0, 2: 0.56419, 4: 1.02938, 8: 1.42360, 16: 1.76599, 64: 2.34373, 256: 2.82686}
    assert {W: round(cm.normal_maximum(W), 5) + 0.0 for W in table} == approx(table, abs=1.01e-5)
    assert cm.normal_maximum(2) == approx(1.0 / math.sqrt(math.pi), **EXACT)
    assert cm.exponential_maximum(8) == approx(2.717857, **EXACT)


def test_bootstrapped_maximum_is_what_drawing_gives():
    times = [3.0, 1.0, 2.0]
    assert cm.expected_maximum(times, 1) == approx(2.0)
    assert cm.expected_maximum(times, 2) == approx((1 * 1 + 2 * 3 + 3 * 5) / 9)
    assert cm.expected_maximum(times, 10**6) == approx(3.0)
    rng = np.random.default_rng(0)
    sample = rng.exponential(size=50)
    drawn = rng.choice(sample, (20000, 8)).max(1)
    assert cm.expected_maximum(sample, 8) == approx(drawn.mean(), abs=4 * drawn.std() / math.sqrt(len(drawn)))


def test_scaling_laws():
    assert cm.amdahl(0.05, 16) == approx(9.142857, **EXACT)
    assert cm.gustafson(0.05, 16) == approx(15.25, **EXACT)
    assert [cm.karp_flatt(cm.amdahl(s, 16), 16) for s in (0.0, 0.05, 1.0)] == approx([0.0, 0.05, 1.0])


def test_time_to_target_at_the_best_batch():
    given = {"s_min": 13.02, "b_crit": 103.5, "c": 200 * US, "d": 3 * US}
    B = cm.best_batch(1, 103.5, 200 * US, 3 * US)
    assert approx(83.066, rel=1e-5) == B
    assert cm.time_to_target(B, 1, **given) == approx(13.13584e-3, **EXACT)
    assert cm.least_time(1, **given) == approx(cm.time_to_target(B, 1, **given))
    assert all(cm.time_to_target(B * k, 1, **given) > cm.least_time(1, **given) for k in (0.9, 1.1))


@pytest.mark.parametrize(
    "algorithm, A, W, B, milliseconds",
    [
        ("ring", 20 * US, 4, 256, 10.42),
        ("ring", 1 * US, 32, 512, 6.02),
        ("rabenseifner", 20 * US, 64, 1024, 8.08),
        ("rabenseifner", 1 * US, 4096, None, 4.05),
    ],
)
def test_best_number_of_ranks(algorithm, A, W, B, milliseconds):
    def best(ranks):
        c = 200 * US + cm.ALGORITHMS[algorithm](ranks, 38440, A, 1e-9)
        times = {
            b: cm.time_to_target(b, ranks, 13.02, 103.5, c, 3 * US) for b in (1 << k for k in range(24)) if b >= ranks
        }
        return min(times.items(), key=lambda pair: pair[1])

    found = {2**q: best(2**q) for q in range(13)}
    fastest = min(found, key=lambda ranks: found[ranks][1])
    assert fastest == W
    assert found[W][1] * 1e3 == approx(milliseconds, abs=0.005)
    assert B is None or found[W][0] == B
    if algorithm == "ring" and A == 20 * US:
        assert found[64][1] * 1e3 == approx(39.55, abs=0.005)
