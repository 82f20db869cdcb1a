"""Losses of pairs, margins and counts, with every reduction.

A new operator is a new row of TABLE: see `table.py`.
"""

from tests.autograd.ops.kinks import *  # noqa: F403 - the tests of each row of KINKS
from tests.autograd.ops.table import *  # noqa: F403 - the tests of each row of TABLE
from tests.autograd.ops.table import cases

TABLE = [
    *[c for r in ("mean", "sum", "none") for c in [
        *cases([(3, 4), (3, 4)], f"m.smooth_l1_loss(a, b, reduction='{r}', beta=0.7)"),
        *cases([(3, 4), (3, 4)], f"m.soft_margin_loss(a, m.sign(b).detach(), reduction='{r}')"),
        *cases([(3, 4), (3, 4)], f"m.hinge_embedding_loss(a, m.sign(b), 0.6, reduction='{r}')"),
        *cases([(3, 4)] * 3, f"m.margin_ranking_loss(a, b, m.sign(c), 0.4, reduction='{r}')"),
        *cases([(3, 4), (3, 4)], f"m.cosine_embedding_loss(a, b, m.array([1, -1, -1]), 0.1, reduction='{r}')"),
        *cases([(3, 4)] * 3, f"m.triplet_margin_loss(a, b, c, 0.9, swap=True, reduction='{r}')"),
        *cases([(3, 4), (3, 4)], f"m.poisson_nll_loss(a, b, full=True, reduction='{r}')", domain="positive"),
        *cases([(3, 4)] * 3, f"m.gaussian_nll_loss(a, b, c, reduction='{r}')", domain="positive"),
        *cases([(3, 4)], f"m.multi_margin_loss(a, m.array([2, 0, 3]), 2, 0.8, reduction='{r}')"),
        *cases([(3, 4), (3, 4)], f"m.multilabel_soft_margin_loss(a, m.sigmoid(b), reduction='{r}')"),
    ]],
    *cases([(3, 4), (3, 4)], "m.smooth_l1_loss(a, b, beta=0.0)", torch="m.l1_loss(a, b)"),
    *cases([(3, 4), (3, 4)], "m.poisson_nll_loss(a, b, log_input=False)", domain="positive"),
    *cases([(3, 4), (3, 4), (3,)], "m.gaussian_nll_loss(a, b, c, full=True)", domain="positive"),
    *cases([(3, 4), (3, 4)], "m.gaussian_nll_loss(a, b, 0.5)", "m.pairwise_distance(a, b)"),
    *cases([(3, 4), (3, 4)], "m.cosine_similarity(a, b)", "m.cosine_similarity(a, b, dim=0)"),
    *cases([(3, 1), (1, 4)], "m.cosine_similarity(a, b)"),
    *cases([(4,), (3, 4)], "m.pairwise_distance(a, b, p=2.0, keepdim=True)"),
    *cases([(3, 4)], "m.multi_margin_loss(a, m.array([2, 0, 3]), 1, 0.9, m.array(np.arange(4.0)))"),
]  # fmt: skip
KINKS = [
    "m.smooth_l1_loss(a, a * 0)", "m.hinge_embedding_loss(a, m.array(TIES) * 0 - 1.0)",
    "m.margin_ranking_loss(a, a * 0, m.array(TIES) * 0 + 1.0, 1.0)",
]  # fmt: skip
