"""What a captured function finds around it: its variables, and the modules and tensors that it can reach by them."""

import operator
from functools import partial
from types import FunctionType, MethodType

import numpy as np

from allgrad.autograd.engine import Tensor

MOST_OBJECTS, LONGEST = 5000, 1000  # so many objects are looked at, and no longer lists


class Surroundings:
    """Notes which objects a function finds around it now; `unchanged` tells whether it would find the same ones again.

    cells    (cell, content) of the variables that it and the functions it calls close over
    names    (dict, name, value) of global variables that they name, and of attributes on the way to modules
    holders  (list or dict, its values): the attributes of modules, and lists and dicts of modules and tensors
    """

    def __init__(self, function):
        self.cells, self.names, self.holders = [], [], []
        self.seen = {}
        waiting = [function]
        while waiting and len(self.seen) < MOST_OBJECTS:
            x = waiting.pop()
            if id(x) not in self.seen:
                self.seen[id(x)] = x
                waiting.extend(self._around(x))
        del self.seen

    def unchanged(self):
        return (
            all(_content(cell) is content for cell, content in self.cells)
            and all(where.get(name) is value for where, name, value in self.names)
            and all(
                len(held) == len(values) and all(map(operator.is_, _values(held), values))
                for held, values in self.holders
            )
        )

    def _around(self, x):
        """Note what x holds; returns that."""
        if isinstance(x, MethodType):
            return x.__self__, x.__func__
        if isinstance(x, partial):
            return x.func, *x.args, *x.keywords.values()
        if isinstance(x, FunctionType):
            cells = [(cell, _content(cell)) for cell in x.__closure__ or ()]
            names = [name for name in _names(x.__code__) if name in x.__globals__]
            self.cells += cells
            self.names += [(x.__globals__, name, x.__globals__[name]) for name in names]
            found = [content for _, content in cells] + [x.__globals__[name] for name in names]
            return *found, *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()
        if isinstance(x, (list, tuple, dict)):
            values = tuple(_values(x))[:LONGEST]
            if len(x) <= LONGEST and any(map(_counts, values)):
                self.holders.append((x, values))
            return [v for v in values if _counts(v)]
        if not hasattr(x, "__dict__") or isinstance(x, (type, Tensor, np.ndarray)) or hasattr(x, "__spec__"):
            return ()
        if _is_module(x):
            self.holders.append((vars(x), tuple(vars(x).values())))
            return [v for v in vars(x).values() if _counts(v)]
        held = [(name, v) for name, v in vars(x).items() if _counts(v)]
        self.names += [(vars(x), name, v) for name, v in held if _is_module(v) or isinstance(v, (Tensor, FunctionType))]
        return [v for _, v in held]


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _names(code):
    """The names of variables and attributes in a function's code, and in that of the functions inside it."""
    return {*code.co_names}.union(*[_names(c) for c in code.co_consts if hasattr(c, "co_names")])


def _values(held):
    return held.values() if isinstance(held, dict) else held


def _is_module(x):
    return hasattr(type(x), "named_parameters")


def _counts(x):
    """Whether x may lead to a module or a tensor: no number, text or array."""
    if isinstance(x, type):
        return False
    return isinstance(x, (Tensor, list, tuple, dict, MethodType)) or hasattr(x, "__dict__")
