"""Tensors: arrays that know how they were computed.

x = ag.tensor([1.0, 2.0], requires_grad=True)     x.node is a Leaf
y = x * 3.0                                       y.node is a Node "mul" with an edge to x.node
y.detach()                                        the same data, node None: a constant
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from allgrad.autograd.arrays import cast_like, is_torch, kind, like_arg, to_backend_of, to_device, to_numpy, xp
from allgrad.autograd.engine import graph, modes
from allgrad.autograd.engine.graph import Leaf


class Size(int):
    """The number of elements, as NumPy's `size`; called, as torch's: the shape, or the length of one axis."""

    shape: tuple

    def __call__(self, dim=None):
        return self.shape if dim is None else self.shape[dim]


class Tensor:
    """An array and the node of the graph that computed it. Made by `ag.tensor`; operations return Tensors.

    data   a NumPy array (or a NumPy scalar for shape ()), a torch tensor, or, inside a nested derivative, a Tensor one
           level down (see `engine.transforms`)
    node   the Node or Leaf in the graph; None of a constant, so `requires_grad` is `node is not None`
    level  nesting level: 0 for ordinary work, k inside k nested derivatives
    """

    __slots__ = ("data", "node", "level", "_master")
    __array_ufunc__ = None  # ndarray * Tensor reaches Tensor.__rmul__ instead of building an object array

    def __init__(self, data, node: Any = None, level=0):
        self.data, self.node, self.level = data, node, level

    if TYPE_CHECKING:  # the operator modules attach the methods beside their rules
        data: Any

        def __getattr__(self, name: str) -> Any: ...
        def __neg__(self) -> "Tensor": ...
        def __add__(self, other) -> "Tensor": ...

        __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __add__
        __matmul__ = __rmatmul__ = __pow__ = __getitem__ = __add__

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    dtype = property(lambda self: self.data.dtype)
    device = property(lambda self: str(getattr(unwrap(self), "device", "cpu")))
    requires_grad = property(lambda self: self.node is not None)

    @property
    def size(self):
        """The number of elements, x.size; and as in torch x.size(), the shape, and x.size(0), the length of an axis."""
        size = Size(math.prod(self.data.shape))
        size.shape = tuple(self.data.shape)
        return size

    @property
    def grad(self):
        """The gradient accumulated in a leaf, an array of its shape; None before the first backward, and of non-leaves.

        Once an optimizer has been made for the leaf, this is a view into its arena, which later steps overwrite.
        Assigning None resets it; nothing else can be assigned.
        """
        leaf = self.node
        return None if not isinstance(leaf, Leaf) or leaf.stale else leaf.grad

    @grad.setter
    def grad(self, value):
        if value is not None:
            raise AttributeError("grad can only be reset, by x.grad = None: backward(g) is what adds to it")
        if not isinstance(self.node, Leaf):
            todo = "to change a parameter write w.assign(w.data - lr * w.grad)"
            raise AttributeError(f"grad belongs to leaves, this tensor was computed by {self.name!r}: {todo}")
        self.node.reset()

    @property
    def name(self):
        """The leaf's name, or that of the operation that computed this tensor; "constant" if there is neither."""
        return "constant" if self.node is None else self.node.name

    def detach(self):
        """The same value as a constant, sharing memory: no gradient flows through it, at any nesting level."""
        return Tensor(self.data.detach() if type(self.data) is Tensor else self.data, None, self.level)

    def numpy(self):
        """The value as a NumPy array: the same memory, or a copy if it is on a device."""
        return to_numpy(unwrap(self))

    def item(self):
        """The value of a one-element tensor as a Python number."""
        return unwrap(self).item()

    def tolist(self):
        """The value as nested lists of Python numbers."""
        return self.numpy().tolist()

    def assign(self, value):
        """Overwrite the value of a leaf or a constant in place, by an array of its shape or a number.

        A graph that has used the old value of a parameter then refuses to run backward (RuntimeError); one that has
        used the old value of a constant does not notice. Raises RuntimeError for a tensor that an operation computed.
        """
        if self.node is not None and not isinstance(self.node, Leaf):
            raise RuntimeError(f"assign needs a leaf, this tensor was computed by {self.name!r}")
        value = to_backend_of(unwrap(value), self.data)
        if not hasattr(value, "dtype") or kind(value.dtype) not in "biuf" or tuple(value.shape) not in ((), self.shape):
            raise ValueError(f"assign: a tensor of shape {tuple(self.shape)} takes a number or an array of its shape")
        if not is_torch(self.data) and not self.data.flags.writeable:  # a constant that is a NumPy scalar, or a view
            self.data = np.array(self.data)
        self.data[...] = value
        if self.master is not self.data:
            self.master[...] = value
        if self.node is not None:
            self.node.version += 1

    @property
    def master(self):
        """The data in full precision: `data`, unless that is a copy in half precision (see `nn.Module.compute_in`)."""
        return getattr(self, "_master", self.data)

    def use_compute_copy(self, data):
        """Compute with this copy in half precision from now on; the data so far are kept as `master`."""
        self._master, self.data = self.master, data

    def restore_master(self):
        """Undo `use_compute_copy`."""
        if self.master is not self.data:
            self.data = self._master
            del self._master

    def register_hook(self, hook):
        """Call hook(node) in every backward, the moment the gradient of this leaf is complete; node is its `Leaf`.

        A leaf has one hook, which the next call replaces. Raises RuntimeError for other tensors.
        """
        if not isinstance(self.node, Leaf):
            raise RuntimeError(f"register_hook needs a leaf, this tensor was computed by {self.name!r}")
        self.node.hook = hook

    def backward(self, gradient=None, retain_graph=False):
        """Add the gradient of this tensor by each leaf that it depends on to the leaf's `grad`.

        gradient: d(loss) / d(self), an array of this tensor's shape; 1 for a tensor of shape () if absent.
        retain_graph: keep the graph, so that backward may run through it again.
        Raises RuntimeError for a non-scalar without gradient, a graph already consumed, no leaf to reach, or a
        leaf that was modified in place after it was used.
        """
        if self.node is None:
            why = "computed under no_grad, or from constants only"
            raise RuntimeError(f"backward() on a tensor that no parameter reaches ({why})")
        if gradient is None:
            if self.shape != ():
                seen = f"backward() without a gradient needs a scalar, got shape {shape_of(self)}"
                raise RuntimeError(f"{seen}: reduce the loss, or pass a gradient of that shape")
            gradient = 1.0
        like = unwrap(self)
        if type(gradient) is float and isinstance(like, np.generic):
            g = type(like)(gradient)
        else:
            g = cast_like(unwrap(gradient), like)[()]  # a NumPy scalar for ()
        if g.shape != self.shape:
            raise RuntimeError(f"backward() of shape {self.shape} got a gradient of shape {g.shape}")
        graph.backward(self.node, g, retain_graph)

    def __repr__(self):
        grad = f", {self.node.name}" if self.node is not None else ""
        return f"Tensor({self.data!r}{grad})"

    def __format__(self, spec):
        return format(self.item(), spec) if spec else repr(self)

    def __len__(self):
        return len(self.data)

    def __bool__(self):
        return bool(unwrap(self))

    def __float__(self):
        return float(unwrap(self))

    def __array__(self, dtype=None, copy=None):
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    __hash__ = object.__hash__  # tensors are compared elementwise, and hashed by identity


def attach_methods(*operations):
    """Make these operations methods of Tensor as well."""
    for operation in operations:
        setattr(Tensor, operation.__name__, operation)


def unwrap(x):
    """The array inside a Tensor of any nesting level; anything else as it is."""
    while type(x) is Tensor:
        x = x.data
    return x


def shape_of(x):
    """The shape of a tensor, an array of either library, a number or a list, as a tuple."""
    x = unwrap(x)
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


def reference_array(*operands):
    """The array among the operands whose library and device others should have: torch's first; zeros(()) if none."""
    found = [x for x in map(unwrap, operands) if hasattr(x, "dtype")]
    return next((x for x in found if xp[type(x)] is not np), found[0] if found else np.zeros(()))


def tensor(data, requires_grad=False, dtype=None, name="tensor", device=None):
    """A tensor that holds a copy of `data`: a number, nested lists, a NumPy array, or a torch tensor, which stays one.

    requires_grad: make it a leaf, which accumulates gradients; needs a floating dtype (TypeError).
    dtype: a name such as "float64" or a dtype; without it arrays keep theirs, and Python floats take `default_dtype`
    (float32). name: what errors and graphs call a leaf. device ("cpu", "cuda", "cuda:1"): make a torch tensor there.
    """
    data = unwrap(data)
    if dtype is None and not hasattr(data, "dtype"):
        dtype = modes.float_dtype if np.asarray(data).dtype == np.float64 else None
    if device is not None:
        data = to_device(np.array(data, dtype=dtype) if not hasattr(data, "dtype") else data, device)
    array = (
        xp[type(data)].array(data, dtype=dtype) if is_torch(data) else np.array(data, dtype=dtype, like=like_arg(data))
    )
    if kind(array.dtype) not in "biufc":
        held = "numbers, in arrays, torch tensors, numbers and lists of one length"
        raise TypeError(f"tensor: holds {held}, not {data!r:.60}")
    return Tensor(array, Leaf(name, array.shape, check_floating(array.dtype, name)) if requires_grad else None)


def check_floating(dtype, name):
    """The dtype, if it is floating; else TypeError, that `name` cannot require a gradient."""
    if kind(dtype) != "f":
        seen = f"requires_grad needs a floating dtype, {name!r} is {dtype}"
        raise TypeError(f'{seen}: write 1.0 instead of 1, or pass dtype="float32"')
    return dtype
