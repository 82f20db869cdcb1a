"""Every operator on a CUDA device: the rows of the operators' tables, and torch's own samples of them.

Values and gradients are those of NumPy's arrays, no operation mixes host and device, and every kernel has a
deterministic form. The host waits for none of the operators that networks are made of.
"""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")

import allgrad as ag  # noqa: E402
from allgrad.autograd.arrays import to_numpy  # noqa: E402
from tests.autograd import test_opinfo as database  # noqa: E402
from tests.autograd.ops import table  # noqa: E402
from tests.autograd.ops.test_tables import OPERATORS, file_of  # noqa: E402

CUDA = "cuda:0"
NEVER_WAIT = {
    "activations", "arrangements", "attention", "composed_activations", "convolution", "dropout", "elementwise",
    "in_place", "linalg", "losses", "more_normalization", "normalization", "pooling", "products", "reductions", "scans",
}  # fmt: skip
OTHERWISE = r"dropout|gumbel|\.cpu\(\)"  # random numbers of the device's own, and a tensor that stays on the host
ROWS = [
    (module, case)
    for module in OPERATORS
    for case in vars(file_of(module)).get("TABLE", ())
    if not re.search(OTHERWISE, case.ours)
]
on_device = table.Library(lambda x: torch.as_tensor(np.array(x, order="C"), device=CUDA), ag)


def ones_like(y):
    return torch.ones(y.shape, dtype=y.data.dtype, device=CUDA)


@pytest.mark.parametrize("module, case", ROWS, ids=[f"{module} {case}" for module, case in ROWS])
def test_rows_of_the_tables(module, case, device):
    arrays = case.inputs(np.float32)
    leaves, wanted_leaves = ([ag.tensor(a, requires_grad=True, device=d) for a in arrays] for d in (CUDA, "numpy"))
    wanted = case(table.OURS, *wanted_leaves)
    device.reset()
    y = case(on_device, *leaves)
    if y.node is not None:
        y.backward(ones_like(y))
        wanted.backward(np.ones(wanted.shape, np.float32))
    if module in NEVER_WAIT and not re.search(r"np\.|\[", case.ours):  # arrays of the host have to be copied
        assert not [where for _, where in device.waits if where]  # in the project: rows make constants of their own
    compare(y.numpy(), wanted.numpy())
    for leaf, other in zip(leaves, wanted_leaves):
        assert (leaf.grad is None) == (other.grad is None)
        if leaf.grad is not None:
            compare(to_numpy(leaf.grad), other.grad, 1e-3)


@database.at_each_entry
def test_samples_of_torch(name, device):
    for sample in database.samples(name, torch.float32, most=8):
        copies = {i: (t, torch.as_tensor(a, device=CUDA)) for i, (t, a) in sample.copies.items()}
        results = []
        for given, where in ((sample.copies, "numpy"), (copies, CUDA)):
            sample.copies = given
            leaves = [ag.tensor(x, requires_grad=True, device=where) for x in sample.arrays]
            with np.errstate(all="ignore"):
                ys = sample.run_ours(*leaves)
                for y in ys:
                    if isinstance(y, ag.Tensor) and y.node is not None:
                        ones = np.ones(y.shape, y.dtype) if where == "numpy" else ones_like(y)
                        y.backward(ones, retain_graph=True)
            results.append((ys, leaves))
        (wanted, others), (ys, leaves) = results
        for y, w in zip(ys, wanted, strict=True):
            compare(*(to_numpy(a.data if isinstance(a, ag.Tensor) else a) for a in (y, w)), 2e-3)
        for leaf, other in zip(leaves, others):
            if other.grad is not None and leaf.grad is not None:
                compare(to_numpy(leaf.grad), other.grad, 2e-2)


def compare(have, want, relative=2e-4):
    np.testing.assert_allclose(have, want, rtol=relative, atol=relative / 10)
