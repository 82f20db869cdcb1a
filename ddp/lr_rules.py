"""How the learning rate follows the batch: from a base batch B0 and rate lr0 to the batch B = k B0."""

import math

from ddp.errors import ConfigurationError

RULES = {
    "none": lambda k: 1.0,
    "sqrt": math.sqrt,  # keeps the variance of an update: Krizhevsky 2014, Hoffer et al. 2017
    "linear": lambda k: k,  # keeps the progress of an epoch: Goyal et al. 2017
}


def scaled_lr(rule: str, lr: float, base_batch: int, batch: int) -> tuple[float, str]:
    """The learning rate for this batch, and a sentence that says how it came about."""
    if rule not in RULES:
        raise ConfigurationError(f"lr rule {rule!r} is not one of {', '.join(RULES)}")
    if base_batch < 1:
        raise ConfigurationError(f"--base-batch is at least 1 sample, got {base_batch}")
    k = batch / base_batch
    scaled = lr * RULES[rule](k)
    return scaled, f"rate {lr:g} at batch {base_batch}, {k:g} times the batch: {scaled:g} by the rule {rule!r}"
