"""Where the first nan or infinity came from: the operation, the line, the shapes; and nothing left behind."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.autograd.engine import Leaf, Tensor, operations


def rules():
    """What each operation computes by."""
    return {operation: operation.wrap_rule(lambda rule: rule) for operation in operations}


X = ag.tensor([[0.0, 1.0, 2.0]], requires_grad=True, name="x")


@pytest.mark.parametrize(
    "f, said",
    [
        (lambda: X.log(), "gave -inf from inputs of shape (1, 3)"),
        (lambda: X / np.zeros(3, "f"), "gave nan from inputs of shape (1, 3) and (3,)"),
        (lambda: ag.grad(lambda x: (x / 0.0).sum())(np.ones(2)), "gave inf from inputs of shape (2,) and ()"),
        (lambda: ag.cross_entropy(ag.tensor([[1e38, 0.0]]) * 10.0, [0]), "gave inf from inputs of shape"),
        (
            lambda: (X * 1.0).sqrt().sum().backward(),
            "the gradient of its input 0, of shape (1, 3), became inf",
        ),
        (
            lambda: ag.linear(X, np.full((1, 3), 1e38, "f")).backward([[10.0]]),
            "of its input 0, of shape (1, 3)",
        ),
    ],
)
def test_the_error_names_the_operation_the_line_and_the_shapes(f, said):
    with pytest.raises(RuntimeError) as caught, ag.detect_anomaly():
        f()
    line = f"test_anomaly.py:{f.__code__.co_firstlineno} "
    assert line in str(caught.value) and said in str(caught.value) and "/engine/" not in str(caught.value)


def test_which_input_is_named_of_those_that_need_a_gradient():
    a, b = ag.tensor([1.0], requires_grad=True), ag.tensor([0.0], requires_grad=True)
    message = r"backward of pow at .*input 0, of shape \(1,\), became inf"
    with pytest.raises(RuntimeError, match=message), ag.detect_anomaly():
        (b ** (a * 0.5)).sum().backward()


def test_infinities_that_were_given_pass_and_finite_work_gives_the_same_gradients():
    model, x = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), ag.tensor(np.ones((5, 3, 8)), dtype="float32")
    gradients = []
    for context in (ag.enable_grad(), ag.detect_anomaly()):
        with context:
            model.zero_grad()
            (model(x, is_causal=True) ** 2).sum().backward()
            ag.amax(ag.masked_fill(X, np.array([True, False, False]), -np.inf))
        gradients.append([p.grad.copy() for p in model.parameters()])
    for a, b in zip(*gradients):
        np.testing.assert_array_equal(a, b)


def test_a_graph_recorded_before_is_checked_and_nothing_is_left_behind():
    loss, before = (X * 1.0).sqrt().sum(), (Tensor.backward, Leaf.accumulate, rules())
    with (
        pytest.raises(RuntimeError, match="backward of sqrt recorded before detect_anomaly: the gradient of its input"),
        ag.detect_anomaly(),
        ag.detect_anomaly(),
    ):
        loss.backward()
    assert before == (Tensor.backward, Leaf.accumulate, rules())
    with np.errstate(all="ignore"):
        assert np.isneginf(X.log().data[0, 0])
        (X * 1.0).sqrt().sum().backward()
    assert np.isposinf(X.grad[0, 0])
