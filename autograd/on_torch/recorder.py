"""Recording what torch computes for a function, as a list of steps that compute it again.

While a function is recorded, torch reports every call of its own that has a tensor among its arguments, or makes one
(`torch.overrides.TorchFunctionMode`): operators, kernels, and what reads of a tensor. Each is noted as a step: a line
of Python. Values that NumPy takes from a tensor of the CPU, such as labels to look at, are `Recorded` arrays, which
report likewise. What `torch.relu(x @ w)` becomes, with names that are easier to read:

    a2 = matmul(a0, w)
    a3 = relu(a2)
"""

import operator
import weakref
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from allgrad.autograd.arrays import INTO_AN_ARRAY
from allgrad.autograd.engine import Tensor
from allgrad.autograd.replay.recorded import Recorded, as_plain
from allgrad.autograd.replay.steps import ACCUMULATE, check_decision
from allgrad.autograd.replay.structures import arrays_of, map_arrays, memory_owner
from allgrad.autograd.replay.watch import Watch

METADATA = {
    "__get__", "size", "stride", "dim", "ndimension", "numel", "nelement", "element_size", "storage_offset",
    "is_contiguous", "is_floating_point", "is_complex", "is_signed", "__len__", "get_device", "type", "result_type",
    "promote_types", "can_cast", "is_same_size", "__hash__", "is_pinned", "broadcast_shapes",
}  # fmt: skip
KINDS = torch.device, torch.dtype, torch.layout, torch.memory_format
SIZED_BY_VALUES = {
    "nonzero", "argwhere", "unique", "unique_consecutive", "masked_select", "bincount", "histogram",
}  # fmt: skip
RANDOM = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "bernoulli_",
    "multinomial", "normal", "normal_", "uniform_", "random_", "exponential_", "geometric_", "cauchy_", "log_normal_",
    "poisson", "dropout", "native_dropout", "rrelu",
}  # fmt: skip
TO_PYTHON = {
    "item", "tolist", "__int__", "__float__", "__index__", "__complex__", "__format__", "__repr__", "__contains__",
    "__array__", "__dlpack__", "data_ptr", "equal", "allclose", "is_nonzero",
}  # fmt: skip
BOOLEANS = torch.bool, np.dtype(bool)
CHANGE_FIRST = operator.setitem, np.copyto, np.ndarray.fill, np.ndarray.sort, np.ndarray.put  # functions of NumPy


class Step(NamedTuple):
    """One call of a replay, as a line of Python in which `a7` is the array of number 7 and `c70` a constant.

    uses     the numbers of the arrays that it is given
    makes    the numbers of what it returns: of one array, or of the arrays in a tuple (None of what is no array); None
             if nothing that it returns is new
    outside  the arrays that it is given from outside of the recording, such as parameters
    """

    source: str
    uses: set
    makes: Any
    outside: list


class TorchRecorder(Watch, TorchFunctionMode):
    """Runs a function of torch's tensors and records what it computes.

    steps           in the order of the computation
    first_delivery  the number of the first step that delivers a gradient, or None
    numbers         {id: (number, array)} of the inputs, and of the arrays that steps have made
    constants       {name in a step: what it stands for}
    made            weak references to the arrays that steps have made
    own             addresses of the memory that was allocated while recording
    leaves          those that gradients are delivered to, in this order
    changed         addresses of the memory that steps change
    addresses       {number: address} of arrays
    """

    def __init__(self):
        Watch.__init__(self)
        TorchFunctionMode.__init__(self)
        self.steps: list = []
        self.first_delivery: int | None = None
        self.numbers: dict = {}
        self.constants: dict = {}
        self.made: list = []
        self.own: set = set()
        self.leaves: list = []
        self.changed: set = set()
        self.addresses: dict = {}

    def run(self, function, inputs):
        for x in inputs:
            self._number(x)
        return super().run(function, inputs)

    @contextmanager
    def reporting(self):
        with super().reporting(), self:
            yield

    def is_array(self, x):
        return isinstance(x, (np.ndarray, torch.Tensor))

    def is_made(self, x):
        return id(x) in self.numbers

    def may_change(self, x):
        """Whether an array from outside may have other values in a later replay."""
        return True

    def alive(self):
        return any(made() is not None for made in self.made)

    def forget(self):
        """Let go of all arrays, so that `alive` tells which of them the function has kept."""
        self.numbers.clear()

    # --- what torch reports ----------------------------------------------------------------------------------------

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", str(func)).split(".")[0]
        if name == "__bool__":
            return self.decide(args[0])
        if name == "__iter__":
            return iter(self.__torch_function__(torch.unbind, types, args))
        self._refuse(name, args)
        changed = _changed_by(func, name, args, kwargs)
        if changed is not None:
            self._writes(changed)
        given = [x for x in arrays_of((args, kwargs)) if isinstance(x, torch.Tensor)]
        versions = [x._version for x in given]
        plain_args, plain_kwargs = map_arrays(as_plain, (args, kwargs))
        result = func(*plain_args, **plain_kwargs)
        if changed is None and versions != [x._version for x in given]:
            self.refuse(f"changes a tensor by torch's {name}")
        if changed is not None or result is None:
            self.add_step(func, args, kwargs)
            return result
        if not isinstance(result, (torch.Tensor, np.ndarray, tuple, list, *KINDS)) and name not in METADATA:
            self.refuse(f"takes a Python {type(result).__name__} from torch's {name}")
        if isinstance(result, np.ndarray) and name == "numpy":
            result = result.view(Recorded)
        return self._noted(func, args, kwargs, result)

    def _refuse(self, name, args):
        by_mask = name == "__getitem__" and any(getattr(i, "dtype", None) in BOOLEANS for i in arrays_of([args[1]]))
        repeats = name == "repeat_interleave" and bool(arrays_of(args[1:]))
        if name in SIZED_BY_VALUES or (name == "where" and len(args) == 1) or by_mask or repeats:
            self.refuse(f"takes from torch's {name} a result whose shape depends on values")
        if name in RANDOM:
            self.refuse(f"draws random numbers by torch's {name}, and not from the stream in force")
        if name in TO_PYTHON:
            self.refuse(f"takes values as Python numbers ({name})")
        if name == "__set__":
            self.refuse("sets an attribute of a tensor")
        if name in ("batch_norm", "instance_norm"):
            self.refuse(f"moves running statistics by torch's {name}, unseen")

    def _noted(self, function, args, kwargs, result):
        """The result, once the step is noted that computes it; none is needed of an argument, or of no array."""
        found = result if isinstance(result, (tuple, list)) and not isinstance(result, torch.Size) else [result]
        given, new = arrays_of((args, kwargs)), arrays_of(found)
        if not new or any(x is y for x in new for y in given):
            return result
        source, uses, outside = self._call(function, args, kwargs)
        self.own |= {*map(_address, new)} - {*map(_address, given)}
        makes = [self._number(x) if isinstance(x, (torch.Tensor, np.ndarray)) else None for x in found]
        self.made += map(weakref.ref, new)
        self.steps.append(Step(source, uses, makes if found is result else makes[0], outside))
        return result

    def _writes(self, x):
        """Refuse a change of what the function has not made, but for the arrays of constant tensors."""
        address = _address(x)
        self.changed.add(address)
        if address in self.own or address in map(_address, self.effects.arrays):
            return
        constant = self.constant_with(lambda data: _address(data) == address)
        if constant is None:
            self.refuse("writes to an array made elsewhere that is no constant tensor's")
        self.effects.add(constant)

    # --- what NumPy reports, of values that it took from a tensor --------------------------------------------------

    def compute(self, function, args, kwargs, out=None):
        kwargs = kwargs if out is None else {**kwargs, "out": out}
        changed = args[0] if function in CHANGE_FIRST else out
        if changed is not None:
            self._writes(changed)
        plain_args, plain_kwargs = map_arrays(as_plain, (args, kwargs))
        result = function(*plain_args, **plain_kwargs)
        if changed is None and result is None:
            self.changed |= {*map(_address, arrays_of(args))}
        if changed is not None or result is None:
            self.add_step(function, args, kwargs)
            return out
        if isinstance(result, (tuple, list)):
            self.refuse(f"computes numpy's {getattr(function, '__name__', function)}, which has several results")
        if not isinstance(result, (np.ndarray, np.generic)):
            return result
        shown = np.asarray(result).view(Recorded)
        shown.is_number = isinstance(result, np.generic)
        return self._noted(function, args, kwargs, shown)

    def allocate(self, shape, dtype):
        """A new array, which a step is to fill."""
        return self._noted(np.empty, (shape, dtype), {}, np.empty(shape, dtype).view(Recorded))

    # --- steps -----------------------------------------------------------------------------------------------------

    def decide(self, x):
        """The truth of an array, for which alone the steps recorded from here on hold."""
        if self.first_delivery is not None:
            self.refuse("decides by a value after gradients have arrived")
        outcome = bool(as_plain(x))
        self.add_step(check_decision, (x, outcome))
        return outcome

    def accumulate(self, leaf, g):
        if self.first_delivery is None:
            self.first_delivery = len(self.steps)
        self.leaves.append(leaf)
        self.add_step(ACCUMULATE, (leaf, g))

    def add_step(self, function, args, kwargs=None):
        """Append a step that returns nothing new."""
        source, uses, outside = self._call(function, args, kwargs or {})
        self.steps.append(Step(source, uses, None, outside))

    def _call(self, function, args, kwargs):
        """(source, uses, outside) of a step that is this call."""
        uses: set = set()
        given = [self.source(x, uses) for x in args] + [f"{k}={self.source(x, uses)}" for k, x in kwargs.items()]
        name = "deliver" if function is ACCUMULATE else self._constant(function)
        return f"{name}({', '.join(given)})", uses, [x for x in arrays_of((args, kwargs)) if id(x) not in self.numbers]

    def source(self, x, uses):
        """What stands for x in a line of Python; adds the numbers of the arrays in it to `uses`."""
        if isinstance(x, (torch.Tensor, np.ndarray)) and id(x) in self.numbers:
            number, _ = self.numbers[id(x)]
            uses.add(number)
            return f"a{number}"
        if type(x) is Recorded:
            self.refuse("computes with NumPy what it does not report")
        if type(x) in (tuple, list):
            parts = "".join(f"{self.source(part, uses)}, " for part in x)
            return f"({parts})" if type(x) is tuple else f"[{parts}]"
        if type(x) is dict:
            return "{" + "".join(f"{self._constant(k)}: {self.source(part, uses)}, " for k, part in x.items()) + "}"
        if type(x) in INTO_AN_ARRAY:
            given = [self.source(getattr(x, name), uses) for name in ("x", "g") if hasattr(x, name)]
            return f"{self._constant(type(x))}({', '.join(given)})"
        if type(x) is Tensor:
            return f"{self._constant(Tensor)}({self.source(x.data, uses)})"
        if type(x) is slice and arrays_of([x.start, x.stop, x.step]):
            self.refuse("takes values as Python numbers (slice)")
        return repr(x) if x is None or type(x) in (bool, int, str) else self._constant(x)

    def _constant(self, x):
        name = f"c{id(x)}"  # which nothing else gets, as `constants` keeps x
        self.constants[name] = x
        return name

    def _number(self, x):
        """The number of an array that is new."""
        number = len(self.numbers)
        self.numbers[id(x)] = number, x
        self.addresses[number] = _address(x)
        return number


def _changed_by(function, name, args, kwargs):
    """The array that a function of torch changes in place, as its name or its schema tells; None if it changes none."""
    if kwargs.get("out") is not None:
        return kwargs["out"]
    by_name = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
    by_schema = getattr(getattr(function, "_schema", None), "is_mutable", False)
    return args[0] if by_name or by_schema else None


def _address(x):
    """Where the memory begins that the elements of an array lie in."""
    if isinstance(x, torch.Tensor):
        return x.untyped_storage().data_ptr()
    return memory_owner(x).__array_interface__["data"][0]
