"""Definitions that tests of several packages hold the code against, and how hypothesis looks for counterexamples."""

import gc

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.autograd")  # also in the modules that its tests share
settings.register_profile(
    "derandomized",
    derandomize=True,
    deadline=None,
    max_examples=25,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("derandomized")


def pytest_collection_finish():
    """Thousands of tests stay as they are: `gc.collect`, which some of them call, need not look through the others."""
    gc.collect()
    gc.freeze()


def tree(leaves):
    """The sum of the leaves, by the definition of the canonical tree: a copy, nothing in place."""

    def node(level, index):
        if index << level >= len(leaves):
            return None
        if level == 0:
            return leaves[index].copy()
        left, right = node(level - 1, 2 * index), node(level - 1, 2 * index + 1)
        return left if right is None else left + right

    return node((len(leaves) - 1).bit_length(), 0)


@pytest.fixture(scope="session", name="tree")
def tree_fixture():
    return tree
