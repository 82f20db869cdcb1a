"""The noise scale at frozen weights, from many micro-batches or exactly from every example.

In training |G|^2 may fall a thousandfold within the memory of a moving average; here nothing moves. All functions work
on a copy of the model in float64 and evaluation mode, so that training does not notice them, and take

    loss(outputs, *targets)   the mean over the samples, one number a sample, or a `Weighted`: `ag.cross_entropy`
    x, targets                arrays whose first axis counts the samples
"""

import copy
import math
from dataclasses import dataclass

import numpy as np

from allgrad import autograd as ag
from allgrad.autograd import nn, random
from allgrad.autograd.arena import arena_of
from allgrad.autograd.arrays import to_backend_of, to_numpy
from allgrad.ddp.comm import Communicator
from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.ddp.scaling.intervals import of_parts
from allgrad.ddp.scaling.noise_scale import ratio
from allgrad.ddp.shards import shards_of_rank
from allgrad.ddp.weighted import weighted

ELEMENTWISE = (
    nn.ELU, nn.GELU, nn.Hardtanh, nn.Identity, nn.LeakyReLU, nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Tanh,
    nn.Dropout,  # which does nothing in evaluation mode
)  # fmt: skip


@dataclass(frozen=True)
class NoiseEstimate:
    """trace = tr(Sigma) and signal = |G|^2.

    interval   95 % confidence interval (low, high) of the noise scale, None of an exact value; high is inf where
               nothing bounds it from above
    why        what keeps the samples from giving an upper end, with which low alone is a bound at 95 %; else None
    """

    trace: float
    signal: float
    interval: tuple[float, float] | None = None
    why: str | None = None

    @property
    def noise_scale(self) -> float | None:
        """tr(Sigma) / |G|^2, or None where no signal is above the noise."""
        return ratio(self.trace, self.signal)


@dataclass(frozen=True)
class ExactNoise:
    """The noise scale of the distribution that the samples were drawn from, and that of these samples themselves.

    squares   |g_i|^2 of each sample's gradient: (N,)
    """

    population: NoiseEstimate
    train_set: NoiseEstimate
    squares: np.ndarray


class Frozen:
    """A copy of a model in float64 and evaluation mode, and the gradients of its mean loss as flat float64 arrays."""

    def __init__(self, model, loss, x, *targets):
        self.model, self.loss = copy.deepcopy(model).to("float64").eval(), loss
        self.arena = arena_of(self.model)
        arrays = [np.asarray(a) for a in (x, *targets)]
        if len({len(a) for a in arrays}) != 1:
            raise ValueError(f"a probe takes arrays of one length, got {[len(a) for a in arrays]}")
        self.arrays = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
        self.weights = to_numpy(self.arena.data).copy()

    def __len__(self):
        return len(self.arrays[0])

    def samples(self, indices=slice(None)):
        """The arrays of some samples, where the model lives."""
        return [to_backend_of(a[indices], self.arena.data) for a in self.arrays]

    def gradient(self, indices=slice(None), weights=None):
        """Of the mean loss of some samples, at other weights if given."""
        return self.gradient_and_weight(indices, weights)[0]

    def gradient_and_weight(self, indices=slice(None), weights=None):
        """The gradient, and how much the samples' mean loss counts among others: see `ddp.weighted`."""
        self.arena.data[...] = to_backend_of(self.weights if weights is None else weights, self.arena.data)
        self.arena.bump_versions()
        self.arena.zero_grad()
        x, *targets = self.samples(indices)
        value, weight = mean(self.loss(self.model(x), *targets), len(x))
        if weight:
            value.backward()
        self.arena.zero_missing_grads()
        return to_numpy(self.arena.grad).copy(), weight


def mean(value, samples):
    """What a loss has returned for some samples as (their mean, its weight)."""
    tensor, weight, is_mean = weighted(value, samples)
    weight = float(weight)
    return (tensor if is_mean else tensor.sum() * (1.0 / (weight or math.nan))), weight


def noise_of_batches(model, loss, x, *targets, batch, count=128, seed=0, comm=None) -> NoiseEstimate:
    """The noise scale from the gradients of `count` micro-batches of `batch` samples, drawn without replacement.

    The analysis of variance over the micro-batches, as in `NoiseScale`, of McCandlish et al. 2018, appendix A.1, with
    an interval from what the estimates lose without each of the micro-batches: see `intervals`. An upper end takes 100
    micro-batches and 1000 samples. Many small micro-batches say more of the noise than few large ones. With ranks,
    each computes its share of them, and all get the same result.
    """
    frozen, comm = Frozen(model, loss, x, *targets), comm or Communicator()
    if count < 3 or batch < 1 or count * batch > len(frozen):
        raise ConfigurationError(
            f"a probe takes 3 micro-batches or more of 1 sample or more, all different, got {count} of {batch} from "
            f"{len(frozen)} samples: take fewer or smaller ones"
        )
    order = random.permutation(len(frozen), seed, "probe")[: count * batch].reshape(count, batch)
    mine = [frozen.gradient_and_weight(order[i]) for i in range(*shards_of_rank(comm.rank, comm.size, count))]
    found = [pair for pairs in comm.all_gather_object(mine) for pair in pairs]
    rows, weights = (np.array(column) for column in zip(*found))
    w = weights / weights.mean()
    products = rows @ rows.T  # all that norms of means of micro-batches need
    both, pseudo = analysis(np.diag(products), products @ w, products @ (w * w), w, batch)
    interval, why = of_parts(*both, pseudo, count * batch, "micro-batches")
    return NoiseEstimate(*both, interval, why)


def analysis(squares, along, along_squared, w, batch):
    """Unbiased (tr(Sigma), |G|^2) from mean gradients g_i of parts of a sample, and their pseudo-values: (parts, 2).

    batch                 samples in a part
    w                     weights of the parts, of mean 1: (parts,)
    squares               |g_i|^2: (parts,)
    along, along_squared  products of g_i with sum_j w_j g_j, and with sum_j w_j^2 g_j: (parts,)

    The residual of a part, what it adds to the error of the ratio G, is w_i (g_i - G) over the mean weight.
    """
    n, total, ww = len(w), float(w @ along), w * w

    def estimates(count, sum_w, sum_ww, own, mean_along, squared):
        mean = sum_w / count
        trace = batch * (own - 2.0 * mean_along + sum_ww * squared) / (mean * mean * (count - 1))
        return trace, squared - trace / (count * batch)

    both = estimates(n, w.sum(), ww.sum(), ww @ squares, ww @ along / w.sum(), total / w.sum() ** 2)
    rest = w.sum() - w  # and so on, without each of the parts
    mean_along = (ww @ along - ww * along - w * along_squared + w * ww * squares) / rest
    without = estimates(
        n - 1, rest, ww.sum() - ww, ww @ squares - ww * squares, mean_along,
        (total - 2.0 * w * along + ww * squares) / rest**2,
    )  # fmt: skip
    pseudo = np.stack([n * one - (n - 1) * others for one, others in zip(both, without)], axis=1)
    return (float(both[0]), float(both[1])), pseudo


def noise_of_examples(model, loss, x, *targets) -> ExactNoise:
    """The exact noise scale of all samples, from one forward and one backward.

    For a stack of Linear layers, with inputs a and gradients d of what they compute, a sample's squared gradient is

        |g_i|^2 = sum over layers of |d_i|^2 (|a_i|^2 + 1)        without the 1 if there is no bias

    (Goodfellow 2015, "Efficient Per-Example Gradient Computations"). Over the N samples, with G their mean gradient,
    tr(Sigma) = (mean |g_i|^2 - |G|^2) N / (N - 1), and the population's |G|^2 is |G|^2 - tr(Sigma) / N. The interval of
    the population's noise scale is the jackknife's over the samples, whose products with G are found the same way.

    The model is a Sequential of Linear and elementwise layers, and `Flatten` in front.
    """
    frozen = Frozen(model, loss, x, *targets)
    n = len(frozen)
    if n < 2:
        raise ConfigurationError(f"a probe of the noise scale takes 2 samples or more, got {n}")
    layers = _stack(frozen.model)
    h, *targets = frozen.samples()
    h, kept = ag.tensor(h), []
    for layer in layers:
        inputs, h = h, layer(h)
        if isinstance(layer, nn.Linear):
            if inputs.ndim != 2:
                raise ConfigurationError(
                    f"exact noise scales take samples of one axis, got inputs of shape {tuple(inputs.shape)} to a "
                    f"Linear layer: begin with Flatten, or use noise_of_batches"
                )
            probe = ag.tensor(np.zeros(h.shape), requires_grad=True)  # its gradient is that of what the layer computes
            kept.append((layer, to_numpy(inputs.detach().data), probe))
            h = h + probe
    frozen.arena.zero_grad()
    value, weight = mean(loss(h, *targets), n)
    if weight % n:
        raise ConfigurationError(
            f"exact noise scales take a loss in which every sample counts alike, and {counted(n, 'sample')} have "
            f"weight {weight:g}: use noise_of_batches"
        )
    value.backward()
    frozen.arena.zero_missing_grads()
    squares, along = np.zeros(n), np.zeros(n)
    for layer, inputs, probe in kept:
        trained = [p is not None and p.requires_grad for p in (layer.weight, layer.bias)]
        d = n * to_numpy(probe.grad)  # of a sample's own loss: of the mean it is 1 / n
        squares += np.sum(d * d, axis=1) * (trained[0] * np.sum(inputs * inputs, axis=1) + trained[1])
        if trained[0]:
            along += np.sum((inputs @ to_numpy(layer.weight.grad).T) * d, axis=1)
        if trained[1]:
            along += d @ to_numpy(layer.bias.grad)
    (trace, unbiased), pseudo = analysis(squares, n * along, n * along, np.ones(n), 1)
    interval, why = of_parts(trace, unbiased, pseudo, n, "samples")
    gradient = to_numpy(frozen.arena.grad)
    return ExactNoise(
        NoiseEstimate(trace, unbiased, interval, why),
        NoiseEstimate(trace, float(gradient @ gradient)),
        squares,
    )


def _stack(model):
    """The layers of a Sequential, and of those in it; ConfigurationError if `noise_of_examples` cannot take them."""
    if not isinstance(model, nn.Sequential):
        raise ConfigurationError(
            f"exact noise scales take a Sequential of Linear and elementwise layers, got {type(model).__name__}: "
            f"use noise_of_batches"
        )
    layers = []
    for layer in model.layers:
        layers += _stack(layer) if isinstance(layer, nn.Sequential) else [layer]
    for i, layer in enumerate(layers):
        first = not any(isinstance(other, nn.Linear) for other in layers[:i])
        if not (type(layer) in (nn.Linear, *ELEMENTWISE) or (type(layer) is nn.Flatten and first)):
            raise ConfigurationError(
                f"exact noise scales take Linear and elementwise layers, got {type(layer).__name__}: "
                f"use noise_of_batches"
            )
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    parameters = [id(p) for layer in linear for p in (layer.weight, layer.bias) if p is not None]
    if len({*parameters}) != len(parameters):
        raise ConfigurationError("exact noise scales take layers that share no parameters: use noise_of_batches")
    return layers
