"""The engine: tensors, and the operations that record a graph behind them (`autograd.graph`).

A primitive computes a value and declares, beside it, one vector-Jacobian product (vjp) for each array it took.
Calling it on tensors records a `Node` whose edges hold those vjps; `backward` walks the nodes from the result to
the leaves, each one after all its consumers, and adds what arrives into the leaves' gradients. Nothing else is
recorded: a value lives on only while some vjp has captured it, and the walk drops edges as it goes.
"""

import inspect
import math
import re
import weakref
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.graph import Leaf, Node, backward
from autograd.kernels import OPERANDS, as_like, as_operand, beside, is_torch, kind, template, to_device, to_numpy, xp


class Tensor:
    """An array that remembers how it was computed.

    data   a NumPy array (or scalar for shape ()), a torch tensor, or a Tensor one nesting level down (see
           `autograd.transforms`)
    node   where it stands in the graph; None for constants, so `requires_grad` is `node is not None`
    level  nesting level: 0 for ordinary work, k inside k nested `vjp`s
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
    size = property(lambda self: math.prod(self.data.shape))
    device = property(lambda self: str(getattr(innermost(self), "device", "cpu")))
    requires_grad = property(lambda self: self.node is not None)

    @property
    def grad(self):
        """The gradient accumulated in a leaf, as an array of the leaf's shape; None before anything arrived.

        Once the leaf is in an arena (an optimizer has been made), the array is a view that later steps overwrite.
        """
        leaf = self.node
        return None if not isinstance(leaf, Leaf) or leaf.fresh else leaf.total

    @grad.setter
    def grad(self, value):
        if value is not None:
            raise AttributeError("grad can only be reset, by x.grad = None: backward(g) is what adds to it")
        if not isinstance(self.node, Leaf):
            todo = "to change a parameter write w.assign(w.data - lr * w.grad)"
            raise AttributeError(f"grad belongs to leaves, this tensor was computed by {self.name!r}: {todo}")
        self.node.forget()

    @property
    def name(self):
        """The leaf's name, or that of the operation that computed this tensor; "constant" without a graph."""
        return "constant" if self.node is None else self.node.name

    def detach(self):
        """The same value as a constant: no gradient flows through it, nor through its data one level down."""
        return Tensor(self.data.detach() if type(self.data) is Tensor else self.data, None, self.level)

    def numpy(self):
        """The value as a NumPy array, shared and not copied where it is in the processor's memory."""
        return to_numpy(innermost(self))

    def item(self):
        """The value of a one-element tensor as a Python number."""
        return innermost(self).item()

    def tolist(self):
        return self.numpy().tolist()

    def assign(self, value):
        """Overwrite a leaf's value in place, by an array of its shape or a number.

        Graphs that recorded the old value of a parameter refuse to run backward; those of a constant cannot know.
        """
        if self.node is not None and not isinstance(self.node, Leaf):
            raise RuntimeError(f"assign needs a leaf, this tensor was computed by {self.name!r}")
        value = beside(innermost(value), self.data)
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
        """The data, or what they are a copy of in half precision (see `nn.Module.compute_in`)."""
        return getattr(self, "_master", self.data)

    def halve(self, data):
        """Compute with these data from now on, a copy in half precision, and keep those so far as the master."""
        self._master, self.data = self.master, data

    def unhalve(self):
        """Compute with the master again."""
        if self.master is not self.data:
            self.data = self._master
            del self._master

    def register_hook(self, hook):
        """Call hook(leaf) in every backward, the moment this leaf's gradient is final. Leaves only; one hook a leaf."""
        if not isinstance(self.node, Leaf):
            raise RuntimeError(f"register_hook needs a leaf, this tensor was computed by {self.name!r}")
        self.node.hook = hook

    def backward(self, gradient=None, retain_graph=False):
        """Add d(self)/d(leaf) into the gradient of every leaf that self depends on.

        gradient: the array to start from, of self's shape (a number for a scalar); 1 for a scalar tensor if absent.
        retain_graph: keep what the graph saved, so that backward may run through it again.
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
        like = innermost(self)
        if type(gradient) is float and isinstance(like, np.generic):
            g = type(like)(gradient)
        else:
            g = as_like(innermost(gradient), like)[()]  # a NumPy scalar for ()
        if g.shape != self.shape:
            raise RuntimeError(f"backward() of shape {self.shape} got a gradient of shape {g.shape}")
        backward(self.node, g, retain_graph)

    def __repr__(self):
        grad = f", {self.node.name}" if self.node is not None else ""
        return f"Tensor({self.data!r}{grad})"

    def __format__(self, spec):
        return format(self.item(), spec) if spec else repr(self)

    def __len__(self):
        return len(self.data)

    def __bool__(self):
        return bool(innermost(self))

    def __float__(self):
        return float(innermost(self))

    def __array__(self, dtype=None, copy=None):
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    __hash__ = object.__hash__  # tensors are compared elementwise, and hashed by identity


def methods(*operations):
    """Make these operations methods of Tensor as well."""
    for operation in operations:
        setattr(Tensor, operation.__name__, operation)


PASSING = OPERANDS | {Tensor, type(None)}  # what a rule takes as it is: None stands for an argument left out


def innermost(x):
    """The array inside all nesting levels."""
    while type(x) is Tensor:
        x = x.data
    return x


def shape_of(x):
    """The shape of a tensor, an array of either library, a number or a list, as a tuple."""
    x = innermost(x)
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


def exemplar(*operands):
    """The first array among the operands, from inside: what arrays that meet them should be like."""
    found = [x for x in map(innermost, operands) if hasattr(x, "dtype")]
    return next((x for x in found if xp[type(x)] is not np), found[0] if found else np.zeros(()))


def tensor(data, requires_grad=False, dtype=None, name="tensor", device=None):
    """A tensor holding a copy of `data`: numbers, lists, a NumPy array, or a torch tensor, which stays one.

    Python numbers and lists take `default_dtype` (float32) if they are floating; arrays keep their dtype. Integers
    and booleans are index data: they cannot require a gradient. With a device ("cpu", "cuda", "cuda:1") the data
    become a torch tensor there.
    """
    data = innermost(data)
    if dtype is None and not hasattr(data, "dtype"):
        dtype = _default_dtype if np.asarray(data).dtype == np.float64 else None
    if device is not None:
        data = to_device(np.array(data, dtype=dtype) if not hasattr(data, "dtype") else data, device)
    array = (
        xp[type(data)].array(data, dtype=dtype) if is_torch(data) else np.array(data, dtype=dtype, like=template(data))
    )
    if kind(array.dtype) not in "biufc":
        held = "numbers, in arrays, torch tensors, numbers and lists of one length"
        raise TypeError(f"tensor: holds {held}, not {data!r:.60}")
    return Tensor(array, Leaf(name, array.shape, floating(array.dtype, name)) if requires_grad else None)


def floating(dtype, name):
    """The dtype, if one can differentiate by arrays of it."""
    if kind(dtype) != "f":
        seen = f"requires_grad needs a floating dtype, {name!r} is {dtype}"
        raise TypeError(f'{seen}: write 1.0 instead of 1, or pass dtype="float32"')
    return dtype


# --- modes -----------------------------------------------------------------------------------------------------

_recording = True
_default_dtype = np.dtype("float32")


@contextmanager
def _setting(name, value):
    before, globals()[name] = globals()[name], value
    try:
        yield
    finally:
        globals()[name] = before


def no_grad():
    """Context in which nothing is recorded: results are constants. The flag is shared by all threads."""
    return _setting("_recording", False)


def enable_grad():
    """Context in which operations are recorded, also inside `no_grad`."""
    return _setting("_recording", True)


def default_dtype(dtype):
    """Context in which Python floats, and parameters made without a dtype, take this dtype ("float32", "float64")."""
    return _setting("_default_dtype", np.dtype(dtype))


def get_default_dtype():
    """The dtype that Python floats and new parameters take."""
    return _default_dtype


# --- recording -------------------------------------------------------------------------------------------------

operations: weakref.WeakSet = weakref.WeakSet()  # all primitives, for those who observe them (`autograd.observe`)


def primitive(rule: Callable) -> Callable[..., Tensor]:
    """Make a differentiable operation of a rule `rule(a, b, ..., *, static) -> value, vjp_a, vjp_b, ...`.

    Positional arguments are the arrays to differentiate by; keyword-only arguments are static (axes, shapes,
    labels). vjp_a maps the gradient of the value to that of `a`, in the value's broadcast shape if that is easier:
    the engine sums broadcast axes away. vjps of arguments that need no gradient are dropped at once, with whatever
    they captured. A rule must not mutate its arguments, nor its value once a vjp has captured it.
    """
    signature = inspect.signature(rule)
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    name = rule.__name__.strip("_")

    def unary(a, **static):
        if type(a) is not Tensor:
            a = tensor(as_operand(a, name))
        try:
            value, vjp = rule(a.data, **static)
        except (ValueError, TypeError, IndexError) as error:
            raise _refused(name, error, a) from None
        node = a.node
        if node is None or not _recording:
            return Tensor(value, None, a.level)
        return Tensor(value, Node(name, ((node, vjp, node.version),), value.shape), a.level)

    def binary(a, b):
        p: Any = None
        q: Any = None
        level = 0
        if type(a) is Tensor:
            x, p, level = a.data, a.node, a.level
        else:
            x = a if type(a) in OPERANDS else as_operand(a, name)
        if type(b) is Tensor:
            if b.level == level:
                y, q = b.data, b.node
            elif b.level < level:
                y = b  # a constant, seen from the level of a
            else:
                if type(a) is Tensor:
                    x, p = a, None
                y, q, level = b.data, b.node, b.level
        else:
            y = b if type(b) in OPERANDS else as_operand(b, name)
        try:
            value, u, v = rule(x, y)
        except (ValueError, RuntimeError) as error:
            raise _misfit(name, error, a, b) from None
        if not _recording or p is q is None:
            return Tensor(value, None, level)
        if q is None:
            edges = ((p, u, p.version),)
        elif p is None:
            edges = ((q, v, q.version),)
        else:
            edges = ((p, u, p.version), (q, v, q.version))
        return Tensor(value, Node(name, edges, value.shape), level)

    def general(*args, **static):
        if static:  # arrays may be given by name too
            args += tuple(static.pop(n) for n in names[len(args) :] if n in static)
        level = 0
        for a in args:
            if type(a) is Tensor and a.level > level:
                level = a.level
        values, nodes = [], []
        for a in args:
            if type(a) is Tensor and a.level == level:
                values.append(a.data)
                nodes.append(a.node)
            else:
                values.append(a if type(a) in PASSING else as_operand(a, name))
                nodes.append(None)
        try:
            value, *vjps = rule(*values, **static)
        except (ValueError, RuntimeError) as error:
            raise _misfit(name, error, *args) from None
        if not _recording:
            return Tensor(value, None, level)
        edges = tuple([(n, vjp, n.version) for n, vjp in zip(nodes, vjps) if n is not None])
        return Tensor(value, Node(name, edges, value.shape) if edges else None, level)

    def exchange(around):
        """Compute by around(rule) from now on; returns the rule so far."""
        nonlocal rule
        before, rule = rule, around(rule)
        return before

    fixed = len(names) == len(parameters)
    operation: Any = unary if len(names) == 1 else binary if len(names) == 2 and fixed else general
    operation.exchange = exchange
    operations.add(operation)
    operation.__name__ = operation.__qualname__ = name
    operation.__signature__, operation.__doc__ = signature, rule.__doc__
    operation.__module__ = rule.__module__
    return operation


# --- what an operation says when the array library refuses its arguments -----------------------------------------

HINTS = {
    "matmul": "the last axis of the first must be as long as the last but one of the second, or its only one",
    "linear": "the last axis of the input must be as long as that of the weight (out, in), and the bias (out,)",
    "concatenate": "all axes but the one along which they are joined must be equally long",
}
_SIZES = re.compile("size|shape|dimension")  # what torch's errors of this sort speak of, all of them RuntimeErrors


def _misfit(name, error, *args):
    """The array library's error, saying which operation and which shapes; as it is if it is about something else."""
    text = str(error).splitlines()[0]
    of_sizes = type(error) in (RuntimeError, np.exceptions.AxisError) and _SIZES.search(text)
    if " do not fit together (" in text or not (of_sizes or type(error) is ValueError):
        return error
    shapes = " and ".join(str(shape_of(a)) for a in args if a is not None)
    hint = HINTS.get(name) or ("axes count from the last: equally long, or 1" if "broadcast" in text else text)
    return ValueError(f"{name}: shapes {shapes} do not fit together ({hint})")


def _refused(name, error, a):
    """The array library's error, saying which operation and which shape; as it is if one inside has done so."""
    if re.match(r"\w+: ", str(error)):
        return error
    kind = next(c for c in (np.exceptions.AxisError, IndexError, TypeError, ValueError) if isinstance(error, c))
    return kind(f"{name}: {error}, for an array of shape {tuple(a.shape)}")


# --- for rules -------------------------------------------------------------------------------------------------


def shared(pullback, count):
    """Split one pullback `g -> (d_1, ..., d_count)` into `count` vjps that compute it once for each g."""
    seen: list = [None, None]

    def part(i):
        def vjp(g):
            if seen[0] is not g:
                seen[0], seen[1] = g, pullback(g)
            return seen[1][i]

        return vjp

    return [part(i) for i in range(count)]
