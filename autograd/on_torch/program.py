"""Captured functions of torch's tensors: what was recorded, as one function of Python without a branch or a loop.

A replay calls the functions of torch that the recorder saw, one after the other, on new inputs. No graph is built, no
Python code of the model runs, and the bits are those of the function itself. Of `loss = ag.mse_loss(x @ w, y)` and its
backward the replay is about

    def replay(deliver, instead, a0, a1):
        try:
            a2 = matmul(a0, w)
            a3 = sub(a2, a1)
            ...
        except FAILURES:
            return instead()
        deliver(leaf, a9)
        return Tensor(a5)
"""

import torch

from allgrad.autograd.on_torch.recorder import TorchRecorder
from allgrad.autograd.replay.program import Program
from allgrad.autograd.replay.steps import ACCUMULATE, DecisionChanged
from allgrad.autograd.replay.structures import copy_grad

FAILURES = DecisionChanged, IndexError, RuntimeError  # torch raises the last for indices out of bounds, too


class TorchProgram(Program):
    """A program for tensors of torch, computed by the function `code`."""

    recorder = TorchRecorder

    def first_inputs(self, arrays):
        return list(arrays)

    def copy(self, a):
        return a.clone()

    def has_changed(self, a, before):
        return not torch.equal(a, before)

    def assemble(self, recorder, result):
        used: set = set()
        returned = recorder.source(result, used)
        steps, read = _needed(recorder.steps, used)
        fixed, steps = _fixed(steps, recorder)
        inputs = range(len(self.inputs))
        self.code = compiled(fixed, steps, inputs, returned, used, recorder)
        recorder.forget()
        return read & {*inputs}

    def take(self, arrays):
        self.inputs = arrays

    def collect(self):
        got = []
        return got, self.code(lambda leaf, g: got.append(copy_grad(leaf, g)), _raise, *self.inputs)

    def replay(self):
        self.running = True
        if self.effects:
            self.effects.note()
        try:
            return self.code(ACCUMULATE, self._instead, *self.inputs)
        finally:
            self.running = False

    def _instead(self):
        if self.effects:
            self.effects.restore()
        return self.function(*self.inputs)


def _raise():
    raise  # the failure that is being handled


def _needed(steps, used):
    """The steps without those that make only what nothing uses, as (number, step); and all that they use."""
    used, kept = {*used}, []
    for i in reversed(range(len(steps))):
        makes = steps[i].makes
        if makes is None or not used.isdisjoint(_listed(makes)):
            used |= steps[i].uses
            kept.append((i, steps[i]))
    return kept[::-1], used


def _fixed(steps, recorder):
    """Two lists of steps: those that compute the same in each replay, which are done once, and the others."""
    fixed, others, known = [], [], set()
    for i, step in steps:
        makes = set(_listed(step.makes))
        changed = any(recorder.addresses[n] in recorder.changed for n in makes)
        if makes and step.uses <= known and not changed and not any(map(recorder.may_change, step.outside)):
            known |= makes
            fixed.append(step)
        else:
            others.append((i, step))
    return fixed, others


def compiled(fixed, steps, inputs, returned, used, recorder):
    """The function replay(deliver, instead, *inputs) of steps (number, step), which returns what `returned` says.

    deliver(leaf, g)  takes a gradient
    instead()         is called and returned if a step before the first that delivers fails
    """
    places = {**recorder.constants, "FAILURES": FAILURES}
    exec("\n".join(map(_assignment, fixed)), places)
    first_delivery = recorder.first_delivery
    local = {*inputs}.union(*(_listed(step.makes) for _, step in steps))
    last = {n: i for i, step in steps for n in (step.uses | {*_listed(step.makes)}) & local}
    before, after = ["pass"], []
    for i, step in steps:
        lines = after if first_delivery is not None and i >= first_delivery else before
        lines.append(_assignment(step))
        if over := [f"a{n}" for n in step.uses | {*_listed(step.makes)} if last.get(n) == i and n not in used]:
            lines.append(f"del {', '.join(sorted(over))}")
    given = ", ".join(["deliver", "instead", *(f"a{n}" for n in inputs)])
    body = ["try:", *(f"    {line}" for line in before), "except FAILURES:", "    return instead()", *after]
    source = "\n    ".join([f"def replay({given}):", *body, f"return {returned}"])
    exec(compile(source, "<replay>", "exec"), places)
    return places["replay"]


def _listed(makes):
    return [n for n in (makes if isinstance(makes, list) else [makes]) if n is not None]


def _assignment(step):
    if step.makes is None:
        return step.source
    many = isinstance(step.makes, list)
    names = "".join("_, " if n is None else f"a{n}, " for n in step.makes) if many else f"a{step.makes}"
    return f"{names} = {step.source}"
