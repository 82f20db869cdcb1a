"""Module: an object whose parameters and sub-modules are its attributes."""

import inspect
from abc import ABCMeta
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from allgrad.autograd.arena import ParameterLeaf
from allgrad.autograd.arrays import astype, is_torch, kind, to_device, to_numpy, xp
from allgrad.autograd.engine import Leaf, Tensor, get_default_dtype, shape_of, unwrap
from allgrad.autograd.nn.hidden import hidden_parameters

PLAIN = frozenset({type(None), bool, int, float, str, np.ndarray})  # types of attributes that hold no module or tensor


class _ParameterType(type):
    def __instancecheck__(cls, x):
        return type(x) is Tensor and hasattr(x, "leaf")


class Parameter(metaclass=_ParameterType):
    """A tensor to be trained: Parameter(...) is a Tensor that is a leaf, and that modules find among their attributes.

    data: numbers, lists or an array, copied in its memory order. dtype: floating, the default dtype if None.
    requires_grad: False for one that is frozen, see `Tensor.requires_grad_`.
    """

    def __new__(cls, data, dtype=None, name="parameter", requires_grad=True) -> Tensor:
        data, dtype = unwrap(data), dtype or get_default_dtype()
        array = xp[type(data)].array(data, dtype) if is_torch(data) else np.array(data, dtype=dtype, order="K")
        return _as_parameter(Tensor(array), name).requires_grad_(requires_grad)


def _as_parameter(t, name):
    t.node = t.leaf = ParameterLeaf(name, t.shape, t.dtype)
    return t


class LoadResult(NamedTuple):
    """What `Module.load_state_dict` found: names of the module that the state lacks, and names that it has besides."""

    missing_keys: list
    unexpected_keys: list


class _Parameters:
    """The iterator over a module's parameters, from which an optimizer learns of the module."""

    def __init__(self, module, recurse):
        self.module, self.found = module, module.named_parameters(recurse=recurse)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.found)[1]


class _ModuleType(ABCMeta):
    """The type of modules: tells each when its `__init__` is over, since tensors set by then are its state."""

    def __call__(cls, *args, **options):
        module = super().__call__(*args, **options)
        module._adopt_tensors()
        return module

    @property
    def __signature__(cls):
        signature = inspect.signature(cls.__init__)
        return signature.replace(parameters=[*signature.parameters.values()][1:])


class Module(metaclass=_ModuleType):
    """Base of layers and networks: `__init__` sets attributes, and `__call__` or `forward` computes.

        class Net(nn.Module):
            def __init__(self):
                self.hidden, self.out = nn.Linear(64, 32), nn.Linear(32, 10)     # no super().__init__() is needed

            def __call__(self, x):
                return self.out(ag.relu(self.hidden(x)))

    Parameters are found by walking the attributes in the order they were set, through sub-modules, lists, tuples and
    dicts; a tensor reached by two paths counts once, under its first name. Names are attribute paths: "hidden.weight".
    A parameter that is kept anywhere else, such as in a set, another object or a function, is refused by the first
    step of an optimizer that would miss it.

    Buffers are part of the state and not trained: the constants that `__init__` sets, and those of `register_buffer`.
    A tensor that is set later, such as `self.last = y` in a call, is no part of the state. `running_statistics` names
    the buffers that a call changes in training, such as running averages: data-parallel training averages their changes
    over the shards.
    """

    training = True
    running_statistics: tuple[str, ...] = ()
    _buffers: Mapping = MappingProxyType({})  # {path below this module: whether the state has it}

    def __init_subclass__(cls, **options):
        # `forward` and `__call__` are one: whichever a class defines is what calls of its objects run.
        super().__init_subclass__(**options)
        inherited = super(cls, cls).__call__
        if "__call__" not in vars(cls):
            if "forward" in vars(cls) and inherited is not Module.__call__:
                cls.__call__ = Module.__call__
        elif inherited is not Module.__call__ or not hasattr(cls, "forward"):
            cls.forward = vars(cls).get("forward", cls.__call__)

    def __call__(self, *inputs, **options):
        if not hasattr(self, "forward"):
            raise TypeError(f"{type(self).__name__} defines no __call__(self, x)")
        return self.forward(*inputs, **options)  # pyright: ignore[reportAttributeAccessIssue]

    # --- attributes ----------------------------------------------------------------------------------------------

    def __setattr__(self, name, value):
        before = vars(self).get(name)
        if before is not None and value is not None and value is not before:
            wanted = Parameter if isinstance(before, Parameter) else Module if isinstance(before, Module) else object
            if wanted is Parameter and type(value) is Tensor and value.node is None and value.data is before.data:
                self._add_buffers({name: True})  # weight = weight.detach() freezes it
                if before.node is not None and before.node.in_arena:  # an optimizer still moves what lies there
                    value.data = xp[type(value.data)].array(value.data)
            elif not isinstance(value, (wanted, Module)):
                seen = f"{type(self).__name__}.{name} is a {wanted.__name__} and cannot become a {type(value).__name__}"
                todo = f"write nn.Parameter(value), {name}.assign(value) for other numbers, or delete it first"
                raise TypeError(f"{seen}: {todo}" if wanted is Parameter else f"{seen}: delete it first")
        object.__setattr__(self, name, value)

    def __delattr__(self, name):
        object.__delattr__(self, name)
        vars(self)["_buffers"] = {path: kept for path, kept in self._buffers.items() if path != name}

    def register_buffer(self, name, tensor, persistent=True):
        """Set a constant tensor, or None, that is no parameter; not persistent: the state does not have it."""
        self._check_new(name, tensor, Tensor)
        setattr(self, name, tensor)
        self._add_buffers({name: persistent})

    def register_parameter(self, name, param):
        """Set an `nn.Parameter`, or None: as `setattr`, but refuses a name that is taken (KeyError)."""
        self._check_new(name, param, Parameter)
        setattr(self, name, param)

    def add_module(self, name, module):
        """Set a sub-module, or None: as `setattr`, but refuses a name that another attribute has (KeyError)."""
        self._check_new(name, module, Module)
        setattr(self, name, module)

    def register_module(self, name, module):
        """The same as `add_module`."""
        self.add_module(name, module)

    def _check_new(self, name, value, wanted):
        if not isinstance(name, str) or name in ("", "arena") or "." in name:
            raise KeyError(f"{type(self).__name__}: a name is a string without dots, and not 'arena': got {name!r}")
        before = getattr(self, name, None)
        if hasattr(self, name) and not (isinstance(before, wanted) or (before is None and name in vars(self))):
            raise KeyError(f"{type(self).__name__} has an attribute {name!r} already: take another name")
        if value is not None and not isinstance(value, wanted):
            raise TypeError(f"{name!r} is to be a {wanted.__name__} or None, got a {type(value).__name__}")

    def _add_buffers(self, more):
        vars(self)["_buffers"] = {**self._buffers, **more}

    def _adopt_tensors(self):
        """Of the tensors that `__init__` has set, constants are buffers, and leaves are parameters."""
        mine = [(path, t) for _, t, owner, path in self._walk() if owner is self and isinstance(t, Tensor)]
        for _, t in mine:
            if isinstance(t.node, Leaf) and not isinstance(t, Parameter):
                _as_parameter(t, t.node.name)
        self._add_buffers({path: True for path, t in mine if t.node is None and path not in self._buffers})

    # --- what a module holds -------------------------------------------------------------------------------------

    def _attributes(self):
        """Pairs (name, value): where parameters and sub-modules are looked for."""
        return vars(self).items()

    def _walk(self, tied=False, shared=False):
        """All (path, Module or Tensor, module that has it, path below that), this module first: each once.

        tied: tensors by each of their paths. shared: also modules, and so all that is below them.
        """
        seen = set()
        stack: list = [("", self, None, "", ())]
        while stack:
            path, value, owner, local, above = stack.pop()
            is_module = Module in type(value).__mro__  # `isinstance` asks the abstract base class, which takes longer
            if is_module:
                children = value._attributes()
            elif isinstance(value, (list, tuple)):
                children = enumerate(value)
            elif isinstance(value, dict):
                children = value.items()
            else:
                children = ()
            if id(value) in above:  # a container or module that holds itself
                continue
            if is_module or isinstance(value, Tensor):
                again = id(value) in seen
                if again and not shared and not (tied and isinstance(value, Tensor)):
                    continue
                seen.add(id(value))
                yield path, value, owner, local
            if not children:
                continue
            above = (*above, id(value))
            for name, child in reversed([*children]):
                if type(child) in PLAIN:
                    continue
                below = f"{path}.{name}" if path else str(name)
                if is_module:
                    stack.append((below, child, value, str(name), above))
                else:
                    stack.append((below, child, owner, f"{local}.{name}", above))

    def _tensors(self, prefix="", recurse=True, tied=False):
        """(name, tensor, whether it is a parameter, or a buffer that the state has or not, or None of these)."""
        for path, t, owner, local in self._walk(tied):
            if isinstance(t, Tensor) and (recurse or owner is self):
                if isinstance(t, Parameter):
                    what = "parameter"
                else:
                    what = {True: "buffer", False: "not persistent", None: None}[owner._buffers.get(local)]
                yield f"{prefix}.{path}" if prefix else path, t, what

    def named_modules(self, prefix="", remove_duplicate=True):
        """Pairs (name, module): this module, whose name is the prefix, and all below it."""
        return (
            (".".join(filter(None, (prefix, path))), value)
            for path, value, *_ in self._walk(shared=not remove_duplicate)
            if isinstance(value, Module)
        )

    def modules(self):
        """This module and all modules below it."""
        return (module for _, module in self.named_modules())

    def named_children(self):
        """Pairs (name, module): the modules of this one, and not those below them."""
        return ((path, m) for path, m, owner, _ in self._walk() if owner is self and isinstance(m, Module))

    def children(self):
        """The modules of this one, in the order of `named_children`."""
        return (module for _, module in self.named_children())

    def named_parameters(self, prefix="", recurse=True, remove_duplicate=True):
        """Pairs (name, parameter), frozen ones too; not recurse: of this module alone."""
        found = self._tensors(prefix, recurse, tied=not remove_duplicate)
        return ((name, t) for name, t, what in found if what == "parameter")

    def parameters(self, recurse=True):
        """The parameters, in the order of `named_parameters`."""
        return _Parameters(self, recurse)

    def named_buffers(self, prefix="", recurse=True, remove_duplicate=True):
        """Pairs (name, tensor): the constants that are state, such as running averages; not recurse: of this module."""
        found = self._tensors(prefix, recurse, tied=not remove_duplicate)
        return ((name, t) for name, t, what in found if what in ("buffer", "not persistent"))

    def buffers(self, recurse=True):
        """The buffers, in the order of `named_buffers`."""
        return (t for _, t in self.named_buffers(recurse=recurse))

    def get_submodule(self, target):
        """The module of this name, as of `named_modules`; AttributeError if there is none."""
        return self._get(target, Module)

    def get_parameter(self, target):
        """The parameter of this name, as of `named_parameters`; AttributeError if there is none."""
        return self._get(target, Parameter)

    def get_buffer(self, target):
        """The buffer of this name, as of `named_buffers`; AttributeError if there is none."""
        found = self._get(target, Tensor)
        if all(found is not t for t in self.buffers()):
            raise AttributeError(f"{type(self).__name__}: {target!r} is no buffer")
        return found

    def _get(self, target, wanted):
        for path, value, *_ in self._walk(shared=True):
            if path == target and isinstance(value, wanted):
                return value
        raise AttributeError(f"{type(self).__name__} has no {wanted.__name__} called {target!r}")

    def hidden_parameters(self):
        """{attribute: parameter to be trained} for those that are kept where `parameters` does not look."""
        return hidden_parameters(self)

    def check_parameters(self):
        """Raise ValueError if a tensor requires a gradient and is no parameter, or if two have one name."""
        name = type(self).__name__
        for path, t, what in self._tensors():
            if what is None and isinstance(t.node, Leaf):
                seen = f"{name}.{path} requires a gradient and is no parameter"
                raise ValueError(f"{seen}: make it an nn.Parameter, or keep its detach()")
        self._state()

    # --- modes, gradients, types ---------------------------------------------------------------------------------

    def train(self, mode=True):
        """Set training mode here and below: dropout drops, batch norm uses the batch. Returns self."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """Set evaluation mode here and below. Returns self."""
        return self.train(False)

    def apply(self, fn):
        """Call fn(module) for every module below this one, and for this one last. Returns self."""
        for module in self.children():
            Module.apply(module, fn)
        fn(self)
        return self

    def requires_grad_(self, requires_grad=True):
        """Freeze all parameters, or let them be trained again: before the optimizer is made. Returns self."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none=True):
        """Forget the gradients of all parameters, which are None from now on; zeros if not set_to_none."""
        for p in self.parameters():
            leaf = p.node
            if leaf is not None:
                leaf.reset()
                if not set_to_none:
                    leaf.grad, leaf.stale = (
                        xp[type(p.data)].zeros_like(p.data) if leaf.grad is None else leaf.grad,
                        False,
                    )
                    leaf.grad[...] = 0.0

    def to(self, dtype=None, device=None):
        """Convert parameters and floating constants to a floating dtype, or move all tensors to a device. Returns self.

        device "cpu", "cuda" or "cuda:1": all tensors become torch tensors there; "numpy": NumPy arrays again. Before an
        optimizer is made (RuntimeError).
        """
        if isinstance(dtype, str) and dtype.split(":")[0] in ("numpy", "cpu", "cuda"):
            dtype, device = None, dtype
        if dtype is not None:
            named = isinstance(dtype, str) or "torch." in str(dtype)
            dtype = str(dtype).removeprefix("torch.") if named else np.dtype(dtype).name
            if not dtype.startswith(("float", "bfloat")):
                raise TypeError(f"to: parameters have a floating dtype such as float32, got {dtype}")
        tensors = [t for _, t, _ in self._tensors() if t.node is None or isinstance(t.node, Leaf)]
        if getattr(self, "arena", None) is not None or any(t.node is not None and t.node.in_arena for t in tensors):
            raise RuntimeError("to: the parameters already live in an arena; convert before making the optimizer")
        for t in tensors:
            if dtype is not None and kind(t.dtype) == "f":
                t.data = astype(t.data, dtype)
            if device is not None:
                t.data = to_device(t.data, device)
            leaf = getattr(t, "leaf", t.node)
            if leaf is not None:
                leaf.dtype, leaf.stale, leaf.grad = t.data.dtype, True, None
        return self

    def half(self):
        """Convert to float16, see `to`."""
        return self.to("float16")

    def bfloat16(self):
        """Convert to bfloat16, see `to`: torch tensors only."""
        return self.to("bfloat16")

    def float(self):
        """Convert to float32, see `to`."""
        return self.to("float32")

    def double(self):
        """Convert to float64, see `to`."""
        return self.to("float64")

    def compute_in(self, dtype):
        """Compute in "bfloat16" or "float16" from now on; of torch tensors, once an optimizer is made (RuntimeError).

        Parameters are kept in full precision beside their copies: see `Arena.compute_in`. Other floating buffers, and
        frozen parameters, get copies too; running statistics stay in full precision.
        """
        if getattr(self, "arena", None) is None:
            raise RuntimeError("compute_in: the parameters are in no arena yet; make the optimizer first")
        self.arena.compute_in(dtype)
        running = {id(getattr(m, name)) for m in self.modules() for name in m.running_statistics}
        for _, t, what in self._tensors():
            if what and t.node is None and kind(t.dtype) == "f" and id(t) not in running:
                t.use_compute_copy(astype(t.data, dtype))

    # --- the state -----------------------------------------------------------------------------------------------

    def state_dict(self, prefix=""):
        """A copy of every parameter and buffer as NumPy arrays, by torch.nn's names: {"fc1.weight": array, ...}."""
        return {prefix + path: np.array(to_numpy(t.master), order="C") for path, t in self._state().items()}

    def _state(self):
        """{name: tensor} of parameters and buffers; ValueError if two have one name."""
        found: dict = {}
        for path, t, what in self._tensors(tied=True):
            if what in ("parameter", "buffer") and found.setdefault(path, t) is not t:
                seen = f"{type(self).__name__}: two tensors have the name {path!r}"
                raise ValueError(f"{seen}: rename an attribute or a key")
        return found

    def load_state_dict(self, state, strict=True):
        """Overwrite every tensor from a dict as of `state_dict`, all or none; returns (missing_keys, unexpected_keys).

        Raises ValueError if names are not the same (with strict), shapes are not, or two names of one tensor have
        different values.
        """
        own = self._state()
        other = {
            path: t for path, t, owner, local in self._walk(shared=True)
            if isinstance(t, Tensor) and (t.node is None or isinstance(t.node, Leaf))
            and owner._buffers.get(local) is not False
        }  # fmt: skip
        known = {**other, **own}  # other names of shared modules, and tensors that were state when they were saved
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - known.keys())
        if strict and (missing or unexpected):
            raise ValueError(f"load_state_dict: missing {missing}, unexpected {unexpected}")
        given = {path: t for path, t in known.items() if path in state}
        first: dict = {}
        for path, t in given.items():
            ours, theirs = shape_of(t), shape_of(state[path])
            if ours != theirs:
                raise ValueError(f"load_state_dict: {path!r} has shape {ours} here, but {theirs} in the state")
            name = first.setdefault(id(t), path)
            if name == path:
                continue
            a, b = (to_numpy(unwrap(state[key])) for key in (name, path))
            if not ((a == b) | (a != a) & (b != b)).all():
                seen = f"{name!r} and {path!r} are one tensor here, and have different values in the state"
                raise ValueError(f"load_state_dict: {seen}: untie them, or leave one out with strict=False")
        for path, t in given.items():
            if not isinstance(t.node, Leaf | None):  # a buffer that holds a result
                t.data, t.node = xp[type(t.data)].array(t.data), None
            t.assign(state[path])
        return LoadResult(missing, unexpected)

    # --- as text -------------------------------------------------------------------------------------------------

    def extra_repr(self):
        """What `repr` says of this module besides its type: for subclasses."""
        return ""

    def __repr__(self):
        lines = [f"({path}): {module!r}".replace("\n", "\n  ") for path, module in self.named_children()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        extra = [self.extra_repr()] if self.extra_repr() else []
        return f"{type(self).__name__}(\n  " + "\n  ".join([*extra, *lines]) + "\n)"
