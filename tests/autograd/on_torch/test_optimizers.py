"""Updates of torch's tensors, by one kernel of torch where it has one."""

import copy
import math

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.on_torch import optimizers
from allgrad.autograd.optim import base
from tests.autograd.optim.training import close, each_rule, elementwise, model_and_twin, of_torch, train, train_torch
from tests.device.pretend import pretend

aten = torch.ops.aten


@of_torch
def test_training_on_torch_tensors_is_that_of_torch(name, options):
    """Where torch has a kernel for the whole update, it is used."""
    model, twin = model_and_twin()
    model.to(device="cpu")
    train(model, getattr(optim, name)(model, **options), 50)
    train_torch(twin, getattr(torch.optim, name)(twin.parameters(), **options), 50)
    close(model, twin)


@elementwise
def test_a_part_of_the_arrays_is_updated_to_the_same_bits(name, options):
    """On torch tensors too, if parts begin where a vector register does: what ranks that share the state depend on."""
    weights, gradient = torch.randn(2, 1008, generator=torch.Generator().manual_seed(0))

    def trained(*cuts):
        optimizers = []
        for part in map(slice, cuts, cuts[1:]):
            p = ag.tensor(weights, requires_grad=True)
            optimizers.append((p, getattr(optim, name)({"p": p}, **options), part))
            optimizers[-1][1].shard_state(part)
        for _ in range(3):
            for p, optimizer, _ in optimizers:
                optimizer.arena.zero_grad()
                (p * gradient).sum().backward()
                optimizer.step()
        return torch.cat([p.data[part] for p, _, part in optimizers]).numpy().tobytes()

    assert trained(0, 16, 64, 528, 1008) == trained(0, 1008)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 64, 1000])
def test_steps_in_half_precision_reach_every_element(dtype, size):
    w = ag.tensor(torch.ones(size, dtype=dtype), requires_grad=True)
    theirs = torch.ones(size, dtype=dtype, requires_grad=True)
    ours, other = optim.SGD([w], lr=0.125), torch.optim.SGD([theirs], lr=0.125)
    for _ in range(3):
        ours.zero_grad()
        w.backward(torch.ones(size, dtype=dtype))
        theirs.grad = torch.ones(size, dtype=dtype)
        ours.step()
        other.step()
    assert torch.equal(w.data, theirs.detach())


@each_rule
@pytest.mark.parametrize("gradient", [math.nan, 0.5])
def test_a_step_that_is_to_be_skipped_changes_no_bit(name, options, gradient):
    """Neither parameters nor state, whatever the gradient is, while `skip` is 1; and one that is not is as usual."""
    optimizer, usual = (getattr(optim, name)(on_torch(), **options) for _ in range(2))
    skip = torch.zeros((), dtype=torch.float32)
    for one in (optimizer, usual):
        one.arena.grad[:] = torch.linspace(-1.0, 1.0, len(one.arena.grad)).to(one.arena.dtype)
        one.arena.grad *= one.arena.data != 0.0
        for leaf in one.arena.leaves:
            leaf.stale = False
    for _ in range(3):
        optimizer.step(skip=skip)
        usual.step()
    before, counted = arrays_of(optimizer), optimizer.progress
    assert before == arrays_of(usual)
    kept = optimizer.arena.grad.clone()
    optimizer.arena.grad[:] = gradient
    for _ in range(2):
        optimizer.step(skip=skip + 1.0)
    optimizer.progress = counted
    assert arrays_of(optimizer) == before
    optimizer.arena.grad[:] = kept
    optimizer.step(skip=skip)
    usual.step()
    assert arrays_of(optimizer) == arrays_of(usual) != before


def on_torch():
    model, _ = model_and_twin()
    return model.to("float32").to(device="cpu")


def arrays_of(optimizer):
    """The bits of all parameters and of all that is kept of them."""
    flats = {"parameters": optimizer.arena.data, **optimizer.state}
    state = optimizer.state_dict()
    numbers = {key: value for key, value in state.items() if not isinstance(value, dict)}
    more = {(k, n): np.asarray(a).tobytes() for k, v in state.items() if isinstance(v, dict) for n, a in v.items()}
    return {key: a.numpy().tobytes() for key, a in flats.items()}, numbers, more


def test_groups_of_many_runs_take_one_call(monkeypatch):
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(6)]).to(device="cpu")
    optimizer = optim.AdamW(model, groups=optim.no_decay(model))
    optimizer.arena.grad[:] = 1.0
    calls, kernel = [], aten._fused_adamw_.default

    def counting(w, *args, **options):
        calls.append((len(w), options["weight_decay"]))
        kernel(w, *args, **options)

    monkeypatch.setattr(optimizers.aten._fused_adamw_, "default", counting)
    assert len(optimizer.runs) == 12
    optimizer.step()
    assert calls == [(6, 0.01), (6, 0.0)]


def test_a_rule_with_a_kernel_takes_no_scratch_memory_until_it_needs_some():
    optimizer = optim.SGD(on_torch(), 0.1, momentum=0.9)
    assert all(chunk[-2:] == (None, None) for _, chunks in optimizer.chunks() for chunk in chunks)
    optimizer.step()
    optimizer.param_groups[0]["l1"] = 0.1  # which the kernel does not know
    kept = optimizer.chunks()
    assert all(None not in chunk[-2:] for _, chunks in kept for chunk in chunks)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.2
    assert optimizer.chunks() is kept


def test_the_count_of_steps_follows_what_is_restored():
    """Adam's kernel reads the count from a tensor, which a state that is loaded and a copy of the optimizer reset."""
    model, other = on_torch(), on_torch()
    optimizer, again = optim.Adam(model, 0.01), optim.Adam(other, 0.01)
    states = []
    for optimized in (optimizer, again):
        optimized.arena.grad[:] = optimized.arena.data != 0.0  # nothing between parameters
    for _ in range(3):
        optimizer.step()
        states.append((optimizer.state_dict(), optimizer.arena.data.clone()))
    for _ in range(5):
        again.step()
    again.arena.data[:] = states[0][1]
    again.load_state_dict(states[0][0])
    for _ in range(2):
        again.step()
    assert torch.equal(again.arena.data, optimizer.arena.data)
    twin = copy.deepcopy(optimizer)
    twin.arena.grad[:] = optimizer.arena.grad
    for optimized in (twin, optimizer):
        optimized.step()
    assert torch.equal(twin.arena.data, optimizer.arena.data) and twin.arena.data is not optimizer.arena.data


@pytest.mark.parametrize("rule", ["SGD", "AdamW", "Lion"])
def test_memory_on_a_device(rule):
    """Rules with a kernel keep their state and nothing else; others scratch memory of one chunk, not of all."""
    with pretend(values=False) as device:
        w = ag.tensor(torch.zeros(1 << 26, device="cuda:0"), requires_grad=True)  # 256 MiB
        optimizer = getattr(optim, rule)([w], **({"momentum": 0.9} if rule == "SGD" else {}))
        w.backward(w.data)
        device.reset()
        held = device.live_bytes
        optimizer.step()
    chunk = 4 * base.DEVICE_CHUNK_ELEMENTS
    assert device.peak_bytes - held <= (1 << 12 if rule != "Lion" else 2 * chunk + (1 << 12))


def test_a_rate_that_stays_is_written_once():
    with pretend() as device:
        w = ag.tensor(torch.ones(8, device="cuda:0"), requires_grad=True)
        optimizer = optim.SGD([w], lambda step: 0.5 if step < 3 else 0.25)
        found = []
        for _ in range(4):
            optimizer.zero_grad()
            w.backward(torch.ones(8, device="cuda:0"))
            device.reset()
            optimizer.step()
            found.append((float(w.data[0]), device.launches["fill_"], device.launches["_fused_sgd_"]))
    assert found == [(0.5, 1, 1), (0.0, 0, 1), (-0.5, 0, 1), (-0.75, 1, 1)]
