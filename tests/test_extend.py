"""The walk through of `allgrad.extend`: every example runs, checks itself, and shows all names."""

import re
import textwrap

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import extend


@pytest.fixture(scope="module")
def walk():
    """What the examples of the docstring define, run one after the other as one script."""
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", extend.__doc__, re.MULTILINE)
    code = "\n".join(textwrap.dedent(block) for block in blocks)
    found: dict = {}
    exec(compile(code, "allgrad.extend", "exec"), found)
    return found | {"code": code}


def test_the_examples_hold_and_show_every_name(walk):
    assert walk["code"].count("ag.gradcheck(") == 6 and walk["code"].count("@primitive") == 6
    for name in extend.__all__:
        assert re.search(rf"\b{name}\b", walk["code"]) and re.search(rf"^{name}  +\w", extend.__doc__, re.MULTILINE)


def test_second_derivatives_on_torch_tensors_are_those_of_the_first_rule(walk):
    softsign = walk["softsign"]
    second = ag.grad(lambda x: ag.grad(lambda x: softsign(x).sum())(x).sum())
    x = np.array([0.5, -2.0])
    np.testing.assert_allclose(second(x), -2.0 * np.sign(x) / (1.0 + abs(x)) ** 3, rtol=1e-12)
    np.testing.assert_allclose(second(torch.tensor(x)), second(x), rtol=1e-12)


def test_the_work_that_vjps_share_is_done_once(walk, monkeypatch):
    calls = []
    usual = np.linalg.solve
    a, b = (ag.tensor(x, requires_grad=True) for x in (np.eye(2) * 2.0, np.ones(2)))
    x = walk["solve"](a, b)
    monkeypatch.setattr(np.linalg, "solve", lambda *args: calls.append(args) or usual(*args))
    x.sum().backward()
    assert len(calls) == 1 and b.grad.tolist() == [0.5, 0.5] and a.grad.tolist() == [[-0.25] * 2] * 2


def test_a_wrong_rule_is_found(walk):
    @extend.primitive
    def wrong(x):
        return x * x, lambda g: g * x

    with pytest.raises(AssertionError, match="gradcheck: the rules give 1 for element"):
        ag.gradcheck(wrong, np.array([1.0]))
