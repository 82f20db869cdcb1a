"""`summary`: a network as a table of its modules, with their outputs, parameters and multiply-adds."""

import math
from contextlib import ExitStack

import numpy as np

from allgrad.autograd import random
from allgrad.autograd.arrays import full
from allgrad.autograd.engine import Leaf, Tensor, get_default_dtype, instrumented, no_grad, patched, shape_of
from allgrad.autograd.tools.count import PRODUCTS, multiply_adds
from allgrad.autograd.tools.table import table


def summary(model, *inputs, input_shape=None):
    """A table of a model's modules as text: name, type, shape of the output, parameters, multiply-adds; and totals.

    inputs: what the model is called with once, in evaluation mode and without recording, to see the shapes: arrays or
    tensors, or shapes such as (1, 3, 32, 32), of which zeros are made (integers if the model refuses floats);
    input_shape is another way to give one. Modules come in the order in which they were called, and those never called
    last; without inputs all come in the order of definition, without shapes. Parameters stand at the module that owns
    them, a tied one at the first. Frozen are tensors of the model that require no gradient. Multiply-adds are those of
    matmul, linear, einsum and convolutions inside a module, and not inside a module below it.
    """
    if not hasattr(model, "named_parameters"):
        raise TypeError(f"summary: describes an nn.Module, not {type(model).__name__}")
    given = [*inputs] if input_shape is None else [*inputs, tuple(input_shape)]
    modules = dict(model.named_modules())
    names = {id(module): path for path, module in modules.items()}
    trained, frozen = dict.fromkeys(modules, 0), dict.fromkeys(modules, 0)
    for path, t in [*model.named_parameters(), *model.named_buffers()]:
        owner = path
        while owner not in modules:
            owner = owner.rpartition(".")[0]
        (trained if isinstance(t.node, Leaf) else frozen)[owner] += math.prod(t.shape)
    outputs, work = _run(model, given, names) if given else ({}, {})
    rows = [("name", "type", "output", "parameters", "multiply-adds")]
    for path in [*outputs, *(path for path in modules if path not in outputs)]:
        indent = "  " * sum(path != above and f"{path}.".startswith(f"{above}." if above else "") for above in modules)
        own = f"{trained[path]:,}" + (f" + {frozen[path]:,} frozen" if frozen[path] else "")
        kind = type(modules[path]).__name__
        rows.append((indent + (path or "model"), kind, outputs.get(path, "-"), own, f"{work.get(path, 0):,}"))
    total, still = sum(trained.values()), sum(frozen.values())
    rows = [row if outputs else (*row[:2], row[3]) for row in rows]
    lines = table(rows, left=3 if outputs else 2).splitlines()
    lines.append("-" * max(map(len, lines)))
    lines.append(f"{total:,} parameters to train, {still:,} frozen, {total + still:,} in all")
    if outputs:
        lines.append(f"{sum(work.values()):,} multiply-adds in one forward pass")
    return "\n".join(lines)


def _run(model, given, names):
    """{path: shape of the output} in order of calling, and {path: multiply-adds}, of one forward pass."""
    like = next((t.data for t in model.parameters()), np.zeros((), get_default_dtype()))
    outputs: dict = {}
    work: dict = {}
    with ExitStack() as stack:
        for module in model.modules():
            stack.enter_context(patched("summary", module, training=False))
        try:
            _forward(model, [_zeros(x, like) for x in given], names, outputs, work)
        except (ValueError, TypeError, IndexError):
            if not any(map(_is_shape, given)):
                raise
            outputs, work = {}, {}
            _forward(model, [_zeros(x, like, "int64") for x in given], names, outputs, work)
    return outputs, work


def _is_shape(x):
    return isinstance(x, (tuple, list)) and all(isinstance(n, (int, np.integer)) for n in x)


def _zeros(x, like, dtype=None):
    if _is_shape(x):
        x = full(x, 0, like, dtype)
        return x if dtype else Tensor(x)
    return x


def _forward(model, inputs, names, outputs, work):
    running: list = []

    def noting(call):
        def noted(self, *args, **options):
            path = names.get(id(self))
            if path is None or running[-1:] == [path]:  # not of this model, or calling the class it extends
                return call(self, *args, **options)
            running.append(path)
            outputs.setdefault(path, "")
            try:
                y = call(self, *args, **options)
            finally:
                running.pop()
            outputs[path] = _shapes(y)
            return y

        return noted

    def counting(name, rule):
        def counted(*operands, **static):
            value, *vjps = rule(*operands, **static)
            if running and name in PRODUCTS:
                work[running[-1]] = work.get(running[-1], 0) + multiply_adds(name, value, operands, static)
            return value, *vjps

        return counted

    with ExitStack() as stack:
        for cls in {type(module) for module in model.modules()}:
            stack.enter_context(patched("summary", cls, __call__=noting(cls.__call__)))
        with no_grad(), random.keyed("summary"), instrumented("summary", counting):
            model(*inputs)


def _shapes(y):
    """The shape of a tensor, and those of tensors in tuples, lists and dicts."""
    if isinstance(y, dict):
        y = tuple(y.values())
    if isinstance(y, (tuple, list)):
        return ", ".join(_shapes(x) for x in y)
    return str(shape_of(y))
