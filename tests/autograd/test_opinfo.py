"""Values and gradients against PyTorch's own operator samples: the OpInfo database that ships with torch."""

import numpy as np
import pytest

import autograd as ag

torch = pytest.importorskip("torch")
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

OURS = {
    "add": lambda a, b, alpha=1: a + (b if alpha == 1 else b * alpha),
    "sub": lambda a, b, alpha=1: a - (b if alpha == 1 else b * alpha),
    "div": ag.div,
    "max_reduction_no_dim": ag.max,
    "permute": ag.permute,
}
NAMES = """
    abs add sub mul div neg pow exp expm1 log log1p sqrt rsqrt reciprocal square sign sin cos tanh sigmoid erf
    maximum minimum where clamp sum mean var std prod cumsum logsumexp amax amin max min norm softmax log_softmax
    matmul mm bmm outer einsum reshape permute transpose squeeze unsqueeze expand broadcast_to flip roll cat stack
    split chunk tril triu gather index_select take_along_dim masked_fill
    nn.functional.relu nn.functional.leaky_relu nn.functional.elu nn.functional.gelu nn.functional.silu
    nn.functional.softplus nn.functional.hardtanh nn.functional.linear nn.functional.conv1d nn.functional.conv2d
    nn.functional.conv_transpose2d nn.functional.max_pool2d nn.functional.avg_pool2d
    nn.functional.adaptive_avg_pool2d nn.functional.batch_norm nn.functional.layer_norm nn.functional.group_norm
    nn.functional.embedding nn.functional.scaled_dot_product_attention nn.functional.mse_loss
    nn.functional.l1_loss nn.functional.huber_loss nn.functional.cross_entropy nn.functional.nll_loss
    nn.functional.kl_div nn.functional.binary_cross_entropy_with_logits nn.functional.pad
""".split()
OPS = [op for op in op_db if op.name in NAMES and op.dtypes and torch.float64 in op.dtypes]


def test_every_operator_is_covered():
    assert set(NAMES) - {op.name for op in OPS} == set()


@pytest.mark.parametrize("op", OPS, ids=lambda op: f"{op.name}-{op.variant_test_name}".strip("-"))
def test_agrees_with_torch(op):
    ours = OURS.get(op.name, getattr(ag, op.name.removeprefix("nn.functional."), None))
    checked = 0
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        leaves = []
        args, kwargs = (
            [_ours(x, leaves) for x in sample.args],
            {k: _ours(v, leaves) for k, v in sample.kwargs.items()},
        )
        first = _ours(sample.input, leaves)
        theirs = _tensors(op(sample.input, *sample.args, **sample.kwargs))
        mine = _tensors(ours(first, *args, **kwargs))
        for m, t in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(_array(m), t.detach().numpy(), rtol=1e-10, atol=1e-12)
            if not t.requires_grad:
                continue
            g = torch.randn_like(t)
            m.backward(g.numpy(), retain_graph=True)
            t.backward(g, retain_graph=True)
        for leaf, tensor in leaves:
            want = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
            have = np.zeros(tensor.shape) if leaf.grad is None else leaf.grad
            np.testing.assert_allclose(have, want, rtol=1e-9, atol=1e-11)
        checked += 1
    assert checked


def _ours(x, leaves):
    if isinstance(x, torch.Tensor):
        if x.requires_grad:
            x.retain_grad()
            leaf = ag.tensor(x.detach().numpy(), requires_grad=True)
            leaves.append((leaf, x))
            return leaf
        return x.detach().numpy()
    if isinstance(x, (list, tuple)):
        return type(x)(_ours(y, leaves) for y in x) if not isinstance(x, torch.Size) else tuple(x)
    return x


def _tensors(x):
    return [x] if not isinstance(x, (list, tuple)) else list(x)


def _array(x):
    return x.numpy() if isinstance(x, ag.Tensor) else np.asarray(x)
