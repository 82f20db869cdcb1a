"""AdaScale: its gain and its averages by hand, and the statistics of its paper."""

import numpy as np
import pytest

import allgrad as ag
from allgrad.ddp.scaling import AdaScale, gain


def test_the_gain():
    assert gain(100.0, 1.0, 8) == pytest.approx(7.48148, abs=1e-5)
    assert gain(0.0, 1.0, 8) == pytest.approx(1.0) and gain(1.0, -1.0, 8) == pytest.approx(8.0)


def test_adascale_by_hand():
    """tr(Sigma) 1600 and 3200 for a sample, base batch 16: sigma^2 is 100 and 200, and their mean 150."""
    rate = AdaScale(lambda tau: 1.0 / (1.0 + tau), base=16, total=9.0)
    taus = [0.0]
    for trace, signal, expected in [(1600.0, 1.0, 1.0), (3200.0, 3.0, gain(150.0, 2.0, 8)), (None, None, None)]:
        rate.observe(None if trace is None else (trace, signal), 128)
        assert expected is None or rate.gain == pytest.approx(expected, rel=1e-12)
        assert rate(99) == pytest.approx(rate.gain / (1.0 + int(taus[-1])))
        again = AdaScale(rate.schedule, 16, 9.0)
        again.load_state_dict(rate.state_dict())
        assert again.done == rate.done == (taus[-1] >= 9.0) and again(0) == rate(0)
        rate.advance()
        taus.append(rate.tau)
    assert np.diff(taus).tolist() == pytest.approx([1.0, gain(150.0, 2.0, 8), gain(150.0, 2.0, 8)]) and rate.done


def test_the_averages_of_adascale_are_plain_at_first_and_then_forget():
    rate = AdaScale(1.0, base=1, total=1e9)
    for _ in range(200):
        rate.observe((0.0, 0.0), 100)  # S = 100: decay 0.9
        rate.advance()
    rate.observe((10.0, 1.0), 100)
    assert (rate.variance, rate.squared) == pytest.approx((1.0, 0.1))


def test_the_statistics_of_adascale_are_those_of_its_paper(simulate):
    """From S shards of B0 samples: sum |g_i|^2 / (S - 1) - S / (S - 1) |g|^2, and |g|^2 less 1 / S of it."""
    from allgrad.ddp import NoiseScale

    g = ag.random.generator("adascale").standard_normal((8, 5)) + 1.0
    mean, noise = g.mean(0), NoiseScale()
    noise.update(32, 8, 4.0 * float(np.sum(g * g)), float(mean @ mean))
    variance = np.sum(g * g) / 7 - 8 / 7 * (mean @ mean)
    rate = AdaScale(1.0, base=4, total=9)
    rate.observe(noise.last, 32)
    assert (rate.variance, rate.squared) == pytest.approx((variance, mean @ mean - variance / 8), rel=1e-12)
