"""What users of torch tried and found wanting, each on both array libraries where it matters."""

import copy

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim

PLACES = {"numpy": np.asarray, "cpu": torch.as_tensor}
everywhere = pytest.mark.parametrize("array", PLACES.values(), ids=list(PLACES))


def leaf(array, values):
    return ag.tensor(array(np.array(values, np.float32)), requires_grad=True)


def test_an_optimizer_made_after_a_layer_was_exchanged_trains_the_new_one():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    optim.SGD(model, lr=0.1)
    model[1] = nn.Linear(2, 5)
    before = model[1].weight.data.copy()
    optimizer = optim.SGD(model, lr=0.1)
    (model(np.ones((4, 2), "f4")) ** 2).sum().backward()
    norm = optim.grad_norm(model)
    optimizer.step()
    assert norm > 0 and (model[1].weight.data != before).any()


def test_a_parameter_frozen_after_an_optimizer_was_made_stays():
    model = nn.Linear(2, 2)
    optim.Adam(model, lr=0.1)
    model.weight = model.weight.detach()
    before = model.weight.data.copy()
    optimizer = optim.Adam(model, lr=0.1, weight_decay=0.5)
    model(np.ones((4, 2), "f4")).sum().backward()
    optimizer.step()
    assert (model.weight.data == before).all()


@pytest.mark.parametrize("index", [torch.tensor([0, 0, 1]), np.array([0, 0, 1]), np.array([0, 0, 1], np.uint8)])
@everywhere
def test_indices_of_either_library_count_repeats(index, array):
    x = leaf(array, [1.0, 2.0, 3.0])
    x[index].sum().backward()
    assert x.grad.tolist() == [2.0, 1.0, 0.0]


@everywhere
def test_a_gradient_that_was_kept_stays_when_the_leaf_forgets_it(array):
    x = leaf(array, [1.0, 2.0])
    (x * 1.0).sum().backward()
    kept = x.grad
    x.grad = None
    (x * 5.0).sum().backward()
    assert (kept.tolist(), x.grad.tolist()) == ([1.0, 1.0], [5.0, 5.0])


@pytest.mark.parametrize("dtype, lowest", [("float32", -80.0), ("float64", -700.0)])
def test_the_logistic_function_keeps_its_digits_far_below_0(dtype, lowest):
    x = np.linspace(lowest, 20.0, 50).astype(dtype)
    for name in ("sigmoid", "silu"):
        expected = getattr(torch.nn.functional, name)(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(getattr(ag, name)(x).data, expected, rtol=20 * np.finfo(dtype).eps)
    z = leaf(np.asarray, [-20.0])
    ag.log(ag.sigmoid(z)).sum().backward()
    assert z.grad == pytest.approx(1.0)


@everywhere
def test_what_is_masked_out_gets_no_gradient_of_infinity_times_0(array):
    for f in (
        lambda x: ag.where(x.data > 0, x, 0.0),
        lambda x: ag.clamp(x, min=0.0),
        lambda x: ag.maximum(x, 0.0),
        lambda x: ag.masked_fill(x, x.data < 0, 0.0),
    ):
        x = leaf(array, [1.0, -1.0])
        with np.errstate(divide="ignore"):
            ag.log(f(x)).sum().backward()
        assert x.grad.tolist() == [1.0, 0.0]
    assert ag.tril(array(np.array([[0.0, -np.inf], [0.0, 0.0]]))).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_model_in_half_precision_may_change_to_another_half_and_be_copied():
    model = nn.Linear(3, 2).to(device="cpu")
    optim.SGD(model, lr=0.1)
    model.compute_in("bfloat16")
    model.compute_in("float16")
    twin = copy.deepcopy(model)
    for one in (model, twin):
        optimizer, before = optim.SGD(one, lr=0.1), one.state_dict()["weight"]
        assert (one.weight.dtype, optimizer.arena.data.dtype) == (torch.float16, torch.float32)
        one(torch.ones(4, 3, dtype=torch.float16)).sum().backward()
        optimizer.step()
        assert (one.state_dict()["weight"] != before).all()
    assert model.arena.sha256() == twin.arena.sha256()


def test_torch_tensors_that_require_gradients_are_constants_here():
    x, p = leaf(torch.as_tensor, [1.0, 2.0]), torch.nn.Parameter(torch.ones(2))
    y = (x * p + torch.ones(2, requires_grad=True)).sum()
    y.backward()
    assert y.data.grad_fn is None and p.grad is None and x.grad.tolist() == [1.0, 1.0]
    model = nn.Linear(2, 2).to("cpu")
    optim.SGD(model, lr=0.1)
    model(torch.ones(3, 2, requires_grad=True)).sum().backward()
    assert model.weight.grad.tolist() == [[3.0, 3.0], [3.0, 3.0]]


@everywhere
@pytest.mark.parametrize("dtype", [np.float64, bool])
def test_attention_takes_masks_of_numpy_and_keeps_its_dtype(array, dtype):
    q = leaf(array, np.arange(12.0).reshape(3, 4) / 12)
    allowed = np.tri(3, dtype=bool)
    mask = allowed if dtype is bool else np.where(allowed, 0.0, -np.inf)
    y = ag.scaled_dot_product_attention(q, q, q, mask)
    expected = ag.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert y.dtype == q.dtype and np.array_equal(y.numpy(), expected.numpy())


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_and_rows_of_any_integer_type(dtype):
    z, labels = leaf(torch.as_tensor, [[1.0, 2.0], [0.0, 1.0]]), torch.tensor([1, 0]).to(dtype)
    expected = ag.cross_entropy(z, labels.long()).item()
    assert ag.cross_entropy(z, labels).item() == ag.cross_entropy(z, labels, weight=[1.0, 1.0]).item() == expected
    assert ag.embedding(labels, z).tolist() == [[0.0, 1.0], [1.0, 2.0]]


def test_a_power_of_a_negative_number_has_no_real_derivative():
    x = leaf(np.asarray, [2.0])
    ((-2.0) ** x).sum().backward()
    assert np.isnan(x.grad).all()


def test_tied_weights_have_all_their_names_in_the_state_as_in_torch():
    def make(nn):
        model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
        model[1].weight = model[0].weight
        return model

    mine, other = make(nn), make(torch.nn)
    other.load_state_dict({name: torch.from_numpy(a) for name, a in mine.state_dict().items()}, strict=True)
    assert list(mine.state_dict()) == list(other.state_dict()) and len(dict(mine.named_parameters())) == 1
    other[0].weight.data += 1.0
    mine.load_state_dict({name: p.bfloat16() for name, p in other.state_dict().items()})
    np.testing.assert_allclose(mine[1].weight.data, other[1].weight.detach(), rtol=1e-2)
    mine.load_state_dict({**dict(other.named_parameters()), "1.weight": other[1].weight})


def test_what_a_module_has_computed_is_not_its_state():
    model = nn.Linear(2, 2)
    before = model.state_dict()
    model.kept = model(np.ones((1, 2), "f4"))
    model.load_state_dict(before)
    assert list(model.state_dict()) == ["weight", "bias"]


def test_to_takes_what_torch_takes():
    model = nn.Linear(2, 2).to("cpu")
    assert model.to(torch.float64).weight.dtype == torch.float64
    assert model.to("numpy").to(np.float32).weight.dtype == np.float32
    with pytest.raises(TypeError, match="parameters have a floating dtype"):
        model.to("int64")


def test_summaries_and_drawings_of_models_on_torch_tensors():
    models = [nn.Sequential(nn.Linear(2, 3), nn.Tanh()).to(device) for device in PLACES]
    one, other = (ag.summary(model, (5, 2)) for model in models)
    assert one == other and "(5, 3)" in one
    assert "tanh" in ag.to_dot(models[1](torch.ones(1, 2)))
