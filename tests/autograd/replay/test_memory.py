"""The memory of replays: allocated once, and hardly more of it than a call of the function takes."""

import tracemalloc

import numpy as np

import allgrad as ag
from allgrad import nn, optim


def test_replays_need_no_more_memory_and_little_in_all():
    model = nn.Sequential(*(nn.Linear(64, 64) if i % 2 else nn.ReLU() for i in range(24)))
    optimizer = optim.SGD(model, lr=0.01)
    x = np.random.default_rng(0).random((512, 64), dtype="f")

    def f(x):
        ag.mse_loss(model(x), x).backward()

    step = ag.capture(f)

    def peak(step, count=1):
        tracemalloc.start()
        for _ in range(count):
            optimizer.zero_grad()
            step(x)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    f(x)
    eager = peak(f)
    tracemalloc.start()
    step(x)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    step(x)
    assert held < 1.3 * eager
    assert peak(step, 50) < 40_000
