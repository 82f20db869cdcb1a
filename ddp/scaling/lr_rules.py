"""How the hyperparameters follow the batch: from a base batch B0, which they are for, to the batch B = k B0.

none            lr
sqrt            lr sqrt(k)              keeps the variance of an update: Krizhevsky 2014, Hoffer et al. 2017
linear          lr k                    keeps the progress of an epoch: Goyal et al. 2017
linear_warmup   lr k, to which the rate rises from lr over the first steps: Goyal et al. 2017, section 2.2
noise           lr ((1 + N / B0) / (1 + N / B))^alpha, where N is the noise scale: from lr_max / (1 + N / B), McCandlish
                et al. 2018, section 2.2; alpha is 1 for SGD, and between 0.5 and 1 for Adam (0.5 here)
adam_sde        lr sqrt(k), beta_i = 1 - k (1 - beta_i), eps / sqrt(k): Malladi et al. 2022, "On the SDEs and Scaling
                Rules for Adaptive Gradient Algorithms"
half_life       beta2^k: the second moment forgets half after as many samples as before: Marek et al. 2025,
                "Small Batch Size Training for Language Models", section 4.3
surge           lr_max / (sqrt(N / B) + sqrt(B / N)), which falls again beyond B = N: Li et al. 2024, "Surge Phenomenon
                in Optimal Learning Rate and Batch Size Scaling", for updates by the sign such as Adam's
adascale        a gain between 1 and k, measured in every step: see `scaling.adascale`
"""

import math
from dataclasses import dataclass, replace

from allgrad.ddp.errors import ConfigurationError


@dataclass(frozen=True)
class Hyperparameters:
    """What a rule may change; betas and eps are those of Adam and its kin."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


def _rate(factor):
    return lambda h, base, batch, noise, alpha: replace(h, lr=h.lr * factor(base, batch, noise, alpha))


def _adam_sde(h, base, batch, noise, alpha):
    k = batch / base
    betas = tuple(1.0 - k * (1.0 - beta) for beta in h.betas)
    if min(betas) < 1e-9:  # 0, but for rounding
        raise ConfigurationError(
            f"the rule 'adam_sde' makes betas {h.betas[0]:g}, {h.betas[1]:g} at batch {base} to {betas[0]:g}, "
            f"{betas[1]:g} at batch {batch}, and they have to stay above 0: "
            f"give a batch below {base / (1.0 - min(h.betas)):g}, or larger betas"
        )
    return Hyperparameters(h.lr * math.sqrt(k), betas, h.eps / math.sqrt(k))


def _surge(batch, noise):
    return 1.0 / (math.sqrt(noise / batch) + math.sqrt(batch / noise))


ADAM = "adam", "adamw"
ANY = ()
RULES = {  # name: (optimizers, whether it needs the noise scale, rule)
    "none": (ANY, False, _rate(lambda base, batch, noise, alpha: 1.0)),
    "sqrt": (ANY, False, _rate(lambda base, batch, noise, alpha: math.sqrt(batch / base))),
    "linear": (ANY, False, _rate(lambda base, batch, noise, alpha: batch / base)),
    "linear_warmup": (ANY, False, _rate(lambda base, batch, noise, alpha: batch / base)),
    "noise": (("sgd", *ADAM), True,
              _rate(lambda base, batch, noise, alpha: ((1.0 + noise / base) / (1.0 + noise / batch)) ** alpha)),
    "adam_sde": (ADAM, False, _adam_sde),
    "half_life": (ADAM, False,
                  lambda h, base, batch, noise, alpha: replace(h, betas=(h.betas[0], h.betas[1] ** (batch / base)))),
    "surge": (ADAM, True, _rate(lambda base, batch, noise, alpha: _surge(batch, noise) / _surge(base, noise))),
    "adascale": (("sgd",), False, _rate(lambda base, batch, noise, alpha: 1.0)),
}  # fmt: skip


def scaled(rule: str, h: Hyperparameters, base_batch: int, batch: int, optimizer="sgd", noise_scale=None, alpha=None):
    """The hyperparameters for this batch, from those for the base batch.

    noise_scale is in samples; alpha is that of the rule "noise": if None 1 for SGD, 0.5 for Adam.
    """
    if rule not in RULES:
        raise ConfigurationError(f"lr rule {rule!r} is not one of {', '.join(RULES)}")
    if base_batch < 1:
        raise ConfigurationError(
            "{base_batch.name} is at least 1 sample, got {base_batch.value}", base_batch=base_batch
        )
    optimizers, needs_noise, f = RULES[rule]
    if optimizers and optimizer not in optimizers:
        raise ConfigurationError(f"{{rule}} is for {' and '.join(optimizers)}, not for {{optimizer.value}}", rule=rule,
                                 optimizer=optimizer)  # fmt: skip
    if noise_scale is not None and not noise_scale > 0.0:
        raise ConfigurationError(
            f"{{noise_scale.name}} is a number of samples above 0, got {noise_scale:g}", noise_scale=noise_scale
        )
    if needs_noise and noise_scale is None:
        raise ConfigurationError("{rule} needs the noise scale: give {noise_scale}, as measured by a run", rule=rule)
    if rule == "adascale" and batch < base_batch:
        raise ConfigurationError(
            "{rule} is for batches larger than the base batch, got {batch.value} for {base_batch.value}: give a "
            "larger {batch.name}", rule=rule, batch=batch, base_batch=base_batch,
        )  # fmt: skip
    alpha = alpha if alpha is not None else 0.5 if optimizer in ADAM else 1.0
    return f(h, base_batch, batch, noise_scale, alpha)


def sentence(rule, before: Hyperparameters, after: Hyperparameters, base_batch, batch) -> str:
    """How the hyperparameters came about."""
    rate = f"becomes {after.lr:g}" if after.lr != before.lr else f"stays {after.lr:g}"
    if rule == "adascale":
        rate = f"is multiplied by a measured gain between 1 and {batch / base_batch:g}"
    text = f"learning rate {before.lr:g} at batch {base_batch} {rate} at batch {batch} by the rule {rule!r}"
    if after.betas != before.betas:
        text += ", betas {:g}, {:g} become {:g}, {:g}".format(*before.betas, *after.betas)
    if after.eps != before.eps:
        text += f", eps {before.eps:g} becomes {after.eps:g}"
    return text


def warning(batch, noise_scale, how="given") -> str | None:
    """What to know about a batch that is larger than the noise scale."""
    if noise_scale is None or batch <= noise_scale:
        return None
    return (
        f"warning: batch {batch} exceeds the noise scale of {noise_scale:,.4g} samples ({how}): beyond it a larger "
        f"batch saves few steps, and a rate scaled up with it may be too large"
    )
