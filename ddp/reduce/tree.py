"""The binary tree in which sums over logical shards are taken.

Floating-point addition is not associative, so a sum has the same bits on any number of ranks only if it is always taken
in the same order. For V shards this order is a binary tree that depends on V alone. Its leaves are the shards' arrays;
a node at level l is the sum of the leaves [i * 2^l, (i + 1) * 2^l), as far as these exist, made of its two children; a
child without leaves is left out.

4 shards on 2 ranks: rank 0 has the leaves g0 and g1, rank 1 has g2 and g3.

        (g0 + g1) + (g2 + g3)      level 2: after the exchange, on both ranks
        g0 + g1       g2 + g3      level 1: rank 0 adds up the left one, rank 1 the right one
        g0     g1     g2     g3    level 0

One rank alone adds in the same order, and so do 4 ranks with a leaf each, and 3 ranks, which have g0, g1, and g2 with
g3: `subtrees` says that the last of them can add up g2 + g3, which is a node, before anything is sent.
"""

import operator
from typing import Any


class TreeAccumulator:
    """Adds up consecutive nodes of the tree, from left to right, as far as nodes of the tree become complete.

    stack   the sums so far, left to right, as (level, index, array): no two of them are siblings. At most log2(V), or
            2 log2(V) if the first leaf is not 0
    add     f(a, b): adds its second array to its first, in place. Addition commutes, so either child may hold the sum
    release f(array): called for an array that has been added to another, and is needed no more
    """

    def __init__(self, leaves, release=lambda array: None, add: Any = operator.iadd):
        self.leaves, self.release, self.add = leaves, release, add
        self.stack: list = []

    def push(self, level, index, array, borrowed=False):
        """Take in the next node, and add up all nodes that are complete now.

        The sums are made in the array that was given. borrowed: they are made in the left siblings', if there are
        any, and the caller gets its array back.
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
                    array, other = (left, array) if borrowed else (array, left)
                    self.add(array, other)
                    if other is not given:
                        self.release(other)
            level, index = level + 1, index // 2
        self.stack.append((level, index, array))


def subtrees(first, stop, leaves):
    """The largest nodes of the tree, as (level, index), that together have exactly the leaves [first, stop)."""
    accumulator = TreeAccumulator(leaves)
    for leaf in range(first, stop):
        accumulator.push(0, leaf, None)
    return [(level, index) for level, index, _ in accumulator.stack]
