"""Parameters that a module keeps where its walk does not look: in sets, other objects, functions."""

import gc
import types

import numpy as np

from allgrad.autograd.engine import Tensor
from allgrad.autograd.engine.graph import Node

NOT_ENTERED = type, types.ModuleType, Node  # they lead to the whole program, or into the graph of a result


def hidden_parameters(module) -> dict:
    """{attribute: parameter} for those to be trained that are in no arena, and that `module.parameters()` lacks.

    What an attribute refers to is what Python's garbage collector would follow: elements, attributes, the variables of
    a closure, the arguments of a partial; and of functions also the global variables that are modules or parameters.
    """
    known = {id(p) for p in module.parameters()}
    seen = {id(m) for m in module.modules()}
    found: dict = {}
    for path, below in module.named_modules():
        attributes = [*vars(below).items()]
        for cls in type(below).__mro__:
            attributes += vars(cls).items() if cls.__module__ != Tensor.__module__ else ()
        for name, value in attributes:
            stack = [value] if name != "arena" else []
            while stack:
                value = stack.pop()
                if type(value) is Tensor:
                    if _to_be_trained(value) and id(value) not in known:
                        found.setdefault(f"{path}.{name}" if path else name, value)
                elif id(value) not in seen and not isinstance(value, NOT_ENTERED):
                    seen.add(id(value))
                    stack.extend(_referents(value))
    return found


def _to_be_trained(t):
    return hasattr(t, "leaf") and t.node is t.leaf and not t.leaf.in_arena


def _referents(value):
    if isinstance(value, types.FunctionType):
        variables = value.__globals__
        used = [variables[name] for name in value.__code__.co_names if name in variables]
        parts = value.__closure__, value.__defaults__, value.__kwdefaults__, vars(value)
        return [*filter(None, parts), *(x for x in used if type(x) is Tensor or hasattr(x, "named_parameters"))]
    if type(value) is np.ndarray:
        return value.ravel().tolist() if value.dtype.kind == "O" else []
    return gc.get_referents(value)
