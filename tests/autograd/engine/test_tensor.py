"""A tensor among arrays and numbers: dtypes, operators from either side, and what it shows of its array."""

import operator

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn
from allgrad.autograd.random import generator


def leaf(*shape, name="x", dtype="float64"):
    return ag.tensor(generator(name, *shape).standard_normal(shape), requires_grad=True, dtype=dtype, name=name)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x * np.float64(2), lambda x: np.float64(2) * x, lambda x: x / np.sqrt(64), lambda x: x**2,
        lambda x: 1 - x, lambda x: x + np.int64(1), lambda x: np.float64(1) - x, lambda x: x * True,
        lambda x: ag.where(x > 0, x, 0.0), lambda x: x.mean() * 3, lambda x: x.amax() + np.float64(1),
        lambda x: x.std() / np.float64(3), lambda x: x * (x > 0), lambda x: ag.maximum(x, np.float64(0)),
    ],
)  # fmt: skip
def test_numbers_do_not_promote(use):
    x = leaf(3, dtype="float32")
    y = use(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == np.float32


def test_arrays_on_the_left_meet_tensors():
    a, x = np.arange(1.0, 5.0).reshape(2, 2), leaf(2, 2)
    for y, expected in [
        (a + x, a + x.data), (a - x, a - x.data), (a * x, a * x.data), (a / x, a / x.data), (a @ x, a @ x.data),
        (a**x, a**x.data),
    ]:  # fmt: skip
        assert type(y) is ag.Tensor and y.requires_grad
        np.testing.assert_array_equal(y.data, expected)
    assert (np.zeros((2, 2)) < x).tolist() == (x > 0).tolist() == (x.data > 0).tolist()
    assert (x == x).all() and not (x != x).any() and (x <= x).all() and (x >= x).all()


def test_another_dtype_in_the_graph_is_reported():
    for use in (lambda w: (w * np.ones(3)).sum(), lambda w: ag.linear(np.ones((2, 3)), w.unsqueeze(0)).sum()):
        with pytest.warns(UserWarning, match="gradient of 'w' arrived as float64, not float32: an array of another"):
            use(leaf(3, name="w", dtype="float32")).backward()
    w = leaf(2, 3, name="w", dtype="float32")
    ag.Arena([w])
    with pytest.warns(UserWarning, match="gradient of 'parameter0' arrived as float64, not float32"):
        ag.linear(np.ones((4, 3)), w).sum().backward()
    np.testing.assert_array_equal(w.grad, np.full((2, 3), 4.0, np.float32))


def test_tensor_looks_like_its_array():
    x = ag.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True, name="x")
    assert (x.shape, x.ndim, x.size, x.dtype, len(x), x.requires_grad) == ((2, 2), 2, 4, np.float32, 2, True)
    assert x.tolist() == [[1, 2], [3, 4]] == x.numpy().tolist() and [row.tolist() for row in x][1] == [3, 4]
    assert (x[0, 1].item(), float(x[0, 1]), f"{x[0, 1]:.2f}", bool(x[0, 0])) == (2.0, 2.0, "2.00", True)
    assert (x.name, x.exp().name, x.detach().name, str(x[0, 0])) == (
        "x",
        "exp",
        "constant",
        "Tensor(np.float32(1.0), getitem)",
    )
    assert x in {x} and x.detach().data is x.data and np.asarray(x.detach(), dtype="float64").dtype == np.float64
    array = np.ones(2)
    assert ag.tensor(array).dtype == np.float64 and not np.shares_memory(ag.tensor(array).data, array)
    assert ag.tensor([1, 2]).dtype == np.int64 and ag.tensor(ag.tensor(1.0)).shape == ()
    with ag.default_dtype("float64"):
        assert ag.tensor(1.0).dtype == ag.get_default_dtype() == nn.Linear(1, 1).weight.dtype == np.float64
    assert ag.get_default_dtype() == np.float32


# --- changes in place --------------------------------------------------------------------------------------------


def regression(**at):
    rng = generator("regression")
    x = rng.standard_normal((32, 3)).astype("f4")
    y = x @ np.array([[1.0], [2.0], [3.0]], "f4")
    model = nn.Linear(3, 1)
    if at:
        model, x, y = model.to(**at), torch.as_tensor(x), torch.as_tensor(y)
    return model, lambda: ag.mse_loss(model(x), y)


@pytest.mark.parametrize("at", [{}, {"device": "cpu"}])
@pytest.mark.parametrize("arena", [False, True])
@pytest.mark.parametrize("mode", [ag.no_grad, ag.enable_grad])
def test_the_update_of_textbooks_trains(at, arena, mode):
    model, loss = regression(**at)
    flat = ag.Arena(model).data if arena else None
    parameters = dict(model.named_parameters())
    for _ in range(60):
        model.zero_grad()
        loss().backward()
        with mode():
            for p in model.parameters():
                p -= 0.1 * p.grad
    assert loss().item() < 1e-3
    assert [*map(id, model.parameters())] == [*map(id, parameters.values())]
    if arena:
        np.testing.assert_allclose(np.asarray(flat)[:3], [1.0, 2.0, 3.0], atol=0.05)


def test_a_leaf_changed_in_place_is_refused_by_graphs_that_used_it():
    for change in (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow):
        x = leaf(3)
        y, before = (x * x).sum(), x.data.copy()
        with ag.no_grad():
            assert change(x, 2.0) is x
        np.testing.assert_array_equal(x.data, change(before, 2.0))
        with pytest.raises(RuntimeError, match="'x' was modified in place after 'mul' used it"):
            y.backward()
    x = leaf(3)
    y, held = (x * x).sum(), x.detach()
    held[0] = 5.0  # the memory of the leaf, and its version
    assert x.data[0] == 5.0
    with pytest.raises(RuntimeError, match="'x' was modified in place"):
        y.backward()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: operator.imul(x, 2.0), lambda x: operator.imatmul(x, np.eye(3)), lambda x: operator.iadd(x, x * 1.0),
        lambda x: operator.isub(x.detach(), x), lambda x: operator.setitem(x, 0, 1.0),
        lambda x: operator.setitem(x * 1.0, 0, 1.0), lambda x: operator.setitem(ag.tensor(np.ones(3)), 0, x[0]),
    ],
)  # fmt: skip
def test_changes_in_place_that_would_lose_a_gradient_are_refused(change):
    x = leaf(3)
    before = x.data.copy()
    with pytest.raises(RuntimeError, match="compute a new tensor"):
        change(x)
    np.testing.assert_array_equal(x.data, before)


def test_gradients_flow_through_other_tensors_changed_in_place():
    x, c = leaf(3), ag.tensor(np.ones(3))
    y = alias = x * 2.0
    z = y * c  # with the values from before
    y *= x
    y += 1.0
    c *= 3.0
    c[1] = 7.0
    assert alias is y and c.tolist() == [3.0, 7.0, 3.0]
    (y + z + x * c).sum().backward()
    np.testing.assert_allclose(x.grad, 4.0 * x.data + 2.0 + c.data)
    np.testing.assert_array_equal(ag.grad(lambda x: operator.imul(x, x).sum())(x.data), 2.0 * x.data)
    before = x.grad
    x.grad *= 0.5
    assert x.grad is before
    np.testing.assert_allclose(x.grad, 0.5 * (4.0 * x.data + 2.0 + c.data))


def test_a_parameter_computed_with_in_half_precision_is_changed_in_full():
    w = nn.Parameter(torch.ones(4))
    ag.Arena([w]).compute_in("bfloat16")
    with ag.no_grad():
        for _ in range(4):
            w += 2.0**-10  # nothing in bfloat16
    assert w.master.tolist() == [1.0 + 2.0**-8] * 4


@pytest.mark.parametrize(
    "use",
    [
        lambda x, s, v: ag.scaled_dot_product_attention(x, x, x, scale=s), lambda x, s, v: ag.leaky_relu(x, s),
        lambda x, s, v: ag.elu(x, s), lambda x, s, v: ag.softplus(x, s), lambda x, s, v: ag.softplus(x, 1.0, s),
        lambda x, s, v: ag.hardtanh(x, -s, s), lambda x, s, v: ag.pad(x, (1, 1), value=s),
        lambda x, s, v: ag.quantile(x, s), lambda x, s, v: ag.add(x, x, alpha=s), lambda x, s, v: ag.sub(x, x, alpha=s),
        lambda x, s, v: ag.norm(x, s), lambda x, s, v: ag.layer_norm(x, (3,), eps=s),
        lambda x, s, v: ag.rms_norm(x, (3,), eps=s), lambda x, s, v: ag.group_norm(x, 1, eps=s),
        lambda x, s, v: ag.batch_norm(x, None, None, training=True, eps=s),
        lambda x, s, v: ag.huber_loss(x, x, delta=s),
        lambda x, s, v: ag.cross_entropy(x, [0, 1, 2], weight=v), lambda x, s, v: ag.cross_entropy(x, x, weight=v),
        lambda x, s, v: ag.cross_entropy(x, [0, 1, 2], weight=v, label_smoothing=0.1),
        lambda x, s, v: ag.nll_loss(x, [0, 1, 2], weight=v),
        lambda x, s, v: ag.binary_cross_entropy(ag.sigmoid(x), x, weight=v),
        lambda x, s, v: ag.binary_cross_entropy_with_logits(x, x, weight=v),
        lambda x, s, v: ag.binary_cross_entropy_with_logits(x, x, pos_weight=v),
        lambda x, s, v: ag.multi_margin_loss(x, [0, 1, 2], weight=v), lambda x, s, v: ag.full_like(x, s),
        lambda x, s, v: ag.full((2,), s), lambda x, s, v: ag.linspace(0.0, s, 3),
        lambda x, s, v: ag.batch_norm(x, v, ag.tensor(np.ones(3)), training=False),
    ],
)  # fmt: skip
def test_an_option_that_no_gradient_flows_to_must_not_require_one(use):
    x, s, v = leaf(3, 3), ag.tensor(1.0, requires_grad=True, dtype="float64"), leaf(3)
    with pytest.raises(TypeError, match="gradient"):
        use(x, s, v)
    use(x, s.detach(), v.detach())
    with ag.no_grad():
        use(x, s, v)
    twice = leaf(3, 3), s, v
    with pytest.raises(TypeError, match="gradient"):
        ag.grad(lambda t: use(x, t, v.detach() * t).sum())(twice[1].data)


@pytest.mark.parametrize(
    "use",
    [
        lambda x, i, m: x[i], lambda x, i, m: x[m], lambda x, i, m: x[:, i], lambda x, i, m: ag.where(m, x.T, 0.0),
        lambda x, i, m: ag.masked_fill(x, m, 0.0), lambda x, i, m: ag.index_select(x, 0, i),
        lambda x, i, m: ag.gather(x, 1, i[:, None]), lambda x, i, m: ag.take_along_dim(x, i[:, None], 1),
        lambda x, i, m: ag.embedding(i, x), lambda x, i, m: ag.masked_select(x, m),
        lambda x, i, m: ag.scatter(x, 1, i[:, None], 0.0), lambda x, i, m: ag.index_add(x, 0, i, x),
        lambda x, i, m: ag.index_copy(x, 0, i, 2.0 * x), lambda x, i, m: ag.take(x, i),
        lambda x, i, m: ag.index_put(x, (i,), 2.0 * x), lambda x, i, m: ag.masked_scatter(x, m, 2.0 * x),
        lambda x, i, m: ag.cross_entropy(x, i), lambda x, i, m: ag.cross_entropy(x, i, weight=np.arange(3.0)),
        lambda x, i, m: ag.nll_loss(x, i), lambda x, i, m: ag.multi_margin_loss(x, i),
    ],
)  # fmt: skip
def test_an_index_or_mask_may_be_used_again_for_others_before_backward(use):
    x, g = leaf(3, 3), None
    for overwritten in False, True:
        index, mask = np.array([2, 0, 1]), np.array([True, False, True])
        y = use(x, index, mask)
        if overwritten:
            index[:], mask[:] = 1, False
        x.grad = None
        (y * y).sum().backward()
        if overwritten:
            np.testing.assert_array_equal(x.grad, g)
        g = x.grad.copy()


def test_as_tensor_shares_what_is_there():
    x, a, t = leaf(2), np.ones(2), torch.ones(2)
    assert ag.as_tensor(x) is x and ag.as_tensor(x, "float32").dtype == np.float32
    ag.as_tensor(x, "float32").sum().backward()
    np.testing.assert_array_equal(x.grad, 1.0)
    for shared in ag.as_tensor(a), ag.from_numpy(a):
        a[0] += 1.0
        assert shared.tolist() == a.tolist() and not shared.requires_grad
    t[0] = 5.0
    assert ag.as_tensor(t).tolist() == [5.0, 1.0]
    assert ag.as_tensor([1.0]).dtype == np.float32 and ag.as_tensor(a, "float32").dtype == np.float32
    x.retain_grad()
