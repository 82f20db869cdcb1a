"""Updates of torch's tensors, by one kernel of torch where it has one."""

import pytest
import torch

import allgrad as ag
from allgrad import optim
from tests.autograd.optim.training import close, elementwise, model_and_twin, of_torch, train, train_torch


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
