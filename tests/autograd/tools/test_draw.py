"""The drawing of a graph: the right numbers beside the right operations, all of them worked out by hand."""

import numpy as np

import allgrad as ag
from allgrad import nn


def test_every_node_is_drawn_with_its_value_and_partial_derivative():
    x, w = (ag.tensor(a, requires_grad=True) for a in ([1.0, 2.0], [3.0, -0.5]))
    text = ag.draw_graph(lambda: (x * w).relu().sum() * 2.0 + (w**2).sum(), {"x": x, "w": w})
    assert text.replace("-0.]", "0.]").split("\n") == [  # d x = 2 w m and d w = 2 x m + 2 w with the mask m = [1, 0]
        "    node         value        d result / d node",
        "#0  x            [1. 2.]      [ 6. 0.]",
        "#1  w            [ 3.  -0.5]  [ 8. -1.]",
        "#2  mul(#0, #1)  [ 3. -1.]    [2. 0.]",
        "#3  relu(#2)     [3. 0.]      [2. 2.]",
        "#4  sum(#3)      3.           2.",
        "#5  mul(#4)      6.           1.",
        "#6  pow(#1)      [9.   0.25]  [1. 1.]",
        "#7  sum(#6)      9.25         1.",
        "#8  add(#5, #7)  15.25        1.",
    ]


def test_a_module_is_drawn_by_its_names_and_a_second_time_the_same():
    model = nn.Sequential(nn.Linear(2, 1))
    model.load_state_dict({"0.weight": [[1.0, 2.0]], "0.bias": [0.5]})
    inputs, targets = np.array([[1.0, 1.0], [2.0, -3.0]], "f"), np.array([[1.5], [-4.5]], "f")
    for passes in (1, 2):
        text = ag.draw_graph(lambda: ag.mse_loss(model(inputs), targets), model, precision=2)
        assert text.split("\n") == [  # errors [2, 1], so that d weight = 2 [1, 1] + 1 [2, -3]
            "    node               value            d result / d node",
            "#0  0.weight           [[1. 2.]]        [[ 4. -1.]]",
            "#1  0.bias             [0.5]            [3.]",
            "#2  linear(#0, #1)     [[ 3.5] [-3.5]]  [[2.] [1.]]",
            "#3  squared_error(#2)  2.5              1.",
        ]
        np.testing.assert_array_equal(model[0].weight.grad, np.multiply(passes, [[4.0, -1.0]]))


def test_what_is_not_named_goes_by_its_own_name_and_fractions_are_rounded():
    x = ag.tensor(3.0, requires_grad=True, name="unnamed")
    assert ag.draw_graph(lambda: 1.0 / x, {}, precision=2).split("\n") == [
        "    node     value  d result / d node",
        "#0  unnamed  None   -0.11",
        "#1  div(#0)  0.33   1.",
    ]


def test_dot_has_every_node_and_edge_and_with_values_the_partial_derivatives():
    w, x = ag.tensor(2.0, requires_grad=True, name="w"), ag.tensor(3.0, requires_grad=True, name='the "x"')
    product = w * x
    loss = product * product + w
    lines = ag.to_dot(loss).split("\n")
    assert '  n0 [label="w\\n()", shape=box];' in lines and '  n1 [label="the \\"x\\"\\n()", shape=box];' in lines
    assert sum(" -> " in line for line in lines) == 6 and lines.count("  n2 -> n3;") == 2
    for text in (ag.to_dot(loss, values=True), ag.to_dot(lambda: (w * x) ** 2 + w, values=True)):
        assert 'label="w\\n()\\nvalue 2.\\npartial 37."' in text and "value 6.\\npartial 12." in text
    text = ag.to_dot(loss, values=True)
    assert 'n2 -> n3 [label="6."]' in text and 'n0 -> n2 [label="3."]' in text
    loss.backward()
    assert w.grad == 37.0  # nothing had been accumulated or freed


def test_a_drawing_is_written_where_it_is_wanted(tmp_path):
    w, x = (ag.tensor(v, requires_grad=True) for v in (2.0, 3.0))
    text = ag.draw_graph(lambda: (w * x).tanh() * w, {"w": w, "x": x}, file=tmp_path / "graph.svg")
    assert text == ag.draw_graph(lambda: (w * x).tanh() * w, {"w": w, "x": x})
    assert (tmp_path / "graph.svg").read_text().startswith("<?xml")
