"""Tensors: arrays that know how they were computed.

x = ag.tensor([1.0, 2.0], requires_grad=True)     x.node is a Leaf
y = x * 3.0                                       y.node is a Node "mul" with an edge to x.node
y.detach()                                        the same data, node None: a constant
"""

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from allgrad.autograd.arrays import (
    as_operand,
    cast_like,
    full,
    is_torch,
    kind,
    like_arg,
    to_backend_of,
    to_device,
    to_numpy,
    xp,
)
from allgrad.autograd.engine import graph, modes
from allgrad.autograd.engine.graph import Leaf
from allgrad.autograd.engine.modes import get_default_dtype, here


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
    leaf   only of an `nn.Parameter`: its Leaf, also while it is frozen, which is when `node` is None

    Of what a loss or `mean` returns there is also `mean_of`: see `is_mean_of`.
    """

    __slots__ = ("data", "node", "level", "leaf", "mean_of", "_master", "_leaf")
    __array_ufunc__ = None  # ndarray * Tensor reaches Tensor.__rmul__ instead of building an object array

    def __init__(self, data, node: Any = None, level=0):
        self.data, self.node, self.level = data, node, level

    if TYPE_CHECKING:  # the operator modules attach the methods beside their rules
        data: Any
        node: Any
        leaf: Any

        def __getattr__(self, name: str) -> Any: ...
        def __neg__(self) -> "Tensor": ...
        def __add__(self, other) -> "Tensor": ...

        __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __add__
        __matmul__ = __rmatmul__ = __pow__ = __getitem__ = __add__

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    dtype = property(lambda self: self.data.dtype)
    device = property(lambda self: str(getattr(unwrap(self), "device", "cpu")))

    @property
    def requires_grad(self):
        """Whether it is part of a graph; of a leaf or constant it can be set, see `requires_grad_`."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value):
        self.requires_grad_(value)

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
        Assigning None resets it; nothing else can be assigned, but it may be changed in place (`x.grad *= 0.5`).
        """
        leaf = self.node
        return None if not isinstance(leaf, Leaf) or leaf.stale else leaf.grad

    @grad.setter
    def grad(self, value):
        if value is not None and value is self.grad:  # what x.grad *= 0.5 ends in
            return
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
        """The same value as a constant, sharing memory: no gradient flows through it, at any nesting level.

        What is assigned to the constant of a leaf changes the leaf.
        """
        constant = Tensor(self.data.detach() if type(self.data) is Tensor else self.data, None, self.level)
        if isinstance(self.node, Leaf):
            constant._leaf = self
        return constant

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

        A value that has a method `read_into`, as an array in a file may, is read into the memory of this one.

        A graph that has used the old value of a parameter then refuses to run backward (RuntimeError); one that has
        used the old value of a constant does not notice. Raises RuntimeError for a tensor that an operation computed.
        """
        if self.node is not None and not isinstance(self.node, Leaf):
            raise RuntimeError(f"assign needs a leaf, this tensor was computed by {self.name!r}")
        if (leaf := self._leaf_behind()) is not None:
            return leaf.assign(value)
        in_file = hasattr(value, "read_into")
        value = value if in_file else to_backend_of(unwrap(value), self.data)
        if not hasattr(value, "dtype") or kind(value.dtype) not in "biuf" or tuple(value.shape) not in ((), self.shape):
            raise ValueError(f"assign: a tensor of shape {tuple(self.shape)} takes a number or an array of its shape")
        if not is_torch(self.data) and not self.data.flags.writeable:  # a constant that is a NumPy scalar, or a view
            self.data = np.array(self.data)
        if in_file:
            value.read_into(self.master)
            value = self.master
        self.data[...] = value
        if self.master is not self.data:
            self.master[...] = value
        if self.node is not None:
            self.node.version += 1

    def _leaf_behind(self):
        """The leaf whose memory this constant is, after `detach`."""
        leaf = getattr(self, "_leaf", None) if self.node is None else None
        return leaf if leaf is not None and leaf.data is self.data else None

    def _keeps_memory(self):
        """Whether it is a leaf, also a frozen one, whose memory an optimizer may know."""
        return hasattr(self, "leaf") or (self.node is not None and self.node.keeps_memory)

    def change(self, result):
        """Become the result of an operation in place, as after `x *= 2`; returns self.

        A leaf, and a constant that is the detached value of one, keep their memory: RuntimeError if the result requires
        a gradient, and for graphs that used the old value. Any other tensor takes the value and the node of the result,
        so that gradients flow through both; graphs, arrays and tensors that share its old memory keep the old value.
        """
        if not self._keeps_memory() and self.master is self.data and self._leaf_behind() is None:
            self.data, self.node, self.level = result.data, result.node, result.level
            self.mean_of = getattr(result, "mean_of", None)
            return self
        if loses_gradient(result):
            raise _leaf_changed(self.name)
        self.assign(result)
        return self

    def __setitem__(self, index, value):
        """x[index] = value where nothing is recorded: of a leaf under `no_grad`, and of a constant."""
        if loses_gradient(self) or loses_gradient(value):
            seen = "x[...] = value is not recorded, and x or the value requires a gradient"
            raise RuntimeError(f"{seen}: compute a new tensor, by ag.where or ag.stack")
        index = tuple(map(unwrap, index)) if isinstance(index, tuple) else unwrap(index)
        data = self.master.clone() if is_torch(self.master) else np.array(self.master)
        data[index] = to_backend_of(unwrap(value), data)
        self.change(Tensor(data, None, self.level))

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

    def requires_grad_(self, requires_grad=True):
        """Make a constant a leaf, which accumulates gradients, or a leaf a constant, in place. Returns self.

        Of a parameter, False freezes it, and True lets it be trained again: before its optimizer is made. Raises
        RuntimeError for False of a tensor that an operation computed, TypeError for integers.
        """
        if not requires_grad:
            if self.node is not None and not isinstance(self.node, Leaf):
                raise RuntimeError(f"requires_grad_(False) of what {self.name!r} computed: use detach() instead")
            self.node = None
        elif self.node is None:
            dtype = check_floating(self.dtype, "tensor")
            self.node = getattr(self, "leaf", None) or Leaf("tensor", self.shape, dtype)
        return self

    def register_hook(self, hook):
        """Call hook(node) in every backward, the moment the gradient of this leaf is complete; node is its `Leaf`.

        A leaf has one hook, which the next call replaces. Raises RuntimeError for other tensors.
        """
        if not isinstance(self.node, Leaf):
            raise RuntimeError(f"register_hook needs a leaf, this tensor was computed by {self.name!r}")
        self.node.hook = hook

    def retain_grad(self):
        """Without effect on a leaf, which keeps its gradient anyway; RuntimeError for other tensors."""
        if not isinstance(self.node, Leaf):
            todo = "take it from ag.vjp of what follows, or go on from a leaf, y.detach().requires_grad_()"
            raise RuntimeError(f"retain_grad: only leaves keep a gradient, this is of {self.name!r}: {todo}")

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
        like = unwrap(self)
        if gradient is None:
            if like.shape != ():
                seen = f"backward() without a gradient needs a scalar, got shape {shape_of(self)}"
                raise RuntimeError(f"{seen}: reduce the loss, or pass a gradient of that shape")
            gradient = 1.0
        if type(gradient) is float and isinstance(like, np.generic):
            g = type(like)(gradient)
        elif type(gradient) is float and is_torch(like):
            g = full((), gradient, like)  # made where it is needed: a copy would make the host wait
        else:
            g = cast_like(unwrap(gradient), like)[()]  # a NumPy scalar for ()
        if g.shape != like.shape:
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

    def __int__(self):
        return int(unwrap(self))

    def __array__(self, dtype=None, copy=None):
        if loses_gradient(self):
            raise becomes_array("np.array")
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    __hash__ = object.__hash__  # tensors are compared elementwise, and hashed by identity


def loses_gradient(x):
    """Whether a tensor requires a gradient, at any level, where operations are recorded."""
    while type(x) is Tensor:
        if x.node is not None:
            return not modes.pauses or here.recording
        x = x.data
    return False


def becomes_array(name):
    """The error of a function that would make an array of a tensor that requires a gradient."""
    seen = f"{name}: a tensor that requires a gradient would become an array, and the gradient would be lost"
    return TypeError(f"{seen}: use a function of allgrad, or give x.detach().numpy()")


def _leaf_changed(name):
    seen = f"{name!r}, a leaf that requires a gradient, is changed in place where operations are recorded"
    return RuntimeError(f"{seen}: do it under `with ag.no_grad():`, or compute a new tensor, x = x * 2")


def _in_place(name):
    """An operator as the method of its in-place form: + as +=.

    A leaf may be shifted by a constant also where operations are recorded: the derivatives by its old and its new value
    are the same.
    """
    operation = getattr(operator, name)

    def changed(self, other):
        if self.node is None or not self.node.keeps_memory:
            return self.change(operation(self if self.master is self.data else Tensor(self.master), other))
        if name not in ("add", "sub") and loses_gradient(self):
            raise _leaf_changed(self.name)
        return self.change(operation(Tensor(self.master), other))

    return changed


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(Tensor, f"__i{_name}__", _in_place(_name))


def attach_methods(*operations):
    """Make these operations methods of Tensor as well."""
    for operation in operations:
        setattr(Tensor, operation.__name__, operation)


def is_mean_of(weight, mean):
    """The tensor `mean`, marked as a mean over terms of this total weight: a count, or an array of shape () of weights.

    Whoever has the means of several parts of a batch can then tell that of the whole, as `allgrad.ddp` does. Nothing
    that is computed from the tensor has the mark.
    """
    mean.mean_of = weight
    if mean.node is not None:
        mean.node.mean_of = weight
    return mean


def unwrap(x):
    """The array inside a Tensor of any nesting level; anything else as it is."""
    while type(x) is Tensor:
        x = x.data
    return x


def constant(x, name):
    """The array inside an option that no gradient flows to, such as a weight; TypeError if it requires one."""
    if loses_gradient(x):
        raise TypeError(f"{name} is a constant here, and requires a gradient, which would be lost: detach() it")
    return unwrap(x)


def own_copy(array, given):
    """An index or a mask for a vjp to keep: the array, or a copy if it is the caller's, who may change it later."""
    return array.copy("K") if array is given and type(array) is np.ndarray else array


def number(x, name):
    """An option that no gradient flows to, such as a slope, as a Python number: NumPy's promote float32 to float64."""
    found: Any = constant(x, name)
    return found.item() if hasattr(found, "item") else found


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
    if loses_gradient(data):
        raise becomes_array("tensor")
    data = unwrap(data)
    if dtype is None and not hasattr(data, "dtype"):
        dtype = get_default_dtype() if np.asarray(data).dtype == np.float64 else None
    if device is not None:
        data = to_device(np.array(data, dtype=dtype) if not hasattr(data, "dtype") else data, device)
    array = (
        xp[type(data)].array(data, dtype=dtype) if is_torch(data) else np.array(data, dtype=dtype, like=like_arg(data))
    )
    if kind(array.dtype) not in "biufc":
        held = "numbers, in arrays, torch tensors, numbers and lists of one length"
        raise TypeError(f"tensor: holds {held}, not {data!r:.60}")
    return Tensor(array, Leaf(name, array.shape, check_floating(array.dtype, name)) if requires_grad else None)


def as_tensor(data, dtype=None, device=None):
    """The tensor itself, or a constant that shares the memory of an array; a copy of what is neither, see `tensor`.

    Of a tensor, dtype and device convert it as an operation does, `x.to(...)`; of an array they make a copy.
    """
    if type(data) is Tensor:
        for wanted in (dtype, device):
            data = data if wanted is None else data.to(wanted)
        return data
    share = dtype is device is None and (isinstance(data, np.ndarray) or is_torch(data))
    return Tensor(as_operand(data, "as_tensor")) if share else tensor(data, dtype=dtype, device=device)


def from_numpy(array):
    """A constant that shares the memory of a NumPy array: what is changed in one is changed in the other."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: takes a NumPy array, got {type(array).__name__}: use as_tensor")
    return as_tensor(array)


def check_floating(dtype, name):
    """The dtype, if it is floating; else TypeError, that `name` cannot require a gradient."""
    if kind(dtype) != "f":
        seen = f"requires_grad needs a floating dtype, {name!r} is {dtype}"
        raise TypeError(f'{seen}: write 1.0 instead of 1, or pass dtype="float32"')
    return dtype
