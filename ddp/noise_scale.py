"""The gradient noise scale, from the spread of the logical shards' gradients.

McCandlish et al. 2018, "An Empirical Model of Large-Batch Training": B_simple = tr(Sigma) / |G|^2, the batch at which
the noise of the gradient is as large as the gradient. With V shards of b_v samples, n in all, mean gradients g_v and
their weighted mean g, the analysis of variance gives the unbiased

    tr(Sigma) = (sum_v b_v |g_v|^2 - n |g|^2) / (V - 1)          |G|^2 = |g|^2 - tr(Sigma) / n

for shards of any sizes. Both are averaged over steps before the ratio is taken: a mean of ratios would be biased.
"""

import math


class NoiseScale:
    """Running estimate of the noise scale; `decay` is that of the exponential moving averages."""

    def __init__(self, decay=0.95):
        self.decay = decay
        self.trace = self.signal = 0.0

    def update(self, samples, shards, weighted, squared):
        """One step: samples and non-empty shards of the batch, sum_v b_v |g_v|^2, and |g|^2."""
        if shards < 2 or not math.isfinite(weighted + squared):
            return
        trace = (weighted - samples * squared) / (shards - 1)
        signal = squared - trace / samples
        self.trace += (1.0 - self.decay) * (trace - self.trace)
        self.signal += (1.0 - self.decay) * (signal - self.signal)

    @property
    def value(self):
        """tr(Sigma) / |G|^2 in samples; None while undefined: fewer than two shards, or no signal above the noise."""
        return self.trace / self.signal if self.signal > 0.0 and self.trace > 0.0 else None

    def state_dict(self):
        return {"trace": self.trace, "signal": self.signal}

    def load_state_dict(self, state):
        self.trace, self.signal = state["trace"], state["signal"]
