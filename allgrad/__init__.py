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

import importlib
import os
from typing import TYPE_CHECKING, Any

from allgrad import names

if TYPE_CHECKING:
    from allgrad import ddp, launch
    from allgrad.autograd import *  # noqa: F403
    from allgrad.autograd import nn, optim
    from allgrad.launch import study

ROOMS = ("autograd", "ddp", "extend", "launch", "nn", "optim", "study")

HERE = os.path.dirname(os.path.abspath(__file__))
if not os.path.isdir(os.path.join(HERE, "autograd")):  # a checkout, where the parts lie beside this folder
    __path__.append(os.path.dirname(HERE))  # noqa: F405


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if name.startswith("__"):
        raise AttributeError(f"module 'allgrad' has no attribute {name!r}")
    if name in ROOMS:
        return importlib.import_module(f"allgrad.{name}")
    value = getattr(importlib.import_module("allgrad.autograd"), name)
    globals()[name] = value
    return value


def __dir__():
    engine = vars(importlib.import_module("allgrad.autograd"))
    return sorted({*ROOMS, *(name for name, value in engine.items() if callable(value) and not name.startswith("_"))})
