"""How often the noise scale's 95 % intervals hold the truth, on simulated gradients whose noise scale is known.

    python -m benchmarks.coverage_noise [--simulations 2000] [--seed 0] [--only WORD]

A sample's gradient is G + s z with E|s z|^2 = tr(Sigma), where s z is

    gaussian   normal
    t3         of independent elements that follow Student's t with 3 degrees of freedom
    t3 norm    normal, times one factor for all elements that makes it a multivariate t with 3 degrees of freedom
    1 in 200   normal, but for 1 sample in 200 that are so much larger that half of the trace is theirs

With the second and the third the variance of |g|^2 is infinite, and nothing bounds a mean of it from above. Beside
these: steps that depend on one another, as an autoregression of first order (AR) of the trace and the signal, with and
without as much independent noise, or as gradients of a quadratic near its minimum, under SGD; and signals and traces
that drift, where the truth is the ratio of the weighted means of what they are, and the drift that of the exponentials
nearest to them.

An interval whose upper end is not known, inf, cannot be below the truth: then 95 % are those of its lower end alone.
"""

import argparse
import math

import numpy as np

from allgrad.autograd.random import generator
from allgrad.ddp import NoiseScale
from allgrad.ddp.scaling.intervals import of_parts, trend
from allgrad.ddp.scaling.noise_scale import RECENT
from allgrad.ddp.scaling.probe import analysis

DECAY = 0.95  # NoiseScale's
PROBES = (8, 8), (32, 8), (32, 32), (128, 8), (256, 8), (128, 32), (1024, 1)  # micro-batches, samples in each
PHI = 0.8  # of the autoregressions, and of an eigenvalue's 1 - lr h under SGD


# --- gradients -----------------------------------------------------------------------------------------------------


def noise(rng, kind, parts, batch, size):
    """Means over the `batch` samples of each part, of noise of trace 1: (*parts, size)."""
    if kind == "t3":
        return (rng.standard_t(3, (*parts, batch, size)) / math.sqrt(3.0 * size)).mean(-2)
    if kind == "gaussian":
        squares = np.full(parts, float(batch))
    elif kind == "t3 norm":
        squares = (1.0 / rng.chisquare(3, (*parts, batch))).sum(-1)  # whose mean is 1
    else:
        rare = 1.0 / 200.0
        squares = np.where(rng.random((*parts, batch)) < rare, 0.5 / rare, 0.5 / (1.0 - rare)).sum(-1)
    return rng.standard_normal((*parts, size)) * (np.sqrt(squares / size) / batch)[..., None]


def steps_of(g, batch):
    """The arguments of `NoiseScale.update` from the shards' gradients: (steps, shards, size)."""
    shards = g.shape[1]
    squared = np.sum(g.mean(1) ** 2, axis=1)
    weighted = batch * np.sum(g * g, axis=(1, 2))
    return [(shards * batch, shards, *pair) for pair in zip(weighted.tolist(), squared.tolist())]


def of_pairs(trace, signal, samples=4096, shards=8):
    """The arguments of `NoiseScale.update` that give just these estimates."""
    squared = signal + trace / samples
    weighted = (shards - 1) * trace + samples * squared
    return [(samples, shards, *pair) for pair in zip(weighted.tolist(), squared.tolist())]


def ages(steps):
    return np.arange(steps)[::-1].astype(float)


def autoregression(rng, phi, shape):
    """Stationary, of mean 0 and variance 1, along the last axis."""
    from scipy.signal import lfilter

    start = 200
    e = rng.standard_normal((*shape[:-1], shape[-1] + start))
    return np.asarray(lfilter([1.0], [1.0, -phi], e, axis=-1))[..., start:] * math.sqrt(1.0 - phi * phi)


# --- the cases: each draws (arguments of `update`, the truth of the value, of the present one, of the drift) --------


def still(kind, steps, shards, batch, size, truth):
    def draw(rng):
        g = noise(rng, kind, (steps, shards), batch, size) * math.sqrt(truth) + 1.0 / math.sqrt(size)
        return steps_of(g, batch), truth, truth, 1.0

    return draw


def drifting(steps, signal, trace, kind="gaussian", shards=8, batch=32, size=50, truth=100.0):
    """signal, trace: functions of the age of a step, 0 for the last, that are 1 there."""

    def draw(rng):
        age = ages(steps)
        s, t, w = signal(age), trace(age), DECAY**age
        g = noise(rng, kind, (steps, shards), batch, size) * np.sqrt(truth * t)[:, None, None]
        g += np.sqrt(s / size)[:, None, None]
        rates = [trend(values[-RECENT:])[0] for values in (t, s)]
        return steps_of(g, batch), truth * (w @ t) / (w @ s), truth, math.exp(rates[0] - rates[1])

    return draw


def autoregressive(steps, phi, independent=0.0):
    """`independent`: the share of the variance that is."""

    def draw(rng):
        e = math.sqrt(1.0 - independent) * autoregression(rng, phi, (2, steps))
        e += math.sqrt(independent) * rng.standard_normal((2, steps))
        return of_pairs(100.0 * (1.0 + 0.15 * e[0]), 1.0 + 0.3 * e[1]), 100.0, 100.0, 1.0

    return draw


def descent(steps, size=20, shards=4, batch=64, truth=100.0):
    """SGD on a quadratic, long after it has come near the minimum: E|G|^2 = 1."""

    def draw(rng):
        gradient = autoregression(rng, PHI, (size, steps)).T / math.sqrt(size)
        g = noise(rng, "gaussian", (steps, shards), batch, size) * math.sqrt(truth) + gradient[:, None]
        return steps_of(g, batch), truth, truth, 1.0

    return draw


def cases():
    """{name: draw} of the running noise scale."""
    found = {}
    for steps in (100, 256):
        for kind in ("gaussian", "t3 norm", "1 in 200"):
            for shards, batch, truth in ((2, 4, 10.0), (4, 16, 100.0)):
                found[f"{kind}, {steps} steps of {shards} x {batch}"] = still(kind, steps, shards, batch, 50, truth)
        found[f"gaussian, {steps} steps of 8 x 32"] = still("gaussian", steps, 8, 32, 50, 100.0)
        found[f"gaussian of 10 elements, {steps} steps of 2 x 16"] = still("gaussian", steps, 2, 16, 10, 30.0)
        found[f"t3, {steps} steps of 2 x 16"] = still("t3", steps, 2, 16, 20, 30.0)
        for phi in (0.5, PHI):
            found[f"AR({phi}), {steps} steps"] = autoregressive(steps, phi)
        found[f"AR({PHI}) and as much noise, {steps} steps"] = autoregressive(steps, PHI, 0.5)
        found[f"SGD near a minimum, {steps} steps"] = descent(steps)
        for rate in (0.01, 0.02, 0.05):
            falling = lambda age, rate=rate: (1.0 - rate) ** -age
            found[f"signal falls {rate:.0%} a step, {steps} steps"] = drifting(steps, falling, np.ones_like)
        found[f"signal falls 3 %, trace rises 1 % a step, {steps} steps"] = drifting(
            steps, lambda age: 0.97**-age, lambda age: 1.01**-age
        )
        found[f"signal falls 2 % a step, 1 in 200, {steps} steps"] = drifting(
            steps, lambda age: 0.98**-age, np.ones_like, "1 in 200"
        )
        found[f"signal as 1 / (1 + step / 30), {steps} steps"] = drifting(
            steps, lambda age, n=steps: (29.0 + n) / (29.0 + n - age), np.ones_like
        )
    return found


def running(draw, rng):
    """{interval: (low, high, truth)} of one simulated run."""
    arguments, truth, present, factor = draw(rng)
    scale = NoiseScale(DECAY)
    for step in arguments:
        scale.update(*step)
    interval, drift, _ = scale.known()
    found = {"noise scale": (*interval, truth)}
    if drift is not None:
        found["drift a step"] = (*drift[1:], factor)
        if drift[1] <= 1.0 <= drift[2]:
            found["present noise scale, no drift told"] = (*interval, present)
    return found


def probe(rng, kind, count, batch, size, truth):
    """The interval of `noise_of_batches` with gradients of micro-batches, or with batch 1 of `noise_of_examples`."""
    g = noise(rng, kind, (count,), batch, size) * math.sqrt(truth) + 1.0 / math.sqrt(size)
    along = g @ g.sum(0)
    both, pseudo = analysis(np.sum(g * g, axis=1), along, along, np.ones(count), batch)
    return (*of_parts(*both, pseudo, count * batch, "micro-batches")[0], truth)


def tables(simulations, seed):
    """Rows {case, interval, nominal, covered, low_misses, high_misses, unbounded, simulations}.

    All but the names and the number of simulations are shares of these; low_misses are intervals that are below the
    truth, high_misses above, and unbounded are those without an upper end.
    """
    return list(rows(simulations, seed))


def rows(simulations, seed, only=""):
    """The rows of `tables`, of the cases with this in their names, one by one."""
    for case, draw in cases().items():
        if only in case:
            found: dict = {}
            for i in range(simulations):
                for interval, one in running(draw, generator("coverage", seed, case, i)).items():
                    found.setdefault(interval, []).append(one)
            yield from (row(case, interval, of) for interval, of in found.items() if len(of) >= simulations // 5)
    for kind in ("gaussian", "t3", "t3 norm", "1 in 200"):
        for count, batch in PROBES:
            case = f"{kind}, {count} x {batch}"
            if only in case:
                draws = (generator("coverage", seed, case, i) for i in range(simulations))
                yield row(case, "probe", [probe(rng, kind, count, batch, 50, 30.0) for rng in draws])


def row(case, interval, found):
    """What (low, high, truth) of many simulations come to."""
    low, high, truth = np.array(found).T
    below, above = np.mean(high < truth), np.mean(low > truth)
    return {
        "case": case, "interval": interval, "nominal": 0.95, "covered": float(1.0 - below - above),
        "low_misses": float(below), "high_misses": float(above), "unbounded": float(np.mean(np.isinf(high))),
        "simulations": len(found),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000, help="of each case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases with this in their names")
    options = parser.parse_args()
    print(f"{'case':<58} {'interval':<36} covered   below  above  unbounded  simulations")
    for one in rows(options.simulations, options.seed, options.only):
        print(
            f"{one['case']:<58} {one['interval']:<36} {one['covered']:7.1%} {one['low_misses']:7.1%} "
            f"{one['high_misses']:6.1%} {one['unbounded']:10.0%} {one['simulations']:12,}",
            flush=True,
        )


if __name__ == "__main__":
    main()
