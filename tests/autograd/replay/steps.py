"""A step to capture."""

import numpy as np

import allgrad as ag


def step_of(f, **options):
    """f(x, w) as a step, w, and x."""
    w = ag.tensor(np.arange(1.0, 7.0, dtype="f").reshape(2, 3) / 6, requires_grad=True)

    def step(x):
        y = f(x, w).sum()
        y.backward()
        return y

    return step, w, np.random.default_rng(0).random((4, 2), dtype="f")
