"""How hyperparameters follow the batch, against numbers of the papers and by hand."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import optim
from allgrad.ddp import ConfigurationError
from allgrad.ddp.scaling import Hyperparameters, scaled, sentence, warning

H = Hyperparameters(0.1)


@pytest.mark.parametrize(
    "rule, base, batch, lr",
    [
        ("none", 32, 512, 0.1),
        ("linear", 32, 512, 1.6),
        ("linear", 32, 8, 0.025),
        ("linear_warmup", 32, 512, 1.6),
        ("sqrt", 32, 512, 0.4),
        ("sqrt", 32, 32, 0.1),
        ("noise", 32, 96, 0.1 * (1 + 96 / 32) / (1 + 96 / 96)),
        ("noise", 1, 10**9, 0.1 * 97),  # lr_max, beyond which no batch helps
        ("half_life", 32, 512, 0.1),
        ("adascale", 32, 512, 0.1),
    ],
)
def test_rates(rule, base, batch, lr):
    optimizer = "adam" if rule == "half_life" else "sgd"
    after = scaled(rule, H, base, batch, optimizer, noise_scale=96.0)
    assert after.lr == pytest.approx(lr, rel=1e-6)
    text = sentence(rule, H, after, base, batch)
    assert f"rate 0.1 at batch {base}" in text and f"at batch {batch} by the rule {rule!r}" in text


def test_the_rule_of_the_noise_scale_is_linear_below_it_and_constant_above():
    def rate(batch, alpha):
        return scaled("noise", H, 1, batch, noise_scale=1e6, alpha=alpha).lr

    assert rate(100, 1.0) == pytest.approx(10.0, rel=1e-3) and rate(100, 0.5) == pytest.approx(1.0, rel=1e-3)
    assert rate(10**9, 1.0) == pytest.approx(rate(10**10, 1.0), rel=1e-2)
    adam = scaled("noise", H, 1, 100, "adam", noise_scale=1e6)
    assert (
        adam
        == scaled("noise", H, 1, 100, "adam", noise_scale=1e6, alpha=0.5)
        != scaled("noise", H, 1, 100, noise_scale=1e6)
    )


def test_adam_sde():
    """Malladi et al. 2022: four times the batch."""
    after = scaled("adam_sde", H, 16, 64, "adam")
    assert (after.lr, *after.betas, after.eps) == pytest.approx((0.2, 0.6, 0.996, 5e-9), rel=1e-12)
    back = scaled("adam_sde", after, 64, 16, "adamw")
    assert (back.lr, *back.betas, back.eps) == pytest.approx((0.1, 0.9, 0.999, 1e-8), rel=1e-12)
    text = sentence("adam_sde", H, after, 16, 64)
    assert "becomes 0.2 at batch 64" in text and "betas 0.9, 0.999 become 0.6, 0.996, eps 1e-08 becomes 5e-09" in text


def test_half_life():
    """Marek et al. 2025: 0.95 at batch 512 is 0.9999 at batch 1."""
    after = scaled("half_life", Hyperparameters(0.1, (0.9, 0.95)), 512, 1, "adam")
    assert after.betas[0] == 0.9 and after.betas[1] == pytest.approx(0.9999, abs=1e-6)
    assert after.betas[1] ** 512 == pytest.approx(0.95, rel=1e-12)


def test_the_surge_has_its_peak_at_the_noise_scale():
    rates = {b: scaled("surge", H, 64, b, "adam", noise_scale=64.0).lr for b in (4, 16, 32, 64, 128, 256, 1024)}
    assert max(rates, key=rates.__getitem__) == 64 and rates[64] == pytest.approx(0.1)
    assert rates[16] == pytest.approx(rates[256]) == pytest.approx(0.1 / (0.5 * (2 + 0.5)))


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("cubic", H, 1, 1), "'cubic' is not one of none, sqrt, linear"),
        (("linear", H, 0, 1), "base_batch is at least 1 sample, got 0"),
        (("adam_sde", H, 16, 64, "sgd"), "rule='adam_sde' is for adam and adamw, not for sgd"),
        (("half_life", H, 16, 64, "sgd"), "rule='half_life' is for adam and adamw, not for sgd"),
        (("noise", H, 16, 64, "lion", 9.0), "rule='noise' is for sgd and adam and adamw, not for lion"),
        (("surge", H, 16, 64, "sgd", 9.0), "rule='surge' is for adam and adamw, not for sgd"),
        (("adascale", H, 16, 64, "adam"), "rule='adascale' is for sgd, not for adam"),
        (("adascale", H, 16, 8), "rule='adascale' is for batches larger than the base batch, got 8 for 16"),
        (("adam_sde", H, 16, 160, "adam"), "have to stay above 0: give a batch below 160"),
        (("noise", H, 16, 64), "rule='noise' needs the noise scale: give noise_scale"),
        (("noise", H, 16, 64, "sgd", 0.0), "noise_scale is a number of samples above 0, got 0"),
    ],
)
def test_refusals(arguments, text):
    with pytest.raises(ConfigurationError, match=text):
        scaled(*arguments)


def test_a_batch_above_the_noise_scale_gets_a_warning():
    assert warning(64, 64.0) is warning(64, None) is None
    assert "warning: batch 64 exceeds the noise scale of 50 samples (given)" in warning(64, 50.0)


# --- momentum and weight decay: Goyal et al. 2017, remarks 1 and 2 --------------------------------------------------


def path(rates, gradient=1.0, start=0.0, **options):
    w = ag.tensor(np.array([start]), requires_grad=True)
    optimizer = optim.SGD([w], lambda step: rates[step], **options)
    for _ in rates:
        optimizer.zero_grad()
        (w * gradient).sum().backward()
        optimizer.step()
    return w.item()


def test_the_momentum_is_that_of_gradients_so_that_a_change_of_rate_needs_no_correction():
    """u = 1, 1.9, 2.71: rates inside the velocity, without the correction, would lead to -3.171."""
    assert path([0.1, 1.0, 1.0], momentum=0.9) == pytest.approx(-4.71, rel=1e-10)


def test_scaling_the_loss_is_not_scaling_the_rate_where_weights_decay():
    doubled = path([0.05] * 3, gradient=2.0, start=1.0, weight_decay=0.1)
    assert doubled == pytest.approx(1.0 * 0.995**3 - 0.1 * (1 + 0.995 + 0.995**2), rel=1e-10)
    assert abs(doubled - path([0.1] * 3, start=1.0, weight_decay=0.1)) > 1e-3
    assert path([0.05] * 3, gradient=2.0, start=1.0) == pytest.approx(path([0.1] * 3, start=1.0), rel=1e-12)
