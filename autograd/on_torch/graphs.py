"""Captured functions of tensors on a CUDA device: the kernels of a replay, launched as one CUDA graph.

A step of training launches hundreds of kernels, and the host takes longer to ask for a small one than the device to
compute it. A graph asks for all of them at once. What it holds are kernels and addresses: arguments are copied into
tensors that it reads, gradients and results are copied out of tensors that it writes. Whatever the host has to know a
value for, or makes itself, cannot be part of it and is refused: decisions by values, copies from or to the host, random
numbers drawn there. Dropout draws by the device's default generator, which the stream in force seeds before each replay
(`random.seed_device`), so that a replay has the bits of the function itself.

`TorchProgram` has found out what a replay computes; here its kernels are captured, and compared with the function.
"""

import threading
from typing import Any

import torch

from allgrad.autograd import random
from allgrad.autograd.on_torch import namespace
from allgrad.autograd.on_torch.program import TorchProgram
from allgrad.autograd.on_torch.recorder import TorchRecorder
from allgrad.autograd.replay.effects import Effects
from allgrad.autograd.replay.program import PROGRAM_OF
from allgrad.autograd.replay.steps import ACCUMULATE
from allgrad.autograd.replay.structures import arrays_of, copy_grad, copy_of, map_arrays
from allgrad.autograd.replay.watch import CannotReplay

WARM_UPS = 2  # calls on the stream of the capture, in which libraries take their memory

# Graphs of one thread and device share memory: what one computes is copied out of it before the next one runs.
_pools: dict = {}


class DeviceEffects(Effects):
    """Effects of a function of tensors on a CUDA device, whose default generator it may draw from.

    like  a tensor of the device
    """

    like: torch.Tensor

    def note(self):
        super().note()
        random.seed_device(self.like)
        self.generator: Any = namespace.generator_on(self.like.device)
        self.state = self.generator.get_state()

    def restore(self):
        super().restore()
        self.generator.set_state(self.state)


class DeviceRecorder(TorchRecorder):
    """Runs a function of tensors on a CUDA device and records what it computes, if a graph can hold that.

    draws  whether it draws by the device's generator
    """

    draws_itself = frozenset({"native_dropout"})

    def __init__(self):
        super().__init__()
        self.effects, self.draws = DeviceEffects(), False

    def run(self, function, inputs):
        self.effects.like = inputs[0]
        return super().run(function, inputs)

    def may_change(self, x):
        return x.is_cuda if isinstance(x, torch.Tensor) else False

    def decide(self, x):
        self.refuse("decides by a value, for which the host would wait")

    def _draw(self, *key):
        self.refuse("draws random numbers on the host")

    def _noted(self, function, args, kwargs, result):
        if any(map(_on_device, arrays_of((args, kwargs)))) and not all(map(_on_device, arrays_of([result]))):
            self.refuse("copies values to the host, which would wait for them")
        return super()._noted(function, args, kwargs, result)

    def _refuse(self, name, args):
        if name in self.draws_itself:
            self.draws = True
        else:
            super()._refuse(name, args)


def _on_device(x):
    return isinstance(x, torch.Tensor) and x.is_cuda


class GraphProgram(TorchProgram):
    """A program for tensors on a CUDA device, of which all kernels are one graph."""

    recorder = DeviceRecorder

    def first_inputs(self, arrays):
        return [a.clone() for a in arrays]

    def prepare(self):
        self.recorder().run(self.function, self.inputs)  # in which what is made once, and kept, is made

    def assemble(self, recorder, result):
        self.draws, self.leaves = recorder.draws, recorder.leaves
        self.graph = None
        self.buffers = self._buffers()
        self.overwrites = all(self.buffers) and len({*self.leaves}) == len(self.leaves)
        super().assemble(recorder, result)
        return {*range(len(self.inputs))}  # of what no kernel reads, nobody could know that it has changed

    def _buffers(self):
        """Whether each gradient may overwrite an array, for which some are computed in another form."""
        return [leaf.stale and leaf.grad is not None for leaf in self.leaves]

    def is_current(self):
        return super().is_current() and self.buffers == self._buffers()

    def take(self, arrays):
        for held, a in zip(self.inputs, arrays):
            held.copy_(a, non_blocking=True)

    def collect(self):
        self._run_graph()
        return [copy_of(g) for g in self.gradients], self.result

    def replay(self):
        self.running = True
        try:
            self._run_graph()
            self._deliver()
            return map_arrays(copy_of, self.result)
        finally:
            self.running = False

    def _run_graph(self):
        self.graph = self.graph or self._capture()
        if self.draws:
            random.seed_device(self.inputs[0])
        self.graph.replay()

    def _deliver(self):
        """Hand the gradients to the leaves: by one call if they overwrite what is there."""
        if not self.overwrites:
            for leaf, g in zip(self.leaves, self.gradients):
                ACCUMULATE(leaf, g)
            return
        torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
            [leaf.grad for leaf in self.leaves], self.gradients
        )
        for leaf in self.leaves:
            leaf.stale = False
        for leaf in self.leaves:
            if leaf.hook is not None:
                leaf.hook(leaf)

    def _capture(self):
        """A graph of the kernels of a replay, captured without effect."""
        device = self.inputs[0].device
        place = threading.get_ident(), device.index
        if place not in _pools:
            _pools[place] = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream(device)
        with self.effects.undone():
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self.code(lambda leaf, g: None, _no_other_way, *self.inputs)
            torch.cuda.current_stream(device).wait_stream(stream)
        self.gradients, graph = [], torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=_pools[place], stream=stream, capture_error_mode="thread_local"):
                self.result = self.code(self._keep, _no_other_way, *self.inputs)
        except RuntimeError as error:
            raise CannotReplay(f"cannot be captured: a CUDA graph cannot hold this function: {error}") from None
        return graph

    def _keep(self, leaf, g):
        self.gradients.append(copy_grad(leaf, g))


def _no_other_way():
    raise  # the failure that is being handled


def program_of(function, arrays):
    """The program of a function of tensors that are all on one device."""
    return (GraphProgram if arrays[0].is_cuda else TorchProgram)(function, arrays)


PROGRAM_OF[namespace] = program_of
