"""What a captured function finds around it: its variables, and the modules and tensors that it can reach by them."""

import operator
from functools import partial
from inspect import getattr_static
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
    lists          the lists and dicts that the function names itself, with their values
    attributes     (object, name, value) of other attributes that it names, such as numbers, also of classes and modules
    values         what was found in all others, one after the other
    """

    def __init__(self, function):
        self.cells, self.places, self.names, self.holders = [], [], [], []
        self.lists, self.attributes = [], []
        self.seen, self.named, self.direct, self.classes = {}, set(), set(), []
        waiting = [function]
        while waiting and len(self.seen) < MOST_OBJECTS:
            x = waiting.pop()
            if id(x) not in self.seen:
                self.seen[id(x)] = x
                waiting.extend(self._around(x))
        self._note_classes()
        del self.seen, self.named, self.direct, self.classes
        self.values, self.held = [*self._now()], sum(map(len, self.holders))

    def unchanged(self):
        same = sum(map(len, self.holders)) == self.held and all(map(operator.is_, self._now(), self.values))
        return same and all(map(_same_list, self.lists)) and all(map(_same_attribute, self.attributes))

    def forget_changed(self):
        """Note no longer the lists, dicts and numbers that the function itself has changed, such as to count calls."""
        self.lists, self.attributes = [*filter(_same_list, self.lists)], [*filter(_same_attribute, self.attributes)]

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
            found += [*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()]
            if not own:
                self.named |= _names(x.__code__)
                found += [v for n in _names(x.__code__) if isinstance(v := x.__globals__.get(n), (type, ModuleType))]
                self.direct.update(id(v) for v in found if isinstance(v, (list, dict)))
            return found
        if isinstance(x, (list, tuple, dict)):
            values = x.values() if isinstance(x, dict) else x
            if id(x) in self.direct and len(x) <= LONGEST:
                self.lists.append((values, [*values]))
            return self._hold(values)
        if isinstance(x, (type, ModuleType)):
            self.classes.append(x)
            return ()
        if not hasattr(x, "__dict__") or isinstance(x, (Tensor, np.ndarray)):
            return ()
        if _is_module(x):
            return self._hold(vars(x).values(), always=True)
        self.classes.append(x)
        methods = [f for n in self.named if isinstance(f := getattr(type(x), n, None), FunctionType)]
        named = self.named.union(*[_names(f.__code__) for f in methods])
        self.direct.update(id(v) for name, v in vars(x).items() if name in named and isinstance(v, (list, dict)))
        held = [(name, v) for name, v in vars(x).items() if _counts(v)]
        self.attributes += [(x, name, v) for name, v in vars(x).items() if name in named and not _counts(v)]
        self._note(vars(x), [name for name, v in held if _is_module(v) or isinstance(v, (Tensor, FunctionType))])
        return [*methods, *[v for _, v in held]]

    def _note_classes(self):
        """Note what the functions name of classes and modules, and of objects what their classes have."""
        for x in self.classes:
            places = [x] if isinstance(x, ModuleType) else x.__mro__ if isinstance(x, type) else type(x).__mro__
            for name in self.named.intersection(chain(*map(vars, places))):
                if _is_plain(value := getattr_static(x, name)):
                    self.attributes.append((x, name, value))

    def _note(self, place, names):
        self.places += [place] * len(names)
        self.names += names

    def _hold(self, values, always=False):
        found = [v for v in islice(values, LONGEST) if _counts(v)]
        if always or (found and len(values) <= LONGEST):
            self.holders.append(values)
        return found


def _same_list(found):
    values, before = found
    return len(values) == len(before) and all(map(operator.is_, values, before))


def _same_attribute(found):
    owner, name, before = found
    return getattr(owner, name, None) is before


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


def _is_plain(x):
    """Whether x, of a class or a module of Python's, is a value: no method, property, class or module."""
    return not (callable(x) or hasattr(x, "__get__") or isinstance(x, ModuleType))


def _is_module(x):
    return hasattr(type(x), "named_parameters")


def _counts(x):
    """Whether x may lead to a module or a tensor: no number, text or array."""
    if isinstance(x, type):
        return False
    return isinstance(x, (Tensor, list, tuple, dict, MethodType)) or hasattr(x, "__dict__")
