"""All parameters in one flat array, and all their gradients in another.

What treats every parameter alike (optimizer, all-reduce, broadcast, norms, checkpoints) works on the flat arrays;
`parameter.data` and `parameter.grad` are views of them. Each parameter starts on a 64-byte boundary, and the padding
before the next one stays zero, so that sums and norms over the flat arrays are those over the parameters. Of
nn.Linear(6, 3), in float32, 16 of which are 64 bytes:

    data     | weight: 18 numbers | 14 zeros | bias: 3 numbers | 13 zeros |    48 numbers
    spans      "weight": slice(0, 18)          "bias": slice(32, 35)
    message  | gradients, laid out like data                               | extras |
"""

import hashlib
import itertools
import math
import threading
import weakref
from typing import Any

import numpy as np

from allgrad.autograd.arrays import ALIGNMENT_BYTES, aligned_zeros, astype, full, is_torch, on_cpu, to_numpy, xp
from allgrad.autograd.engine import Leaf, Tensor

HALVES = "bfloat16", "float16"
EXTRAS = 8  # numbers that may travel behind the gradients in the same message, besides one for each parameter
TODO = (
    "keep parameters in attributes, lists, tuples or dicts of the model, make what trains it once all are there, and "
    "freeze others by requires_grad_(False)"
)
alive: weakref.WeakSet = weakref.WeakSet()  # all arenas
births = itertools.count()  # of parameters and arenas, in the order in which they were made


class _Arrived(threading.local):
    """leaves: those of parameters in no arena that a gradient has reached, in this thread; a WeakSet, or () of none."""

    leaves: Any = ()  # of which the truth is quickly told


arrived = _Arrived()


class ParameterLeaf(Leaf):
    """The leaf of an `nn.Parameter`: as long as it is in no arena, its hook notes in `arrived` each gradient.

    born  when it was made, a number of `births`
    """

    __slots__ = ("born", "__weakref__")

    def __init__(self, name, shape, dtype):
        super().__init__(name, shape, dtype)
        self.hook, self.born = note_arrival, next(births)

    def __setstate__(self, state):  # a copy is a new parameter, and in no arena until one is made or copied for it
        for name, value in state[1].items():
            setattr(self, name, value)
        self.in_arena, self.born, self.hook = False, next(births), self.hook or note_arrival

    def release(self):
        """Leave the arena, whose optimizer will refuse its next step."""
        if self.in_arena:
            self.in_arena, self.grad, self.stale, self.hook = False, None, True, self.hook or note_arrival


def note_arrival(leaf):
    """A gradient has reached a parameter that is in no arena."""
    arrived.leaves = arrived.leaves or weakref.WeakSet()
    arrived.leaves.add(leaf)


class Arena:
    """The parameters of a module, or a dict or list of parameters, moved into flat storage.

    parameters    {name: parameter}; `leaves` are their Leafs in this order, `spans` {name: slice of the flat arrays}
    data          the values, flat
    compute_copy  None, or a copy of `data` in half precision, which the parameters show and operations compute with
    grad          the gradients, flat
    extras        a few numbers (a loss, a count) that data-parallel training sums along with the gradients
    message       `grad` followed by `extras`, in one contiguous array: what ranks exchange

    All parameters must have one floating dtype, and be NumPy arrays, or torch tensors on one device (TypeError). A
    parameter keeps its memory order (nn.Linear's weight lies transposed), while hashes and state dicts have its shape
    in C order. A parameter belongs to the arena that was made last.
    """

    def __init__(self, parameters):
        given = _as_dict(parameters)
        named = named_parameters(given)
        owner = getattr(parameters, "module", parameters)
        self.owner = weakref.ref(owner) if hasattr(owner, "named_parameters") else lambda: None
        self.frozen = [p.leaf for p in given.values() if p.node is None and hasattr(p, "leaf")]
        self.born = next(births)
        if not named:
            raise ValueError("Arena: no parameters to hold (is every parameter frozen, or the model empty?)")
        places = {name: p.device if is_torch(p.data) else "numpy" for name, p in named.items()}
        if len({*places.values()}) > 1:
            listed = ", ".join(f"{name} on {place}" for name, place in places.items())
            raise TypeError(f"Arena: parameters must live in one place, but {listed}: move the model by to(device=...)")
        dtypes = {p.dtype for p in named.values()}
        if len(dtypes) > 1:
            listed = ", ".join(f"{name} is {p.dtype}" for name, p in named.items())
            raise TypeError(f"Arena: parameters must have one dtype, but {listed}")
        self.dtype = dtypes.pop()
        like = next(iter(named.values())).data
        self.parameters = named
        self.leaves: list[Leaf] = []
        self.spans: dict[str, slice] = {}
        step = ALIGNMENT_BYTES // self.dtype.itemsize
        stop = 0
        for name, p in named.items():
            start = math.ceil(stop / step) * step
            stop = start + p.size
            self.spans[name] = slice(start, stop)
        size = math.ceil(stop / step) * step
        self.data = aligned_zeros(size, like)
        self.compute_copy = None
        self.message = aligned_zeros(size + EXTRAS + len(named), like)
        self.grad, self.extras = self.message[:size], self.message[size:]
        for name, p in named.items():
            leaf = p.node
            view, grad = (_shaped(flat[self.spans[name]], p.data) for flat in (self.data, self.grad))
            view[...] = p.data
            p.data = view
            if leaf.grad is not None:
                grad[...] = 0.0 if leaf.stale else leaf.grad
            leaf.grad, leaf.name, leaf.in_arena = grad, name, True
            leaf.hook = None if leaf.hook is note_arrival else leaf.hook
            self.leaves.append(leaf)
        for leaf in self.frozen:
            leaf.release()
        self.current_grads = self.own_grads = [leaf.grad for leaf in self.leaves]  # those in `message`
        self.views = [p.data for p in named.values()]
        alive.add(self)

    arena = property(lambda self: self)  # so that an arena may stand where a module is expected

    @property
    def on_cpu(self):
        """Whether the arrays are in the memory of the CPU."""
        return on_cpu(self.data)

    def compute_in(self, dtype):
        """Compute with copies of the values in "bfloat16" or "float16" from now on; torch tensors only (TypeError).

        Values, gradients and the optimizer's state stay in full precision (Micikevicius et al. 2018, "Mixed Precision
        Training").
        """
        if dtype not in HALVES:
            raise ValueError(f"compute_in: dtype is {' or '.join(HALVES)}, got {dtype!r}")
        if type(self.data) is np.ndarray:
            raise TypeError(f"compute_in: NumPy has no fast {dtype}: make torch tensors of the model by to(device=...)")
        self.compute_copy = astype(self.data, dtype)
        for leaf, p in zip(self.leaves, self.parameters.values()):
            span = self.spans[leaf.name]
            p.use_compute_copy(_shaped(self.compute_copy[span], p.data))
            leaf.dtype = self.compute_copy.dtype
        self.views = [p.data for p in self.parameters.values()]

    def holds(self, named):
        """Whether these parameters are in it, and no others."""
        here = {id(p): leaf for p, leaf in zip(self.parameters.values(), self.leaves)}
        return {id(p) for p in named.values()} == here.keys() and all(
            leaf.in_arena and leaf.grad is grad for leaf, grad in zip(self.leaves, self.current_grads)
        )

    def rename(self, named):
        """Call its parameters by the names of this dict, in the order that they have here."""
        names = {id(p): name for name, p in named.items()}
        self.spans = {names[id(self.parameters[old])]: span for old, span in self.spans.items()}
        self.parameters = {names[id(p)]: p for p in self.parameters.values()}
        for name, leaf in zip(self.spans, self.leaves):
            leaf.name = name

    def zero_grad(self):
        """Forget the gradients: the next one to arrive overwrites what is there."""
        if arrived.leaves:
            arrived.leaves = ()
        for leaf in self.leaves:
            leaf.stale = True

    def redirect_grads(self, grads=None):
        """Let gradients arrive in these arrays, one for each leaf, until the next call; in `message` if None."""
        grads = self.own_grads if grads is None else grads
        if grads is not self.current_grads:
            for leaf, before, grad in zip(self.leaves, self.current_grads, grads):
                if leaf.grad is before:  # it has not left for another arena
                    leaf.grad = grad
            self.current_grads = grads

    def adopt_buffer(self, message):
        """Move gradients and extras into this array of zeros, such as shared memory, of the form of `message`."""
        if self.message.any():  # or memory that nobody has touched yet would be taken from the system
            message[...] = self.message
        size = len(self.data)
        self.message, self.grad, self.extras = message, message[:size], message[size:]
        self.own_grads = [*self.unflatten(self.grad).values()]
        self.redirect_grads()

    def zero_missing_grads(self):
        """Let a gradient of zero arrive at parameters that none has reached since `zero_grad`; their hooks are called.

        Raises RuntimeError if training does not reach a parameter that it should: one that has moved to an arena made
        later, was frozen or was given other data, or, of the model or made after this arena, is in no arena and has a
        gradient.
        """
        for leaf, what, own in self.gradients_outside():
            if own or leaf.born > self.born or leaf in self.frozen:
                raise RuntimeError(f"{what} has a gradient, and no optimizer: {TODO}")
        for leaf, grad, p, view in zip(self.leaves, self.current_grads, self.parameters.values(), self.views):
            if leaf.grad is not grad:
                todo = "make one optimizer for all parameters, or pass the same module or arena to everything"
                raise RuntimeError(f"{leaf.name!r} has left this arena for one made later: {todo}")
            if p.data is not view:
                todo = "write p.assign(value) instead of p.data = value"
                raise RuntimeError(f"the data of {leaf.name!r} were replaced, training would not reach them: {todo}")
            if p.node is not leaf:
                raise RuntimeError(f"{leaf.name!r} was frozen after its optimizer was made: make the optimizer anew")
            if leaf.stale:
                leaf.accumulate(full(leaf.shape, 0.0, grad, leaf.dtype))

    def gradients_outside(self):
        """(leaf, in words, whether the owner's) of parameters in no arena with gradients since `zero_grad`."""
        if not arrived.leaves:
            return ()
        owner = self.owner()
        hidden, named = ({}, {}) if owner is None else (owner.hidden_parameters(), dict(owner.named_parameters()))
        names = {id(p.node): f"that {name!r} refers to" for name, p in hidden.items()}
        names |= {id(p.node): repr(name) for name, p in named.items()}
        return [
            (leaf, f"the parameter {names.get(id(leaf), repr(leaf.name))} of shape {leaf.shape}", id(leaf) in names)
            for leaf in sorted((leaf for leaf in arrived.leaves if not leaf.in_arena), key=lambda leaf: leaf.born)
        ]

    def bump_versions(self):
        """Declare that `data` was changed in place: graphs that used the old values refuse to run backward."""
        if self.compute_copy is not None:
            self.compute_copy[...] = self.data
        for leaf in self.leaves:
            leaf.version += 1

    def sha256(self):
        """SHA-256 of the values, as hex: parameters sorted by name, each as its little-endian bytes in C order."""
        digest = hashlib.sha256()
        for name in sorted(self.parameters):
            data = np.ascontiguousarray(to_numpy(self.parameters[name].master))
            digest.update(data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes())
        return digest.hexdigest()

    def __reduce__(self):
        # A copy holds copies of the parameters, again as views of its flat arrays.
        return _copied, (
            self.parameters,
            None if self.compute_copy is None else str(self.compute_copy.dtype).split(".")[1],
        )

    def unflatten(self, flat):
        """Views {name: array of the parameter's shape} of a flat array that is laid out like `data`."""
        return {name: _shaped(flat[span], self.parameters[name].master) for name, span in self.spans.items()}


def _copied(parameters, dtype):
    for p in parameters.values():
        p.restore_master()
    arena = Arena(parameters)
    if dtype is not None:
        arena.compute_in(dtype)
    return arena


def existing_arena(owner):
    """The arena that `owner` is or has as `.arena`; None without one, or if a module has other parameters by now."""
    arena = getattr(owner, "arena", None)
    if arena is None or not hasattr(owner, "named_parameters"):
        return arena
    return arena if arena.holds(named_parameters(owner)) else None


def arena_of(owner):
    """The arena that `owner` is or has, or that has its parameters, or else a new one for them.

    So an optimizer of `model.parameters()` and a DistributedDataParallel of the model share one, whichever comes first.
    """
    arena = existing_arena(owner)
    if arena is None and not hasattr(owner, "arena"):
        if not hasattr(owner, "named_parameters") and not hasattr(owner, "module"):
            owner = _as_dict(owner)  # once, of an iterator
        named = named_parameters(getattr(owner, "module", owner))
        arena = next((other for other in alive if other.holds(named)), None)
        if arena is not None and hasattr(owner, "named_parameters"):
            arena.rename(named)
            owner.arena = arena
    if arena is None:
        if hasattr(owner, "check_parameters"):
            owner.check_parameters()
        arena = Arena(owner)
        if hasattr(owner, "named_parameters"):
            owner.arena = arena
    elif hasattr(owner, "named_parameters"):
        arena.owner = weakref.ref(owner)
    return arena


def named_parameters(parameters):
    """{name: parameter} of a module, or of a dict, list or iterator of parameters, without frozen ones."""
    parameters = _as_dict(parameters)
    for name, p in parameters.items():
        if type(p) is not Tensor or not (isinstance(p.node, Leaf) or p.node is None):
            raise TypeError(f"Arena: {name!r} is not a parameter but {type(p).__name__}")
    unique = {id(p): name for name, p in reversed(parameters.items())}  # a tied parameter goes by its first name
    return {name: p for name, p in parameters.items() if p.node is not None and unique[id(p)] == name}


def _as_dict(parameters):
    if hasattr(parameters, "named_parameters"):
        return dict(parameters.named_parameters())
    return parameters if isinstance(parameters, dict) else {f"parameter{i}": p for i, p in enumerate(parameters)}


def _shaped(flat, like):
    """A flat array as a view with the shape and the memory order of another array."""
    strides = like.strides if type(like) is np.ndarray else like.stride()
    order = sorted(range(like.ndim), key=lambda i: -strides[i])
    back = sorted(range(like.ndim), key=order.__getitem__)
    return xp[type(flat)].permute_dims(flat.reshape([like.shape[i] for i in order]), back)
