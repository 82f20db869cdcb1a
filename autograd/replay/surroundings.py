"""What a captured function finds around it: its variables, and the modules and tensors that it can reach by them."""

import operator
from functools import partial
from itertools import chain, islice
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from allgrad.autograd.engine import Tensor

MOST_OBJECTS, LONGEST = 5000, 1000  # so many objects are looked at, and no longer lists


class Surroundings:
    """Notes which objects a function finds around it now; `unchanged` tells whether it would find the same ones again.

    cells          of the variables that it and the functions it calls close over
    places, names  the dicts and names of global variables that they name, and of attributes on the way to modules
    holders        the attributes of modules, lists and dicts of modules and tensors: live views of their values
    values         what was found in all of them, one after the other
    """

    def __init__(self, function):
        self.cells, self.places, self.names, self.holders = [], [], [], []
        self.seen = {}
        waiting = [function]
        while waiting and len(self.seen) < MOST_OBJECTS:
            x = waiting.pop()
            if id(x) not in self.seen:
                self.seen[id(x)] = x
                waiting.extend(self._around(x))
        del self.seen
        self.values, self.held = [*self._now()], sum(map(len, self.holders))

    def unchanged(self):
        return sum(map(len, self.holders)) == self.held and all(map(operator.is_, self._now(), self.values))

    def _now(self):
        return chain(map(_content, self.cells), map(dict.get, self.places, self.names), *self.holders)

    def _around(self, x) -> Any:
        """Note what x holds; returns that."""
        if isinstance(x, MethodType):
            return x.__self__, x.__func__
        if isinstance(x, partial):
            return x.func, *x.args, *x.keywords.values()
        if isinstance(x, FunctionType):
            module = x.__globals__.get("__name__", "")
            if module.startswith("allgrad.autograd."):
                return ()
            cells = x.__closure__ or ()
            self.cells += cells
            own = module.startswith("allgrad.")
            names = [] if own else [n for n in _names(x.__code__) if not _is_fixed(x.__globals__.get(n))]
            self._note(x.__globals__, names)
            found = [*map(_content, cells), *[x.__globals__[name] for name in names]]
            return *found, *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()
        if isinstance(x, (list, tuple, dict)):
            return self._hold(x.values() if isinstance(x, dict) else x)
        if not hasattr(x, "__dict__") or isinstance(x, (type, ModuleType, Tensor, np.ndarray)):
            return ()
        if _is_module(x):
            return self._hold(vars(x).values(), always=True)
        held = [(name, v) for name, v in vars(x).items() if _counts(v)]
        self._note(vars(x), [name for name, v in held if _is_module(v) or isinstance(v, (Tensor, FunctionType))])
        return [v for _, v in held]

    def _note(self, place, names):
        self.places += [place] * len(names)
        self.names += names

    def _hold(self, values, always=False):
        found = [v for v in islice(values, LONGEST) if _counts(v)]
        if always or (found and len(values) <= LONGEST):
            self.holders.append(values)
        return found


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _names(code):
    """The names of variables and attributes in a function's code, and in that of the functions inside it."""
    return {*code.co_names}.union(*[_names(c) for c in code.co_consts if hasattr(c, "co_names")])


def _is_fixed(x):
    return x is None or isinstance(x, (type, ModuleType))


def _is_module(x):
    return hasattr(type(x), "named_parameters")


def _counts(x):
    """Whether x may lead to a module or a tensor: no number, text or array."""
    if isinstance(x, type):
        return False
    return isinstance(x, (Tensor, list, tuple, dict, MethodType)) or hasattr(x, "__dict__")
