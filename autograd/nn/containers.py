"""Modules that hold others, or parameters, in order or by name, as in torch. Plain lists and dicts do as well."""

from collections.abc import MutableMapping, MutableSequence

from allgrad.autograd.engine import Tensor
from allgrad.autograd.nn.module import Module, Parameter


class _Container(Module):
    """Has elements, whose places or keys are their names: "0.weight"; other attributes may be set beside them."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # like every module, and unlike a list

    def _named(self) -> dict:
        """{name: element}."""
        raise NotImplementedError

    def _attributes(self):
        return [
            *self._named().items(),
            *((name, x) for name, x in vars(self).items() if name not in ("layers", "names")),
        ]

    def _of_init(self, name):
        if name not in vars(self):
            cls = type(self).__name__
            raise AttributeError(f"{cls} has no elements yet: begin {cls}.__init__ with super().__init__()")
        return vars(self)[name]

    def __getattr__(self, name):
        if "layers" in vars(self) and name in self._named():
            return self._named()[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name, value):
        if "layers" in vars(self) and name in self._named():
            self._replace(name, value)
        else:
            super().__setattr__(name, value)

    def _replace(self, name, value):
        raise NotImplementedError

    def __len__(self):
        return len(self._of_init("layers"))

    def __iter__(self):
        return iter(self._of_init("layers"))


class _List(_Container, MutableSequence):
    """layers: the elements. names: theirs, or None if these are their places."""

    names: list | None = None

    def __init__(self, elements=()):
        self.layers = [self._element(x) for x in elements]

    def _element(self, x):
        return x

    def _named(self):
        layers = self._of_init("layers")
        return dict(zip(self.names or map(str, range(len(layers))), layers))

    def _replace(self, name, value):
        self[[*self._named()].index(name)] = value

    def __getitem__(self, i):
        return type(self)(self._of_init("layers")[i]) if isinstance(i, slice) else self._of_init("layers")[i]

    def __setitem__(self, i, value):
        self.layers[i] = [self._element(x) for x in value] if isinstance(i, slice) else self._element(value)

    def __delitem__(self, i):
        del self._of_init("layers")[i]
        self.names = None  # names are places again, as in torch

    def insert(self, index, value):
        """Put an element before the one of this place. Returns self."""
        if self.names is not None:
            self.names.insert(index, str(len(self)))
        self._of_init("layers").insert(index, self._element(value))
        return self

    def append(self, value):
        """Add an element at the end. Returns self."""
        return self.insert(len(self), value)

    def extend(self, values):
        """Add elements at the end. Returns self."""
        for value in list(values):
            self.append(value)
        return self

    def add_module(self, name, module):
        """Add an element of this name at the end, or replace the one that has it."""
        named = self._named()
        if name in named:
            return self._replace(name, module)
        self._check_new(name, module, Module)
        self.layers.append(module)
        self.names = None if name == str(len(named)) and self.names is None else [*named, name]


class ModuleList(_List):
    """A list of modules, named by position in it ("layers.0.weight"), as in torch. Plain lists do as well."""

    def __getitem__(self, i):
        return ModuleList(self._of_init("layers")[i]) if isinstance(i, slice) else self._of_init("layers")[i]

    def __add__(self, other):
        return ModuleList([*self, *other])


class ParameterList(_List):
    """A list of parameters, named by position in it, as in torch: tensors and arrays become parameters."""

    def _element(self, x):
        return x if isinstance(x, Parameter) else Parameter(x)


class Sequential(_List):
    """Modules applied one after the other; parameters are named by position ("0.weight"), as in torch.

    One dict instead of modules gives them names: Sequential({"fc": nn.Linear(2, 3)}).
    """

    def __init__(self, *layers):
        named = layers[0] if len(layers) == 1 and isinstance(layers[0], dict) else None
        super().__init__(layers if named is None else ())
        for name, layer in (named or {}).items():
            self.add_module(name, layer)

    def _element(self, x):
        if not callable(x):
            raise TypeError(
                f"Sequential: applies modules, got a {type(x).__name__}: write Sequential(*modules) for a list"
            )
        return x

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def __getitem__(self, i):
        if isinstance(i, slice) and self.names is not None:
            return Sequential(dict(list(self._named().items())[i]))
        return Sequential(*self._of_init("layers")[i]) if isinstance(i, slice) else self._of_init("layers")[i]

    def __add__(self, other):
        return Sequential(*self, *other)


class _Dict(_Container, MutableMapping):
    """layers: {key: element}."""

    def __init__(self, elements=()):
        self.layers = {}
        self.update(elements)

    def _named(self):
        return self._of_init("layers")

    def _replace(self, name, value):
        self[name] = value

    def __getitem__(self, key):
        return self._of_init("layers")[key]

    def __setitem__(self, key, value):
        if not isinstance(key, str) or key == "" or "." in key:
            raise KeyError(f"{type(self).__name__}: a key is a name, a string without dots, got {key!r}")
        self._of_init("layers")[key] = self._element(value)

    def _element(self, x):
        return x

    def __delitem__(self, key):
        del self._of_init("layers")[key]


class ModuleDict(_Dict):
    """Modules by name ("heads.left.weight"), as in torch. Plain dicts do as well."""

    def add_module(self, name, module):
        """Add or replace the module of this name."""
        self[name] = module


class ParameterDict(_Dict):
    """Parameters by name, as in torch: tensors become parameters, other values stay as they are."""

    def _element(self, x):
        return Parameter(x) if type(x) is Tensor and not isinstance(x, Parameter) else x
