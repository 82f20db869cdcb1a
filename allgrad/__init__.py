"""A compact autograd that trains across MPI ranks or torch.distributed devices, to study batch size at scale.

import allgrad as ag                     # the engine: tensors, operations, derivatives
from allgrad import nn, optim            # layers and optimizers
from allgrad import ddp                  # ranks, logical shards, exact sums, checkpoints, the training loop
from allgrad import study                # the experiments behind `allgrad study`

x = ag.tensor([1.0, 2.0], requires_grad=True)
(x * x).sum().backward()
x.grad                                   # array([2., 4.])

Everything is loaded when it is first asked for: `allgrad --help` needs no NumPy.
"""

from allgrad import names  # first: another thread may be looking for what it finds

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allgrad import autograd as autograd, ddp as ddp, extend as extend, launch as launch
    from allgrad import nn as nn, optim as optim, study as study
    from allgrad.autograd import *  # noqa: F403

ROOMS = ("autograd", "ddp", "extend", "launch", "nn", "optim", "study")

if not TYPE_CHECKING:  # or a checker would take every name for one of these

    def __getattr__(name):
        if name == "__all__":
            return __dir__()
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("allgrad")
        if name in ROOMS:
            return importlib.import_module(f"allgrad.{name}")
        try:
            if name.startswith("__"):
                raise AttributeError
            value = getattr(importlib.import_module("allgrad.autograd"), name)
        except AttributeError:
            text = f"module 'allgrad' has no attribute {name!r}"
            raise AttributeError(text, name=name, obj=sys.modules[__name__]) from None
        globals()[name] = value
        return value


def __dir__():
    engine = vars(importlib.import_module("allgrad.autograd"))
    return sorted({*ROOMS, *(name for name, value in engine.items() if callable(value) and not name.startswith("_"))})
