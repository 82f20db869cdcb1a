"""A CUDA graph in software, for the pretended device: operations are noted once, and computed again in the same memory.

While a real graph is captured nothing is computed. Here it is, to know shapes, but what was there before comes back,
and what was made holds nan until the first replay. What a real capture cannot hold is refused: a wait of the host, a
copy to or from it, an operation outside of the stream of the capture.
"""

import contextlib
from unittest import mock

import torch
from torch.utils._pytree import tree_leaves, tree_map

from tests.device import pretend, stand_ins


class NotPermitted(RuntimeError):
    """What a stream that is captured does not allow."""


class CUDAGraph:
    """`torch.cuda.CUDAGraph`."""

    def __init__(self):
        self.calls = []

    def replay(self):
        device = pretend.IN_FORCE[-1]
        device.launches["graph"] += 1
        for func, args, kwargs, made in self.calls:
            func = stand_ins.WITH_VALUES.get(func, func)
            found = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, torch.Tensor)]
            for x, now in zip(made, found):
                if x is not now and x.data_ptr() != now.data_ptr():
                    x.copy_(now)


@contextlib.contextmanager
def captured(graph, pool=None, stream=None, capture_error_mode="global"):
    """`torch.cuda.graph`."""
    device, usual, before = pretend.IN_FORCE[-1], pretend.Device.call, {}
    made_here: set = set()
    place = lambda x: x.untyped_storage().data_ptr()
    inside = lambda x: x.inner if type(x) is pretend.OnDevice else x

    def call(self, func, args, kwargs):
        given = [inside(x) for x in tree_leaves((args, kwargs)) if type(x) is pretend.OnDevice]
        if func._schema.is_mutable:
            for x in given:
                if place(x) not in made_here:
                    before.setdefault(place(x), (x, x.untyped_storage().clone()))
        waits = sum(self.waits.values()) + sum(self.copies.values())
        result = usual(self, func, args, kwargs)
        if sum(self.waits.values()) + sum(self.copies.values()) > waits:
            raise NotPermitted(f"operation not permitted when stream is capturing: {func}")
        made = [inside(x) for x in tree_leaves(result) if type(x) is pretend.OnDevice]
        if made or given:
            if self.timeline.current is not stream:
                raise NotPermitted(f"{func} is not on the stream that is captured")
            kwargs = {k: torch.device("cpu") if k == "device" else inside(v) for k, v in kwargs.items()}
            graph.calls.append((func, *tree_map(inside, (args, kwargs)), made))
            made_here.update(place(x) for x in made if all(place(x) != place(y) for y in given))
        return result

    state = torch.get_rng_state()
    with mock.patch.object(pretend.Device, "call", call), torch.cuda.stream(stream):
        stream.wait_stream(device.timeline.default)
        with mock.patch.object(torch.cuda, "is_current_stream_capturing", lambda: True):
            yield
    torch.set_rng_state(state)
    for x, values in before.values():
        x.untyped_storage().copy_(values)
    for *_, made in graph.calls:
        for x in made:
            if place(x) in made_here and x.is_floating_point():
                x.fill_(float("nan"))
    device.timeline.default.wait_stream(stream)


@contextlib.contextmanager
def graphs():
    """The context in which torch.cuda has graphs, on the device that is pretended."""
    with (
        mock.patch.object(torch.cuda, "CUDAGraph", CUDAGraph, create=True),
        mock.patch.object(torch.cuda, "graph", captured, create=True),
        mock.patch.object(torch.cuda, "graph_pool_handle", object, create=True),
    ):
        yield
