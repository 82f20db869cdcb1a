"""The binary tree in which sums over logical shards are taken: see `shard_sum`."""

import operator
from typing import Any


class TreeAccumulator:
    """Adds up a run of the tree's leaves, or of its subtrees, from left to right, as a binary counter carries.

    At most log2(V) sums are held at once, 2 log2(V) if the run does not start at the first leaf: `stack`, left to
    right, with entries (level, index, array). `add` adds its second array to its first, in place. Addition commutes:
    a sum may be made in either child.
    """

    def __init__(self, leaves, release=lambda array: None, add: Any = operator.iadd):
        self.leaves, self.release, self.add = leaves, release, add
        self.stack: list = []

    def push(self, level, index, array, keep=False):
        """Take in the next node. It is added to in place as far as its left neighbours allow.

        keep: add it to them instead, if there are any, and it remains the caller's.
        """
        given = array
        while 1 << level < self.leaves:
            if index % 2 == 0 and (index + 1) << level < self.leaves:
                break  # the right sibling is still to come
            if index % 2 == 1:
                if not self.stack or self.stack[-1][:2] != (level, index - 1):
                    break  # the left sibling is another rank's
                left = self.stack.pop()[2]
                if array is not None:
                    array, other = (left, array) if keep else (array, left)
                    self.add(array, other)
                    if other is not given:
                        self.release(other)
            level, index = level + 1, index // 2
        self.stack.append((level, index, array))


def subtrees(first, stop, leaves):
    """The largest complete subtrees, as (level, index), that cover the leaves [first, stop)."""
    counter = TreeAccumulator(leaves)
    for leaf in range(first, stop):
        counter.push(0, leaf, None)
    return [(level, index) for level, index, _ in counter.stack]
