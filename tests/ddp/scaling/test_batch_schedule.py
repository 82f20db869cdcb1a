"""Batches that grow at given epochs, or follow the noise scale."""

import numpy as np
import pytest

from allgrad.ddp import ConfigurationError, Sampler
from allgrad.ddp.scaling import FollowNoise, follow_batch, grow, ramp, seesaw


def epochs_of(sampler, epochs):
    """The samples of so many epochs, in the order of the steps, cut into epochs."""
    steps = sampler.steps_in(epochs)
    return np.concatenate([sampler.indices(step) for step in range(steps)])[: epochs * sampler.samples].reshape(
        epochs, sampler.samples
    )


def test_a_batch_grows_at_epochs_and_each_epoch_still_has_every_sample_once():
    sampler = Sampler(50, 4)
    assert grow(sampler, 2.0, [1, "2.5"]) == [13, 13 + 7 + 4]
    assert [sampler.batch_at(step) for step in (12, 13, 23, 24, 99)] == [4, 8, 8, 16, 16]
    for epoch in epochs_of(sampler, 5):
        assert sorted(epoch) == list(range(50))
    rate = seesaw(lambda step: 0.3, 4.0, [13, 24])
    assert [rate(step) for step in (12, 13, 24)] == pytest.approx([0.3, 0.15, 0.075])


def test_a_ramp_has_the_batches_it_is_told_and_the_rate_follows():
    sampler = Sampler(50, 4)
    for step, batch in ((3, 10), (5, 6)):
        ramp(sampler, step, batch)
    assert [sampler.batch_at(step) for step in (0, 2, 3, 4, 5, 99)] == [4, 4, 10, 10, 6, 6]
    for epoch in epochs_of(sampler, 3):
        assert sorted(epoch) == list(range(50))
    rate = follow_batch(lambda step: 0.1 * (step + 1), sampler, 0.5)
    assert [rate(step) for step in (0, 3, 5)] == pytest.approx([0.1, 0.4 * 2.5**0.5, 0.6 * 1.5**0.5])
    with pytest.raises(ConfigurationError, match="rising lengths after the first step, got 9 from step 5 on after 6"):
        ramp(sampler, 5, 9)


def test_a_batch_follows_the_noise_scale():
    follow = FollowNoise(1, 4, 100)
    assert [follow.next(10, n) for n in (None, 20.0, 20.1)] == [10, 10, 20] and follow.next(60, 1e9) == 100
    root = FollowNoise("0.5", 4, 100, price=0.96)
    assert [root.next(10, n) for n in (None, 1e4 / 0.96, 400.0, 1.0)] == [10, 100, 20, 4]
    assert [step for step in range(1, 11) if root.due(Sampler(10, 3), step)] == [2, 4, 6, 8, 10]
    with pytest.raises(ConfigurationError, match="is between 4 and a larger limit, at a price above 0, got 1, 3"):
        FollowNoise(1, 4, 3)
    with pytest.raises(ConfigurationError, match="a batch grows by a factor above 1 at rising epochs, got 1 and 3"):
        grow(Sampler(10, 2), 1.0, [3])
