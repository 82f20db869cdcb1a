"""Module: an object whose parameters and sub-modules are its attributes; ModuleList and Sequential."""

import numpy as np

from allgrad.autograd.arrays import astype, is_torch, kind, to_device, to_numpy, xp
from allgrad.autograd.engine import Leaf, Tensor, get_default_dtype, shape_of, unwrap


def Parameter(data, dtype=None, name="parameter"):
    """A tensor to be trained: a leaf that requires a gradient.

    data: numbers, lists or an array, copied in its memory order. dtype: floating, the default dtype if None.
    """
    data, dtype = unwrap(data), dtype or get_default_dtype()
    array = xp[type(data)].array(data, dtype) if is_torch(data) else np.array(data, dtype=dtype, order="K")
    return Tensor(array, Leaf(name, array.shape, array.dtype))


class Module:
    """Base of layers and networks: `__init__` sets attributes, and `__call__` (or `forward`) computes.

        class Net(nn.Module):
            def __init__(self):
                self.hidden, self.out = nn.Linear(64, 32), nn.Linear(32, 10)     # no super().__init__() is needed

            def __call__(self, x):
                return self.out(ag.relu(self.hidden(x)))

    Parameters are found by walking the attributes in the order they were set, through sub-modules, lists, tuples and
    dicts; a tensor reached by two paths counts once, under its first name. Names are attribute paths: "hidden.weight".
    Constant tensors are buffers: part of the state, and not trained. `running_statistics` names the buffers that a
    call changes in training, such as running averages: data-parallel training averages their changes over the shards.
    """

    training = True
    running_statistics: tuple[str, ...] = ()

    def __call__(self, *inputs, **options):
        if not hasattr(self, "forward"):
            raise TypeError(f"{type(self).__name__} defines no __call__(self, x)")
        return self.forward(*inputs, **options)  # pyright: ignore[reportAttributeAccessIssue]

    def named_children(self):
        """Pairs (attribute name, value): where parameters and sub-modules are looked for."""
        return vars(self).items()

    def _walk(self, tied=False):
        """All (path, Module or Tensor), this module first: each once, or if `tied` tensors by each of their paths."""
        seen = set()
        stack: list = [("", self)]
        while stack:
            path, value = stack.pop()
            if isinstance(value, Module):
                children = value.named_children()
            elif isinstance(value, (list, tuple)):
                children = enumerate(value)
            elif isinstance(value, dict):
                children = value.items()
            else:
                children = ()
            if isinstance(value, (Module, Tensor)):
                if id(value) in seen:
                    if tied and isinstance(value, Tensor):
                        yield path, value
                    continue
                seen.add(id(value))
                yield path, value
            below = [(f"{path}.{name}" if path else str(name), child) for name, child in children]
            stack.extend(reversed(below))

    def modules(self):
        """This module and all modules below it."""
        return (value for _, value in self._walk() if isinstance(value, Module))

    def named_parameters(self):
        """Pairs (name, parameter): the leaves that require a gradient."""
        return ((path, p) for path, p in self._walk() if isinstance(p, Tensor) and isinstance(p.node, Leaf))

    def parameters(self):
        """The parameters, in the order of `named_parameters`."""
        return (p for _, p in self.named_parameters())

    def named_buffers(self):
        """Pairs (name, tensor): the constants, such as running averages and frozen parameters."""
        return ((path, t) for path, t in self._walk() if isinstance(t, Tensor) and t.node is None)

    def buffers(self):
        """The constants, in the order of `named_buffers`."""
        return (t for _, t in self.named_buffers())

    def train(self, mode=True):
        """Set training mode here and below: dropout drops, batch norm uses the batch. Returns self."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """Set evaluation mode here and below. Returns self."""
        return self.train(False)

    def zero_grad(self):
        """Forget the gradients of all parameters, which are None from now on."""
        for p in self.parameters():
            p.node.reset()

    def to(self, dtype=None, device=None):
        """Convert parameters and floating buffers to a floating dtype, or move all tensors to a device. Returns self.

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
        if getattr(self, "arena", None) is not None:
            raise RuntimeError("to: the parameters already live in an arena; convert before making the optimizer")
        for t in (*self.parameters(), *self.buffers()):
            if dtype is not None and kind(t.dtype) == "f":
                t.data = astype(t.data, dtype)
            if device is not None:
                t.data = to_device(t.data, device)
            if t.node is not None:
                t.node.dtype, t.node.stale, t.node.grad = t.data.dtype, True, None
        return self

    def compute_in(self, dtype):
        """Compute in "bfloat16" or "float16" from now on; of torch tensors, once an optimizer is made (RuntimeError).

        Parameters are kept in full precision beside their copies: see `Arena.compute_in`. Other floating buffers, such
        as frozen parameters, get copies too; running statistics stay in full precision.
        """
        if getattr(self, "arena", None) is None:
            raise RuntimeError("compute_in: the parameters are in no arena yet; make the optimizer first")
        self.arena.compute_in(dtype)
        running = {id(getattr(m, name)) for m in self.modules() for name in m.running_statistics}
        for t in self.buffers():
            if kind(t.dtype) == "f" and id(t) not in running:
                t.use_compute_copy(astype(t.data, dtype))

    def state_dict(self):
        """A copy of every parameter and buffer as NumPy arrays, by torch.nn's names: {"fc1.weight": array, ...}."""
        return {path: np.array(to_numpy(t.master), order="C") for path, t in self._state().items()}

    def _state(self):
        """{name: tensor} of leaves and constants; tensors that an operation computed are no state."""
        tensors = {path: t for path, t in self._walk(tied=True) if isinstance(t, Tensor)}
        return {path: t for path, t in tensors.items() if t.node is None or isinstance(t.node, Leaf)}

    def load_state_dict(self, state):
        """Overwrite every tensor from a dict as of `state_dict`; ValueError if names or shapes are not the same."""
        own = self._state()
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unexpected:
            raise ValueError(f"load_state_dict: missing {missing}, unexpected {unexpected}")
        for path, t in own.items():
            ours, theirs = shape_of(t), shape_of(state[path])
            if ours != theirs:
                raise ValueError(f"load_state_dict: {path!r} has shape {ours} here, but {theirs} in the state")
        for path, t in own.items():
            t.assign(state[path])


class ModuleList(Module):
    """A list of modules, named by position in it ("layers.0.weight"), as in torch. Plain lists do as well."""

    def __init__(self, modules=()):
        self.layers = list(modules)

    def named_children(self):
        return [*enumerate(self.layers), *((name, x) for name, x in vars(self).items() if name != "layers")]

    def append(self, module):
        """Add a module at the end. Returns self."""
        return self.extend([module])

    def extend(self, modules):
        """Add modules at the end. Returns self."""
        self.layers.extend(modules)
        return self

    def __len__(self):
        return len(self.layers)

    def __iter__(self):
        return iter(self.layers)

    def __getitem__(self, i):
        return ModuleList(self.layers[i]) if isinstance(i, slice) else self.layers[i]

    def __setitem__(self, i, module):
        self.layers[i] = module


class Sequential(ModuleList):
    """Modules applied one after the other; parameters are named by position ("0.weight"), as in torch."""

    def __init__(self, *layers):
        super().__init__(layers)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def __getitem__(self, i):
        return Sequential(*self.layers[i]) if isinstance(i, slice) else self.layers[i]
