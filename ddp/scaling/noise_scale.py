"""The gradient noise scale, from the spread of the logical shards' gradients, with a confidence interval.

McCandlish et al. 2018, "An Empirical Model of Large-Batch Training": B_simple = tr(Sigma) / |G|^2, the batch at which
the noise of the gradient is as large as the gradient. With V shards of b_v samples, n in all, mean gradients g_v and
their weighted mean g, the analysis of variance gives the unbiased

    tr(Sigma) = (sum_v b_v |g_v|^2 - n |g|^2) / (V - 1)          |G|^2 = |g|^2 - tr(Sigma) / n

for shards of any sizes. Both are averaged over steps before the ratio is taken: a mean of ratios would be biased.

The unit is the sample, which is what a batch is counted in. Where a loss is a weighted sum (over the labels that count,
or with classes' weights), b_v is the shard's share of the n samples by weight: n w_v / sum_u w_u.

How far both can be trusted: see `intervals`.
"""

import array
import math
from typing import Any

import numpy as np

from allgrad.autograd.arrays import xp
from allgrad.ddp.scaling.intervals import LEAST_CONTRASTS, LEVEL, STEPS_A_CONTRAST, course, fieller, student, too_few

CHUNK = 16_384  # elements whose squares are added up in the gradient's own precision
RECENT = 256  # numbers of steps that are kept
MEMORIES = 4.0  # of 1 / (1 - decay) steps, that they span at least


class Averages:
    """Weighted means over steps of the pairs (trace, signal), numbers or arrays.

    A step's weight falls by `decay` with each later step. `weights` are the sums of the weights and of their squares,
    so that weights[0]^2 / weights[1] is the number of equally weighted steps that would say as much.
    """

    def __init__(self, decay, like=0.0):
        self.decay, self.weights = decay, [0.0, 0.0]
        self.trace = self.signal = like

    def update(self, trace, signal):
        after = self.decay * self.weights[0] + 1.0
        self.weights = [after, self.decay * self.decay * self.weights[1] + 1.0]
        self.trace, self.signal = (
            self.trace + (trace - self.trace) / after,
            self.signal + (signal - self.signal) / after,
        )

    def state_dict(self):
        """As JSON values."""
        trace, signal = np.array([self.trace, self.signal]).tolist()
        return {"weights": self.weights, "trace": trace, "signal": signal}

    def load_state_dict(self, state):
        several = isinstance(state["trace"], list)
        self.weights = list(state["weights"])
        self.trace, self.signal = (np.array(v) if several else v for v in (state["trace"], state["signal"]))


class Recent:
    """The last steps (trace, signal, samples), or means of `length` steps where the memory is longer than RECENT."""

    def __init__(self, decay):
        self.decay, self.length = decay, 1
        self.numbers = array.array("d")  # three of each block
        self.sums, self.count = [0.0, 0.0, 0.0], 0  # of the steps of the next block

    def blocks(self):
        """(number, 3)."""
        return np.array(self.numbers).reshape(-1, 3)

    def add(self, *step):
        if self.length > 1:
            self.sums = [a + b for a, b in zip(self.sums, step)]
            self.count += 1
            if self.count < self.length:
                return
            step = tuple(a / self.length for a in self.sums)
            self.sums, self.count = [0.0, 0.0, 0.0], 0
        if len(self.numbers) == 3 * RECENT:
            if RECENT * self.length * (1.0 - self.decay) < MEMORIES:
                self.numbers = array.array("d", self.blocks().reshape(-1, 2, 3).mean(1).ravel())
                self.sums, self.count = [a * self.length for a in step], self.length
                self.length *= 2
                return
            del self.numbers[:3]
        self.numbers.extend(step)

    def state_dict(self):
        """As JSON values."""
        return {"length": self.length, "blocks": self.blocks().tolist(), "sums": self.sums, "count": self.count}

    def load_state_dict(self, state):
        self.length, self.count, self.sums = state["length"], state["count"], list(state["sums"])
        self.numbers = array.array("d", np.ravel(state["blocks"]))


class NoiseScale:
    """Running estimate of the noise scale.

    decay   of the exponential moving averages; 1 gives every step the same weight
    layers  whether to keep one for each parameter too, in `layers`: costs a few microseconds a parameter and shard

    `value` is the mean of tr(Sigma) over that of |G|^2, over the last 1 / (1 - decay) steps or so, and `interval` is
    about just this: the ratio of what the two are expected to be over these steps, in a run like this one with another
    seed. In training the noise scale drifts, mostly upwards; the mean of the last steps is then not what it is now.
    `drift` says by how much it grows with each step, and `remark` that it does.

    The true value is that of the distribution that samples are drawn from: of samples drawn without replacement from a
    small set, that set's |G|^2 less its own sampling noise, which nears 0, or falls below it, once the set has been
    learnt.
    """

    def __init__(self, decay=0.95, layers=False):
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"NoiseScale: decay is from 0 to 1, got {decay}")
        self.averages, self.layer_averages = Averages(decay), Averages(decay) if layers else None
        self.recent = Recent(decay)
        self.last: tuple[float, float] | None = None  # (trace, signal) of the last step alone, if it has any
        self.names, self.chunks, self.on_cpu = [], [], True
        self.squares: list[Any] = []

    # --- measuring ------------------------------------------------------------------------------------------------

    def attach(self, arena):
        """Measure the gradients of this arena."""
        self.names, parts = list(arena.spans), [arena.grad[span] for span in arena.spans.values()]
        self.on_cpu = arena.on_cpu
        self.chunks = parts if not self.on_cpu else [[g[i : i + CHUNK] for i in range(0, len(g), CHUNK)] for g in parts]
        self.squares = [0.0] * len(parts)

    def square(self, which=slice(None)):
        """Take note of |g|^2 of a slice of the parameters, whose gradients the arena holds.

        One parameter at a time, so that the sum of all does not depend on what is exchanged when. On a device, squares
        are float64 tensors of shape () there.
        """
        if not self.on_cpu:
            some = self.chunks[which]
            self.squares[which] = xp[type(some[0])].squares(some) if some else []
            return
        for i in range(len(self.chunks))[which]:
            self.squares[i] = sum([float(g @ g) for g in self.chunks[i]])

    @property
    def extras(self):
        """How many numbers of a shard `write_extras` writes: one, and one for each layer."""
        return 1 + (len(self.squares) if self.layer_averages is not None else 0)

    def write_extras(self, extras, factor):
        """Write w_v |g_v|^2, for all layers together and each of them, of one squared shard of weight w_v.

        The arena held the shard's gradient as w_v g_v / n, and n^2 / w_v, the factor, times its square is w_v |g_v|^2.
        """
        if not self.on_cpu:  # a few kernels, however many layers
            squares = xp[type(extras)].stack(self.squares)
            extras[:1] = squares.sum() * factor
            if self.layer_averages is not None:
                extras[1 : self.extras] = squares * factor
            return
        extras[0] = sum(self.squares) * factor
        if self.layer_averages is not None:
            for i, squared in enumerate(self.squares, 1):
                extras[i] = squared * factor

    def observe(self, weighted, squares, samples, weight, shards):
        """One step, from the sums of the shards' extras, and the squares of the batch's gradient, as numbers.

        samples, weight   of the batch
        shards            those that have any weight
        """
        share = samples / weight if weight else 0.0  # of a sample in one unit of weight
        self.update(samples, shards, share * weighted[0], sum(squares))
        if self.layer_averages is not None and self.last is not None:
            parts = share * np.array(weighted[1 : len(squares) + 1])
            self.layer_averages.update(*_pair(samples, shards, parts, np.array(squares)))

    def update(self, samples, shards, weighted, squared):
        """One step: samples and non-empty shards of the batch, sum_v b_v |g_v|^2, and |g|^2."""
        self.last = None
        if shards < 2 or not math.isfinite(weighted + squared):
            return
        self.last = _pair(samples, shards, weighted, squared)
        self.averages.update(*self.last)
        self.recent.add(*self.last, samples)

    # --- what is known --------------------------------------------------------------------------------------------

    @property
    def trace(self):
        """tr(Sigma), for one sample."""
        return self.averages.trace

    @property
    def signal(self):
        """|G|^2; an estimate, which may be negative."""
        return self.averages.signal

    @property
    def value(self):
        """tr(Sigma) / |G|^2 in samples; None while undefined: fewer than two shards, or no signal above the noise."""
        return ratio(self.trace, self.signal)

    @property
    def interval(self):
        """95 % confidence interval (low, high) of `value`; high is inf where nothing bounds it from above.

        None before the 100th step. It allows for steps that depend on one another, with an autocorrelation of
        e^(-steps / 5), and for a drift. Where few samples have been seen, high is inf and low a bound that the truth is
        above in 95 % of all cases. How often it holds the truth: benchmarks/coverage_noise.md.
        """
        return self.known()[0]

    @property
    def drift(self):
        """(factor, low, high), by which the noise scale grows with each step, with a 95 % interval; None if not known,
        which takes as many steps and samples as an upper end of the noise scale.

        A mean over the last 256 steps, or over 4 / (1 - decay) or more if that is longer.
        """
        return self.known()[1]

    @property
    def remark(self):
        """Why there is no interval, or no upper end; or that the noise scale drifts; else None."""
        return self.known()[2]

    def known(self):
        """(interval, drift, remark)."""
        pairs, length = self.recent.blocks(), self.recent.length
        found = course(pairs[:, :2], self.averages.decay**length)
        if found is None:
            least, steps = STEPS_A_CONTRAST * LEAST_CONTRASTS, len(pairs)
            return None, None, f"an interval takes {least} steps or more, there are {steps}" if steps else None
        weight, squares = self.averages.weights
        samples = weight * weight / squares * float(pairs[-STEPS_A_CONTRAST:, 2].mean())
        why, remarks = too_few(samples), []
        t = student(found.degrees, LEVEL if why else 0.5 + LEVEL / 2.0)
        low, high = fieller(self.trace, self.signal, found.covariance, t)
        if why:
            remarks.append(why)
            high = math.inf
        elif high == math.inf:
            remarks.append("the signal is not significantly above the noise")
        drift = None
        if found.drift is not None:
            rate, error = (v / length for v in found.drift)
            margin = student(found.degrees, 0.5 + LEVEL / 2.0) * error
            if not why:
                drift = math.exp(rate), math.exp(rate - margin), math.exp(rate + margin)
            if abs(rate) > margin:
                remarks.append(
                    f"it drifts by {math.expm1(rate):+.2%} a step, and this is about the mean of the last steps, not "
                    f"about the present one"
                )
        return (low, high), drift, "; ".join(remarks) or None

    @property
    def layers(self):
        """{name of a parameter: its noise scale, None while undefined}; empty unless asked for."""
        a = self.layer_averages
        if a is None or not a.weights[0]:
            return {}
        return {name: ratio(*pair) for name, *pair in zip(self.names, a.trace.tolist(), a.signal.tolist())}

    def report(self):
        """`value`, `interval`, `drift`, `remark` and `layers` as JSON values, where a bound of inf is None."""
        interval, drift, remark = self.known()
        layers = {"noise_scale_layers": self.layers} if self.layer_averages is not None else {}
        return {
            "noise_scale": self.value,
            "noise_scale_ci": interval and [v if math.isfinite(v) else None for v in interval],
            "noise_scale_drift": drift and list(drift),
            "noise_scale_remark": remark,
            **layers,
        }

    def state_dict(self):
        layers = {"layers": self.layer_averages.state_dict()} if self.layer_averages is not None else {}
        return {**self.averages.state_dict(), "recent": self.recent.state_dict(), **layers}

    def load_state_dict(self, state):
        """Restore what `state_dict` returned; one that has no recent steps, as of old, begins them anew."""
        self.averages.load_state_dict(state)
        if "recent" in state:
            self.recent.load_state_dict(state["recent"])
        if self.layer_averages is not None and "layers" in state:
            self.layer_averages.load_state_dict(state["layers"])


def _pair(samples, shards, weighted, squared):
    """One step's unbiased estimates of tr(Sigma) and |G|^2."""
    trace = (weighted - samples * squared) / (shards - 1)
    return trace, squared - trace / samples


def ratio(trace, signal):
    """tr(Sigma) / |G|^2, or None where there is no noise, or no signal above it."""
    return trace / signal if signal > 0.0 and trace > 0.0 else None
