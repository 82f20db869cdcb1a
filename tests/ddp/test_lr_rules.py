"""How the learning rate follows the batch."""

import pytest

from ddp import ConfigurationError
from ddp.lr_rules import scaled_lr


@pytest.mark.parametrize(
    "rule, lr, base, batch, expected",
    [
        ("none", 0.1, 32, 512, 0.1),
        ("linear", 0.1, 32, 512, 1.6),
        ("linear", 0.1, 32, 8, 0.025),
        ("sqrt", 0.1, 32, 512, 0.4),
        ("sqrt", 0.1, 32, 32, 0.1),
    ],
)
def test_rules(rule, lr, base, batch, expected):
    scaled, sentence = scaled_lr(rule, lr, base, batch)
    assert scaled == pytest.approx(expected, rel=1e-15)
    assert f"rate {lr:g} at batch {base}" in sentence and f"{expected:g} by the rule {rule!r}" in sentence


def test_refusals():
    with pytest.raises(ConfigurationError, match="'cubic' is not one of none, sqrt, linear"):
        scaled_lr("cubic", 0.1, 1, 1)
    with pytest.raises(ConfigurationError, match="--base-batch is at least 1 sample, got 0"):
        scaled_lr("linear", 0.1, 0, 1)
