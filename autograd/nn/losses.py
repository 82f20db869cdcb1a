"""Losses as modules, criterion(prediction, target): each calls the function of `ag` that its docstring names.

As in torch, `reduction` is "mean", "sum" or "none", and what follows the first arguments is given by name. Class
weights are constants of the module, part of its state, and move with `Module.to`.
"""

from allgrad.autograd import ops
from allgrad.autograd.engine import tensor, unwrap
from allgrad.autograd.nn.functions import FunctionModule, module_of


class _Loss(FunctionModule):
    def kept(self, name, value):
        return tensor(unwrap(value)) if name in ("weight", "pos_weight") and value is not None else value


def _loss(function, name, arguments, doc, inputs="input, target"):
    return module_of(function, name, arguments, f"{doc}: see `ag.{function.__name__}`.", _Loss, inputs)


CrossEntropyLoss = _loss(
    ops.cross_entropy, "CrossEntropyLoss", "weight, *, ignore_index, reduction, label_smoothing",
    "Negative log-likelihood of the target under softmax(logits)",
)  # fmt: skip
NLLLoss = _loss(
    ops.nll_loss, "NLLLoss", "weight, *, ignore_index, reduction", "Negative log-likelihood, of log-probabilities"
)
MSELoss = _loss(ops.mse_loss, "MSELoss", "*, reduction", "Squared error")
L1Loss = _loss(ops.l1_loss, "L1Loss", "*, reduction", "Absolute error")
SmoothL1Loss = _loss(
    ops.smooth_l1_loss, "SmoothL1Loss", "*, reduction, beta", "Squared error below beta (1.0), absolute error beyond"
)
HuberLoss = _loss(
    ops.huber_loss, "HuberLoss", "reduction, delta", "Half the squared error below delta (1.0), linear beyond"
)
BCELoss = _loss(ops.binary_cross_entropy, "BCELoss", "weight, *, reduction", "Binary cross-entropy of probabilities")
BCEWithLogitsLoss = _loss(
    ops.binary_cross_entropy_with_logits, "BCEWithLogitsLoss", "weight, *, reduction, pos_weight",
    "Binary cross-entropy of logits",
)  # fmt: skip
KLDivLoss = _loss(
    ops.kl_div, "KLDivLoss", "*, reduction, log_target",
    'Kullback-Leibler divergence; reduction "batchmean" is the mathematical one',
)  # fmt: skip
PoissonNLLLoss = _loss(
    ops.poisson_nll_loss, "PoissonNLLLoss", "log_input, full, *, eps, reduction",
    "Negative log-likelihood of counts under Poisson's law", "log_input, target",
)  # fmt: skip
GaussianNLLLoss = _loss(
    ops.gaussian_nll_loss, "GaussianNLLLoss", "*, full, eps, reduction",
    "Negative log-likelihood of a Gaussian, criterion(mean, target, variance)", "input, target, var",
)  # fmt: skip
SoftMarginLoss = _loss(ops.soft_margin_loss, "SoftMarginLoss", "*, reduction", "Logistic loss of targets 1 and -1")
HingeEmbeddingLoss = _loss(
    ops.hinge_embedding_loss, "HingeEmbeddingLoss", "margin, *, reduction",
    "Distances that are to be small for target 1, and at least the margin (1.0) for -1",
)  # fmt: skip
MarginRankingLoss = _loss(
    ops.margin_ranking_loss, "MarginRankingLoss", "margin, *, reduction",
    "criterion(x1, x2, target): x1 is to be the larger by a margin (0.0) for target 1, x2 for -1",
    "input1, input2, target",
)  # fmt: skip
CosineEmbeddingLoss = _loss(
    ops.cosine_embedding_loss, "CosineEmbeddingLoss", "margin, *, reduction",
    "criterion(x1, x2, target): alike for target 1, with a cosine below the margin (0.0) for -1",
    "input1, input2, target",
)  # fmt: skip
TripletMarginLoss = _loss(
    ops.triplet_margin_loss, "TripletMarginLoss", "margin, p, eps, swap, *, reduction",
    "criterion(anchor, positive, negative): the positive is to be the nearer by a margin (1.0)",
    "anchor, positive, negative",
)  # fmt: skip
TripletMarginWithDistanceLoss = _loss(
    ops.triplet_margin_loss, "TripletMarginWithDistanceLoss", "*, distance_function, margin, swap, reduction",
    "`TripletMarginLoss` with a distance of one's own", "anchor, positive, negative",
)  # fmt: skip
MultiMarginLoss = _loss(
    ops.multi_margin_loss, "MultiMarginLoss", "p, margin, weight, *, reduction",
    "The margin (1.0) by which the target class is to be above each other",
)  # fmt: skip
MultiLabelSoftMarginLoss = _loss(
    ops.multilabel_soft_margin_loss, "MultiLabelSoftMarginLoss", "weight, *, reduction",
    "Mean of the classes' binary cross-entropies",
)  # fmt: skip
