"""What the steps of a recording are made of: every array is found, and everything else stays."""

from collections import namedtuple
from functools import partial

import numpy as np

import allgrad as ag
from allgrad.autograd.arrays import OuterProduct
from allgrad.autograd.engine import Leaf
from allgrad.autograd.replay.structures import arrays_of, copy_grad, map_arrays, memory_owner

Pair = namedtuple("Pair", "first second")


def test_arrays_are_found_in_all_that_steps_are_made_of():
    a, b = np.ones((2, 3)), np.ones((2, 4))
    whole = [
        a,
        (np.float32(2.0), {"key": Pair(a, "text")}),
        OuterProduct(a, b),
        ag.tensor(a),
        partial(np.add, out=a),
        7,
    ]
    assert [x.shape for x in arrays_of(whole)] == [(2, 3), (), (2, 3), (2, 3), (2, 4), (2, 3), (2, 3)]
    first, (number, named), product, tensor, call, rest = map_arrays(lambda x: x * 2, whole)
    assert first.tolist() == (2 * a).tolist() and number == 4.0 and rest == 7
    assert type(named["key"]) is Pair and named["key"].second == "text" and (named["key"].first == 2.0).all()
    leaf = Leaf("w", (4, 3), np.dtype("f8"))
    assert (product.value() == 8.0).all() and (copy_grad(leaf, product) == 8.0).all()
    leaf.grad = np.zeros((4, 3), order="F")
    assert copy_grad(leaf, product).flags.f_contiguous and not leaf.grad.any()
    assert type(tensor) is ag.Tensor and (tensor.data == 2.0).all() and not tensor.requires_grad
    assert call.func is np.add and (call.keywords["out"] == 2.0).all()


def test_the_root_of_a_view_owns_the_memory():
    a = np.zeros((4, 6))
    assert memory_owner(a[1:].T[::2]) is a and memory_owner(a) is a
