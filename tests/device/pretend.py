"""A pretended CUDA device, for a torch without CUDA: tensors that say "cuda:0" and compute on the CPU.

    with pretend() as device:
        x = torch.ones(3, device="cuda")
        y = (2.0 * x).sum()
        device.launches       # Counter({"mul": 1, "sum": 1, ...})
        float(y)
        device.waits          # Counter({("_local_scalar_dense", "FILE:LINE < ..."): 1})

Values are those of the CPU, bit for bit. Everything that this device is asked to do passes by `Device.call`, which

  * counts kernels, copies, and what makes the host wait, with the lines of the project that asked for it
  * refuses what CUDA refuses: tensors of host and device in one operation, kernels that are not deterministic where
    torch.use_deterministic_algorithms asks for such, and labels and indices out of range, which would end the context
  * refuses races between streams, and between the host and copies that are under way: see `streams`
  * follows how many bytes of device memory are in use, and raises torch.OutOfMemoryError beyond `memory`

pretend(values=False) computes shapes only: a model of any size is counted in seconds. What this cannot show: the
kernels' own limits of dtypes and layouts, their rounding, and how long they take.
"""

import contextlib
import ctypes
import re
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
import torch._dynamo  # a dispatch mode imports it at its first operation, while torch.Generator is another
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from allgrad.autograd.on_torch.namespace import TENSORS
from allgrad.autograd.ops.labels import _out_of_range
from tests.device import cuda_rules as rules, stand_ins, streams

aten = torch.ops.aten
ROOT = f"{Path(__file__).parents[2]}/"
PACKAGES = tuple(f"{ROOT}{name}/" for name in ("autograd", "ddp", "launch"))  # and no environment that lies beside them
PLACE = torch.device("cuda", 0)
GRAIN_BYTES = 512  # in which the caching allocator hands out memory
H200_BYTES = 139 << 30
NAMED_LINES = 3  # of the project, that are told for a wait


class Mixed(RuntimeError):
    """Tensors of the host and of the device in one operation."""


class NotDeterministic(RuntimeError):
    """A kernel whose sums are taken in any order."""


class Waited(RuntimeError):
    """The host waits for the device where that was ruled out."""


class DeviceAssert(RuntimeError):
    """A kernel stops itself, and with it everything that this process has on the device."""


class OnDevice(torch.Tensor):
    """A tensor that says it is on the device; `inner` has its values."""

    __slots__ = ("inner",)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        strides, offset = inner.stride(), inner.storage_offset()
        self = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=strides, storage_offset=offset, dtype=inner.dtype, device=PLACE
        )
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, func, kinds, args=(), kwargs=None):
        if not IN_FORCE:
            raise RuntimeError(f"{func} on a pretended device that is no more")
        with IN_FORCE[-1].timeline.lock:
            return IN_FORCE[-1].call(func, args, kwargs or {})

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self):
        return f"OnDevice({self.inner!r})"


class Device:
    """What the device was asked to do, since it was made or since `reset`.

    launches  {operation: kernels}
    waits     {(what, where): how often the host waited for all that the device was asked to do}
    behind    {(what, where): how often it waited for an event while the device had more to do, which then never idles}
    copies    {(what, where): copies that the host did not wait for}
    moved     {operation: bytes that its kernels read and write}
    flops     {operation: floating-point operations, of matrix products and convolutions}
    collectives   [(name, bytes given)] of torch.distributed
    live_bytes, peak_bytes   of device memory
    """

    def __init__(self, values=True, memory=H200_BYTES):
        self.inside = torch.device("cpu" if values else "meta")
        self.memory, self.live_bytes, self.peak_bytes = memory, 0, 0
        self.timeline = streams.Timeline(self.waited, self._is_behind)
        self._storages: dict = {}
        self._pinned: set = set()
        self._forbidden = False
        self.reset()

    def reset(self):
        """Count from here on."""
        self.launches, self.waits, self.behind, self.copies = Counter(), Counter(), Counter(), Counter()
        self.moved, self.flops, self.collectives = Counter(), Counter(), []
        self.peak_bytes = self.live_bytes

    @contextlib.contextmanager
    def no_waits(self):
        """Context in which `Waited` is raised where the host waits."""
        before, self._forbidden = self._forbidden, True
        try:
            yield
        finally:
            self._forbidden = before

    def waited(self, what):
        where = where_in_project()
        self.waits[what, where] += 1
        if self._forbidden:
            raise Waited(f"{what} makes the host wait for the device, at {where or 'a place outside the project'}")

    def _is_behind(self, what):
        self.behind[what, where_in_project()] += 1

    # --- one operation -------------------------------------------------------------------------------------------

    def call(self, func, args, kwargs):
        """Compute func(*args, **kwargs), an operation of torch that may have tensors of the device."""
        packet, name = func.overloadpacket, func._schema.name.split("::")[1]
        flat = tree_leaves((args, kwargs))
        given = [x for x in flat if type(x) is OnDevice]
        host = [x for x in flat if isinstance(x, torch.Tensor) and type(x) is not OnDevice]
        asked = kwargs.get("device")
        to_device = asked is not None and torch.device(asked).type == "cuda"
        if name in ("_pin_memory", "pin_memory", "is_pinned"):
            return self._pin(name, args[0])
        if not given and not to_device:
            return func(*args, **kwargs)
        self._refuse(func, packet, args, given, host)
        out_of = packet in rules.COPIES and self._leaves(packet, args, asked)
        waits = self._wait_of(packet, name, args, given, host, kwargs, out_of, to_device)
        if func.namespace == "c10d":
            self.collectives.append((name, sum(x.nbytes for x in given)))
        if waits:
            self.waited(waits)
            self.timeline.deliver({**self.timeline.current.clock, self.timeline.current: 1 << 60}, None)
        launches = name not in rules.NO_LAUNCH and packet is not aten._local_scalar_dense
        reads, writes = _touched(func, args, kwargs, given) if launches else ((), ())
        self.timeline.check(reads, writes, name)
        values = self._values(func, packet, args, kwargs, out_of, to_device)
        result, made = self._wrapped(values, flat)
        if launches:
            self.timeline.note(reads, {*writes, *(_memory(x) for x in made if all(x is not y for y in given))})
            self._count(packet, name, args, kwargs, {id(x): x for x in (*given, *made)}.values(), result)
        if packet in rules.COPIES and not out_of and not waits:
            for x in host:
                if self.inside.type == "cpu" and self._is_pinned(x):
                    self.timeline.copy_in(self.timeline.now, x)
        if out_of:
            return self._arrived(packet, args, values, waits)
        return result

    def _values(self, func, packet, args, kwargs, out_of, to_device):
        """What the operation gives, as tensors of the processor or without values."""
        meta = self.inside.type == "meta"
        kwargs = dict(kwargs)
        if to_device:
            kwargs["device"] = self.inside
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if packet in (aten._fused_sgd_, aten._fused_adam_, aten._fused_adamw_) and meta:
            return None  # they change what is given, and torch does not know them without values
        if packet is aten._local_scalar_dense and meta:
            kind = args[0].dtype
            return 1.0 if kind.is_floating_point else kind == torch.bool or 1
        if out_of and packet is aten.copy_:
            return torch.ones(args[0].shape, dtype=args[0].dtype) if meta else args[1].inner
        if out_of and meta:
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)

        def inner(x):
            if type(x) is OnDevice:
                return x.inner
            if meta and isinstance(x, torch.Tensor):
                return x.to("meta")
            return x

        if meta and not func._schema.returns:  # changes its arguments, and no shapes
            return None
        args, kwargs = tree_map(inner, (args, kwargs))
        stand_in = (stand_ins.OF_SHAPES if meta else stand_ins.WITH_VALUES).get(func, func)
        try:
            y = stand_in(*args, **kwargs)
        except (IndexError, RuntimeError) as error:
            if re.search(rules.OUT_OF_RANGE, str(error)):
                raise DeviceAssert(f"{packet}: {error}, at {where_in_project()}") from None
            raise
        copied = packet is aten._to_copy and isinstance(y, torch.Tensor)
        return y.clone() if copied and y is args[0] else y

    def _wrapped(self, values, flat):
        """The result as tensors of the device, those that were given as themselves; and the list of them."""
        known = {id(x.inner): x for x in flat if type(x) is OnDevice}
        found = []

        def wrap(x):
            if not isinstance(x, torch.Tensor) or type(x) is OnDevice:
                return x
            if id(x) not in known:
                self._track(x)
                known[id(x)] = OnDevice(x)
            found.append(known[id(x)])
            return known[id(x)]

        return tree_map(wrap, values), found

    def _count(self, packet, name, args, kwargs, tensors, result):
        self.launches[name] += 1
        self.moved[name] += sum(x.numel() * x.element_size() for x in tensors)
        if (flops := flop_registry.get(packet)) is not None:
            self.flops[name] += flops(*args, **kwargs, out_val=result)

    def _arrived(self, packet, args, values, waits):
        """The result of a copy to the host: there at once if the host has waited for it."""
        if packet is not aten.copy_:
            return values
        target = args[0]
        if waits or self.inside.type == "meta":
            return target.copy_(values)
        self.timeline.copy_out(self.timeline.now, target, values.clone())
        return target

    # --- what CUDA refuses, and what it waits for ------------------------------------------------------------------

    def _refuse(self, func, packet, args, given, host):
        if given and packet not in rules.COPIES and packet not in rules.INDEXED and func.namespace != "c10d":
            for x in host:
                if x.dim():
                    seen = f"{func} has a tensor {tuple(x.shape)} of the host beside tensors of the device"
                    raise Mixed(f"{seen}, at {where_in_project()}")
        if torch.are_deterministic_algorithms_enabled():
            floats = bool(given) and given[0].is_floating_point()
            if packet in rules.NOT_DETERMINISTIC or (packet in rules.NOT_DETERMINISTIC_FOR_FLOATS and floats):
                raise NotDeterministic(f"{packet} has no deterministic kernel, at {where_in_project()}")

    def _leaves(self, packet, args, asked):
        """Whether a copy goes from the device to the host."""
        if packet is aten.copy_:
            return type(args[0]) is not OnDevice and type(args[1]) is OnDevice
        return type(args[0]) is OnDevice and asked is not None and torch.device(asked).type == "cpu"

    def _wait_of(self, packet, name, args, given, host, kwargs, out_of, to_device):
        """Why the host waits, in words, or None."""
        if packet in rules.COPIES:
            into = bool(host) and not out_of and (to_device or type(args[0]) is OnDevice)
            if not (into or out_of):
                return None
            ours = args[0] if packet is not aten.copy_ or out_of else args[1]
            beside = ours if type(ours) is not OnDevice else None
            lazily = kwargs.get("non_blocking", args[2] if packet is aten.copy_ and len(args) > 2 else False)
            what = "a copy to the host" if out_of else "a copy from pageable memory"
            if lazily and beside is not None and self._is_pinned(beside):
                self.copies["a copy to the host" if out_of else "a copy from pinned memory", where_in_project()] += 1
                return None
            return what
        if packet in rules.WAITS:
            return name
        if packet in rules.INDEXED and given:
            indices = [x for x in tree_leaves(args[1]) if isinstance(x, torch.Tensor)]
            filled = len(indices) == 1 and [x.numel() for x in host if x is not indices[0]] == [1]  # by masked_fill
            if any(x.dtype == torch.bool for x in indices) and not filled:
                return f"{name} by a mask"
            if any(type(x) is not OnDevice and x.dim() for x in indices):
                return f"{name} by indices of the host"
        if packet is aten.repeat_interleave and type(args[0]) is OnDevice and kwargs.get("output_size") is None:
            return name
        return None

    # --- memory ----------------------------------------------------------------------------------------------------

    def _track(self, x):
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size = -(-storage.nbytes() // GRAIN_BYTES) * GRAIN_BYTES
        if self.live_bytes + size > self.memory:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU 0 has a total capacity of "
                f"{self.memory / 2**30:.2f} GiB of which {(self.memory - self.live_bytes) / 2**20:.2f} MiB is free."
            )
        self._storages[key] = size
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key):
        self.live_bytes -= self._storages.pop(key, 0)
        self.timeline.forget(key)

    def _pin(self, name, x):
        if name == "is_pinned":
            return self._is_pinned(x)
        return self.pin(x.clone())

    def _is_pinned(self, x):
        return type(x) is not OnDevice and x.untyped_storage().data_ptr() in self._pinned

    def pin(self, x):
        """Take note that a host tensor was made in pinned memory."""
        storage = x.untyped_storage()
        self._pinned.add(storage.data_ptr())
        weakref.finalize(storage, self._pinned.discard, storage.data_ptr())
        return x


def _memory(x):
    """(storage, first byte, stop) of what a tensor of the device may touch."""
    x, size = x.inner, x.inner.element_size()
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride())) if x.numel() else -1
    return x.untyped_storage()._cdata, x.storage_offset() * size, (x.storage_offset() + last + 1) * size


def _touched(func, args, kwargs, given):
    """The memory that an operation reads, and what it writes, of tensors that it is given."""
    named = dict(zip((a.name for a in func._schema.arguments), args)) | kwargs
    changed = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    writes = {_memory(x) for name in changed for x in tree_leaves(named.get(name)) if type(x) is OnDevice}
    if func.namespace == "c10d":  # whose schemas do not tell what they change
        writes = {_memory(x) for x in given}
    return {_memory(x) for x in given} - writes, writes


def where_in_project():
    """The innermost lines of the project, without tests, that led here: "FILE:LINE < FILE:LINE"."""
    frame, found = sys._getframe(1), []
    while frame is not None and len(found) < NAMED_LINES:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGES):
            found.append(f"{name.removeprefix(ROOT)}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(found)


# --- in the place of torch.cuda ------------------------------------------------------------------------------------

IN_FORCE: list[Device] = []


class _Mode(TorchDispatchMode):
    """Hands every operation of a thread to the device."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, kinds, args=(), kwargs=None):
        with self.device.timeline.lock:
            made = self.device.call(func, args, kwargs or {})
        if (kwargs or {}).get("pin_memory") and type(made) is not OnDevice:
            self.device.pin(made)
        return made


class _Guard(torch._C._acc.DeviceGuard):
    def type_(self):
        return torch._C._autograd.DeviceType.CUDA

    def get_device(self):
        return PLACE

    def exchange_device(self, device):
        return PLACE


_guard = _Guard()


def _give_cuda_a_guard():
    """A torch without CUDA refuses x[0], float(x) and new_tensor on such a device for want of a device guard.

    Register one in Python, which torch allows for PrivateUse1, and let CUDA have it too.
    """
    library = ctypes.CDLL(f"{Path(torch.__file__).parent}/lib/libc10.so")
    registry = (ctypes.c_void_p * 22).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    cuda, private = 1, 20  # numbers of c10::DeviceType
    if not registry[cuda]:
        torch._C._acc.register_python_privateuseone_device_guard(_guard)
        registry[cuda] = registry[private]


@contextlib.contextmanager
def pretend(values=True, memory=H200_BYTES, devices=1):
    """The context in which there is a device "cuda:0"; gives the `Device` that counts.

    values    whether tensors have values, or shapes only
    memory    of the device, in bytes
    devices   how many torch.cuda finds, of which all but the first cannot be used
    """
    _give_cuda_a_guard()
    device = Device(values, memory)
    tl, run = device.timeline, threading.Thread.run
    generator, empty, seed = torch.Generator, torch.empty, torch.default_generator.manual_seed

    def run_with_device(thread):
        torch._C._set_only_lift_cpu_tensors(True)  # a setting of each thread
        with _Mode(device):
            run(thread)

    def pinned_empty(*args, pin_memory=False, **kwargs):
        made = empty(*args, **kwargs)
        return device.pin(made) if pin_memory else made

    properties = SimpleNamespace(
        name="pretended", total_memory=memory, multi_processor_count=132, major=9, minor=0, uuid="GPU-pretended"
    )
    in_place = {
        "_lazy_init": lambda: None, "is_available": lambda: True, "device_count": lambda: devices,
        "is_initialized": lambda: True, "set_device": lambda d: None, "current_device": lambda: 0,
        "get_device_name": lambda d=None: properties.name, "get_device_capability": lambda d=None: (9, 0),
        "get_device_properties": lambda d=None: properties, "is_bf16_supported": lambda *a: True,
        "mem_get_info": lambda d=None: (memory - device.live_bytes, memory),
        "memory_allocated": lambda d=None: device.live_bytes,
        "max_memory_allocated": lambda d=None: device.peak_bytes,
        "reset_peak_memory_stats": lambda d=None: setattr(device, "peak_bytes", device.live_bytes),
        "empty_cache": lambda: None, "manual_seed": seed, "manual_seed_all": seed,
        "default_generators": (torch.default_generator,),
        "Stream": streams.Stream, "Event": streams.Event, "stream": tl.on, "StreamContext": tl.on,
        "current_stream": lambda d=None: tl.current, "default_stream": lambda d=None: tl.default,
        "device": lambda d: contextlib.nullcontext(),
        "synchronize": lambda d=None: (device.waited("torch.cuda.synchronize"), tl.deliver_all()),
        "is_current_stream_capturing": lambda: False,
    }  # fmt: skip
    lifted, random_state = torch._C._only_lift_cpu_tensors(), torch.get_rng_state()
    strict = torch.are_deterministic_algorithms_enabled()
    with contextlib.ExitStack() as stack:
        for name, value in in_place.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value, create=True))
        stack.enter_context(mock.patch.object(torch, "Generator", lambda device="cpu": generator("cpu")))
        stack.enter_context(mock.patch.object(torch, "empty", pinned_empty))
        # torch's own test tools, once imported, let nobody set the flags of cuDNN
        flags = torch.backends.flags_frozen.__globals__
        stack.enter_context(mock.patch.dict(flags, {"__allow_nonbracketed_mutation_flag": True}))
        stack.enter_context(mock.patch.object(torch.Tensor, "record_stream", lambda x, stream: None))
        stack.enter_context(mock.patch.object(threading.Thread, "run", run_with_device))
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(x, device=...) makes it on the host, and copies it
        IN_FORCE.append(device)
        streams.IN_FORCE.append(tl)
        TENSORS.add(OnDevice)
        try:
            with _Mode(device):
                yield device
        finally:
            streams.IN_FORCE.pop()
            IN_FORCE.pop()
            torch._C._set_only_lift_cpu_tensors(lifted)
            torch.set_rng_state(random_state)
            torch.use_deterministic_algorithms(strict)
            _out_of_range.clear()
            if not IN_FORCE:
                TENSORS.discard(OnDevice)
