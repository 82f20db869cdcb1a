"""Inputs whose exponential would overflow: run on the expressions in LARGE of each file."""

from tests.autograd.ops.table import TIES, Case, compare_with_torch

__all__ = ["test_large_inputs_neither_overflow_nor_lose_the_gradient"]


def test_large_inputs_neither_overflow_nor_lose_the_gradient(large):
    compare_with_torch(Case(large, ((2, 3),)), [1000.0 * TIES])
