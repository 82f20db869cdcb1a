"""What the engine adds to one small operation: 50 times y = tanh(y * w + b) on 8 floats, forward and backward.

    python -m benchmarks.overhead

This package on NumPy arrays and on torch tensors, and eager PyTorch, take turns in one process on one thread. Printed
are microseconds an operation (150 of them): medians over the turns, with the smallest and the largest, and their ratio
to PyTorch's, turn by turn.
"""

import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch

import allgrad as ag

LINKS, ELEMENTS, TURNS, STEPS = 50, 8, 15, 20


def chain(tanh, x, w, b, one):
    def step():
        y = x
        for _ in range(LINKS):
            y = tanh(y * w + b)
        y.backward(one)

    return step


def competitors():
    values = [np.full(ELEMENTS, v, np.float32) for v in (0.3, 0.9, 0.1)]
    leaves = [ag.tensor(v, requires_grad=True) for v in values]
    yield "allgrad on NumPy arrays", chain(ag.tanh, *leaves, np.ones(ELEMENTS, np.float32))
    leaves = [ag.tensor(torch.from_numpy(v), requires_grad=True) for v in values]
    yield "allgrad on torch tensors", chain(ag.tanh, *leaves, torch.ones(ELEMENTS))
    leaves = [torch.tensor(v, requires_grad=True) for v in values]
    yield "torch", chain(torch.tanh, *leaves, torch.ones(ELEMENTS))


def main():
    torch.set_num_threads(1)
    steps = dict(competitors())
    times = {name: [] for name in steps}
    for _ in range(TURNS):
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(STEPS):
                step()
            times[name].append((time.perf_counter() - began) / (STEPS * LINKS * 3) * 1e6)
    for name, found in times.items():
        ratios = [a / b for a, b in zip(found, times["torch"])]
        print(
            f"{name:<25} {statistics.median(found):5.2f} us an operation ({min(found):.2f} .. {max(found):.2f}), "
            f"{statistics.median(ratios):.2f} of torch's ({min(ratios):.2f} .. {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
