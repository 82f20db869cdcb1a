"""Checkpoints: the bits of the function itself, without its intermediate arrays."""

import gc
import weakref

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.autograd.random import keyed
from tests.ddp.conftest import simulate
from tests.device.pretend import pretend


def block(x, w, v):
    """Uses its arguments twice, and draws random numbers."""
    h = ag.dropout((x @ w).tanh(), 0.5)
    return ag.layer_norm(h @ v + x * ag.exp(h[:, :3]), 3)


def run(step, arrays, library=np.asarray):
    """The loss, the gradients, and where the random stream stands, of two blocks with a parameter in common."""
    leaves = [ag.tensor(library(a), requires_grad=True) for a in arrays]
    x, w, v = leaves
    with keyed("checkpoint"):
        loss = (step(block, step(block, x, w, v) * 2.0, w, v) * v[:2]).sum()
        loss.backward()
        after = ag.rand(1).item()
    return [loss.numpy(), *[np.asarray(leaf.grad) for leaf in leaves], after]


def arrays(dtype):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in ((2, 3), (3, 5), (5, 3))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor], ids=["numpy", "cpu"])
def test_values_and_gradients_are_the_same_bits(dtype, library):
    usual = run(lambda f, *args: f(*args), arrays(dtype), library)
    for have, want in zip(run(ag.checkpoint, arrays(dtype), library), usual, strict=True):
        np.testing.assert_array_equal(have, want, strict=True)


def test_nested_checkpoints_and_parameters_that_are_no_arguments():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 3))
    x = ag.tensor(np.ones((5, 3)), dtype="float32", requires_grad=True)
    found = []
    for step in (lambda f, *args: f(*args), ag.checkpoint):
        x.grad = None
        model.zero_grad()
        offset = x * 2.0  # computed outside, and used inside without being an argument
        inner = lambda h, offset=offset: model(h) + offset
        with keyed(0):
            y = step(lambda h: step(inner, h).tanh(), x * 3.0)
        y.sum().backward()
        found.append([y.data, x.grad.copy(), *[p.grad.copy() for p in model.parameters()]])
    for have, want in zip(*found):
        np.testing.assert_array_equal(have, want)


def test_intermediate_arrays_are_let_go():
    kept = []

    def function(x):
        h = x.exp()
        kept.append(weakref.ref(h.data))
        return h.tanh().sum()

    x = ag.tensor(np.ones(1000), requires_grad=True)
    y = ag.checkpoint(function, x)
    gc.collect()
    assert kept[0]() is None and len(kept) == 1
    y.backward()
    assert len(kept) == 2 and x.grad is not None
    with pytest.raises(RuntimeError, match="backward through 'checkpoint' a second time"):
        y.backward()


def test_several_results_and_some_without_gradients():
    def function(x, k=1.0):
        y = x * x
        return y[:2], {"not": "a tensor"}, y.sum() * k, x.data > 0, y[0] * 3.0

    found = []
    for step in (lambda f, *args, **named: f(*args, **named), ag.checkpoint):
        x = ag.tensor([1.0, 2.0, 3.0], requires_grad=True)
        a, text, b, mask, c = step(function, x, k=2.0)
        assert text == {"not": "a tensor"} and mask.all() and isinstance(b, ag.Tensor)
        ((a * a).sum() + b * c).backward()
        found.append([a.tolist(), b.item(), c.item(), x.grad.tolist()])
    assert found[0] == found[1]
    a, *_ = ag.checkpoint(function, x)
    a.sum().backward()  # one of them alone


def test_second_derivatives_and_forward_mode():
    x, v = np.array([0.5, -1.0, 2.0]), np.array([1.0, 2.0, -1.0])
    f = lambda x: ((x * 2.0).tanh() * x).sum()
    g = lambda x: ag.checkpoint(f, x)
    np.testing.assert_allclose(ag.hessian(g)(x), ag.hessian(f)(x), rtol=1e-13)
    np.testing.assert_allclose(ag.jvp(g, (x,), (v,))[1], ag.jvp(f, (x,), (v,))[1], rtol=1e-13)
    closed = lambda x: ag.checkpoint(lambda: f(x))
    np.testing.assert_allclose(ag.hessian(closed)(x), ag.hessian(f)(x), rtol=1e-13)


def test_without_a_gradient_it_is_the_function_itself():
    calls = []
    with ag.no_grad():
        y = ag.checkpoint(lambda x: calls.append(1) or x * 2.0, ag.tensor([1.0], requires_grad=True))
    assert y.node is None and ag.checkpoint(lambda x: x, ag.tensor([2.0])).tolist() == [2.0] and calls == [1]


def test_a_parameter_that_has_changed_on_the_way_is_found_out():
    x, w = (ag.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    y = ag.checkpoint(lambda x: x * w, x)
    w.assign(3.0)
    with pytest.raises(RuntimeError, match="was modified in place after 'checkpoint' used it"):
        y.sum().backward()


def weights(step, ranks):
    """Those of a small network after three steps on these ranks."""
    x, y = np.random.default_rng(0).standard_normal((24, 6), np.float32), np.arange(24) % 3

    def train(comm):
        ag.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        parallel = ddp.DistributedDataParallel(model, comm, shards=4)
        optimizer, loader = optim.SGD(parallel, 0.1, momentum=0.9), ddp.DataLoader((x, y), 8, comm, shards=4)
        loss = lambda x, y: ag.cross_entropy(step(model, x), y)
        for batch in loader.epoch(0):
            parallel.backward(batch, loss)
            optimizer.step()
        return np.concatenate([p.data.ravel() for p in model.parameters()])

    return simulate(ranks, train)[0]


@pytest.mark.parametrize("ranks", [1, 2])
def test_data_parallel_training_has_the_same_bits(ranks):
    np.testing.assert_array_equal(weights(ag.checkpoint, ranks), weights(lambda f, x: f(x), 1))


def test_a_captured_step_may_have_checkpoints():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), np.ones((5, 3), np.float32)
    found = []
    for step in (lambda f, x: f(x), ag.checkpoint):
        captured = ag.capture(lambda x, step=step: (step(model, ag.tensor(x)) ** 2).mean().backward())
        for i in range(4):
            model.zero_grad()
            captured(x * i)
        found.append([p.grad.copy() for p in model.parameters()])
    for have, want in zip(*found):
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("nested", [False, True])
def test_masks_that_a_device_has_drawn_are_kept(nested):
    def twice(x, w, v):
        return ag.checkpoint(block, ag.checkpoint(block, x, w, v) * 2.0, w, v) if nested else block(x, w, v)

    def run(step):
        leaves = [ag.tensor(torch.as_tensor(a, device="cuda"), requires_grad=True) for a in arrays(np.float32)]
        with keyed("checkpoint"):
            x, w, v = leaves
            loss = step(twice, step(twice, x, w, v) * 2.0, w, v).sum()
            loss.backward()
            after = ag.dropout(ag.tensor(torch.ones(64, device="cuda"))).tolist()
        return [loss.tolist(), *[leaf.grad.tolist() for leaf in leaves], after]

    with pretend():
        assert run(ag.checkpoint) == run(lambda f, *xs: f(*xs))


def test_a_weight_gradient_is_left_to_be_computed_where_it_belongs():
    """Of half precision on a device, it would otherwise be rounded on the way."""
    layers = []
    with pretend() as device:
        for step in (ag.checkpoint, lambda f, x: f(x)):
            with keyed("weights"):
                layer = nn.Linear(16, 16)
            optimizer = optim.SGD(layer.to("cuda"), 0.1)
            layer.compute_in("bfloat16")
            x = torch.sin(torch.arange(256.0)).reshape(16, 16).to(torch.bfloat16).to("cuda")
            device.reset()
            step(lambda x: layer(x) * x, ag.tensor(x)).backward(x)
            assert "copy_" not in device.launches
            layers.append(optimizer.arena.grad.tolist())
    assert layers[0] == layers[1]


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor], ids=["numpy", "cpu"])
@pytest.mark.parametrize("layer", [nn.BatchNorm1d, lambda n: nn.InstanceNorm1d(n, track_running_stats=True)])
def test_running_averages_move_once(layer, library):
    x = library(np.random.default_rng(0).standard_normal((4, 3, 5)))
    states = []
    for step in (lambda f, x: f(x), ag.checkpoint, lambda f, x: ag.checkpoint(lambda x: ag.checkpoint(f, x) * 2.0, x)):
        norm = layer(3).to("float64", "cpu" if library is torch.as_tensor else "numpy")
        leaf = ag.tensor(x, requires_grad=True)
        step(norm, leaf).sum().backward()
        step(norm, leaf).sum().backward()
        states.append({name: np.asarray(value).tolist() for name, value in norm.state_dict().items()})
    assert states[0] == states[1] == states[2] and states[0]["num_batches_tracked"] in (0, 2)
