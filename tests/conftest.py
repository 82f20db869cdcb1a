"""Definitions that tests of several packages hold the code against."""

import pytest


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
