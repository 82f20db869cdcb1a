"""What a run does over its length: how many steps, of which batch, at which learning rate."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from allgrad.autograd import schedule
from allgrad.ddp.compatibility import contradiction
from allgrad.ddp.data import Sampler
from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.ddp.scaling import AdaScale, FollowNoise, follow_batch, grow, lr_rules, ramp, seesaw
from allgrad.launch.options import SCHEDULES, length, takers

ADAM = (0.9, 0.999)
POWERS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}  # rules by which the rate can follow a ramp of the batch


@dataclass
class Plan:
    """steps of the run; those of its warm-up; the rate; what else the rule sets; who changes the batch; what to say."""

    steps: int
    warmup: int
    rate: schedule.Schedule | schedule.Plateau | AdaScale
    options: dict
    batches: FollowNoise | None
    remarks: list[str | None]


def plan(config, sampler: Sampler) -> Plan:
    """The plan of a run; the sampler learns of batches whose sizes are known from the start."""
    rule, base, batch, noise = (config[key] for key in ("lr_rule", "base_batch", "global_batch", "noise_scale"))
    if rule == "none" and (base or noise is not None):
        flag = "--base-batch" if base else "--noise-scale"
        raise ConfigurationError(f"{flag} has no effect without an --lr-rule such as sqrt or linear")
    if rule != "none" and base is None:
        raise ConfigurationError(
            f"--lr-rule {rule} has no effect without --base-batch: give the batch that --lr {config['lr']:g} is for"
        )
    before = _hyperparameters(config)
    after = lr_rules.scaled(rule, before, base or batch, batch, config["optimizer"], noise)
    batches, changes = _batches(config, sampler)
    if rule == "adascale":  # counts in steps of the base batch
        sampler = Sampler(sampler.samples, base, sampler.shuffle, sampler.seed, sampler.boundary)
    steps = config["steps"] or sampler.steps_in(config["epochs"])
    warmup, start, remarks = steps_of(config["warmup"] or 0, sampler), 0.0, []
    if rule == "linear_warmup":
        start = before.lr
        if config["warmup"] is None:
            warmup = min(max(sampler.steps_in(Fraction(1, 2)), -(-steps // 20)), -(-steps // 2))
    if warmup > steps:
        raise ConfigurationError(f"--warmup {config['warmup']} is longer than the run of {counted(steps, 'step')}")
    rate = schedule_of(config, after.lr, steps, sampler, warmup, start)
    if config["batch_schedule"] and config["batch_schedule"].startswith("seesaw"):
        if isinstance(rate, schedule.Plateau):
            raise ConfigurationError(
                f"--schedule plateau and --batch-schedule {config['batch_schedule']} both lower the rate as they go: "
                f"give another --schedule, or grow:F,EPOCH,..."
            )
        rate = seesaw(rate, *changes)
    elif config["batch_schedule"] and config["batch_schedule"].startswith("ramp") and POWERS[rule]:
        if isinstance(rate, schedule.Plateau):
            raise ConfigurationError(
                f"--schedule plateau and --lr-rule {rule} with --batch-schedule {config['batch_schedule']} both change "
                f"the rate as they go: give another --schedule, or leave out --lr-rule"
            )
        rate = follow_batch(rate, sampler, POWERS[rule])
    if rule == "adascale":
        _needs_noise("--lr-rule adascale", config)
        if isinstance(rate, schedule.Plateau):
            raise ConfigurationError("--schedule plateau counts steps, which --lr-rule adascale does not: give another")
        rate = AdaScale(rate, base, steps)
    if rule != "none":
        text = lr_rules.sentence(rule, before, after, base, batch)
        text += f", reached in {counted(warmup, 'step')} from {start:g}" if warmup else ""
        remarks = [text, lr_rules.warning(batch, noise)]
    return Plan(steps, warmup, rate, _options(config, before, after), batches, remarks)


def measures_noise(config):
    """Whether the run can estimate its noise scale: several shards, and the exact gradient of each."""
    options = {name: config[name] for name in ("compress", "reduce", "sync_every", "batch_norm")}
    return config["shards"] > 1 and contradiction(noise=True, **options) is None


def _needs_noise(what, config):
    if not measures_noise(config):
        raise ConfigurationError(
            f"{what} needs the noise scale: give --shards 2 or more, and no --compress, --sync-every, --reduce adasum "
            f"or --batch-norm sync"
        )


def _hyperparameters(config):
    kind = config["optimizer"]
    betas = takers("betas")
    default = lr_rules.Hyperparameters(config["lr"], betas.get(kind, ADAM))
    for name, kinds in {"beta1": betas, "beta2": betas, "eps": takers("eps")}.items():
        if config[name] is not None and kind not in kinds:
            raise ConfigurationError(f"--{name} belongs to {', '.join(kinds)}, not to {kind}")
    given = [config[name] for name in ("beta1", "beta2")]
    beta1, beta2 = (d if g is None else g for g, d in zip(given, default.betas))
    return lr_rules.Hyperparameters(
        config["lr"], (beta1, beta2), default.eps if config["eps"] is None else config["eps"]
    )


def _options(config, before, after):
    """Those of the optimizer that the user or the rule has set."""
    options = {}
    if config["optimizer"] in takers("betas"):
        options["betas"] = after.betas
    if config["eps"] is not None or after.eps != before.eps:
        options["eps"] = after.eps
    return options


def _batches(config, sampler):
    """(FollowNoise or None, (factor, steps at which the batch grows) or None) of `--batch-schedule`."""
    text = config["batch_schedule"]
    if text is None:
        return None, None
    kind, _, numbers = text.partition(":")
    first, *rest = (number.strip().removesuffix("ep") for number in numbers.split(","))
    if config["lr_rule"] == "adascale":
        raise ConfigurationError("--lr-rule adascale takes a constant batch: leave out --batch-schedule")
    if kind == "ramp" and config["lr_rule"] not in POWERS:
        raise ConfigurationError(
            f"--batch-schedule {text}: the rate follows the batch with --lr-rule {' or '.join([*POWERS][1:])}, or "
            f"stays with none, got {config['lr_rule']}"
        )
    follow = factor = steps = None
    try:
        if kind == "noise":
            most, price = rest if len(rest) == 2 else (*rest, None)
            follow = FollowNoise(Fraction(first), config["shards"], int(most), price and float(price))
            largest = follow.most
        elif kind in ("grow", "seesaw"):
            factor, epochs = float(first), [rest[0], *rest[1:]]
            steps = grow(sampler, factor, epochs)
            largest = sampler.pieces[-1].batch
        elif kind == "ramp":
            for change in numbers.split(","):
                after, _, batch = change.strip().rpartition(":")
                ramp(sampler, steps_of(length(after), sampler), int(batch))
            largest = max(piece.batch for piece in sampler.pieces)
        else:
            raise ValueError(kind)
    except ConfigurationError as error:
        raise ConfigurationError(f"--batch-schedule {text}: {error}") from None
    except (ValueError, IndexError, ZeroDivisionError, OverflowError):
        raise ConfigurationError(
            f"--batch-schedule {text} is not grow:F,EPOCH,..., seesaw:F,EPOCH,..., ramp:LENGTH:BATCH,... or "
            f"noise:EVERY,MAX[,R]"
        ) from None
    if largest > sampler.samples and sampler.boundary == "short":
        raise ConfigurationError(
            f"--batch-schedule {text} makes batches of {largest} of {sampler.samples} samples: "
            f"let it grow less, or give --boundary carry to fill a batch from several epochs"
        )
    if kind == "seesaw" and config["optimizer"] not in lr_rules.ADAM:
        raise ConfigurationError(f"--batch-schedule seesaw is for {' and '.join(lr_rules.ADAM)}: give grow:{numbers}")
    if follow is not None:
        _needs_noise(f"--batch-schedule {text}", config)
        if config["schedule"].partition(":")[0] not in ("constant", "plateau"):
            raise ConfigurationError(
                f"--schedule {config['schedule']} counts steps, and with --batch-schedule {text} nobody knows how many "
                f"there will be: give constant or plateau"
            )
        if largest < config["global_batch"]:
            raise ConfigurationError(
                f"--batch-schedule {text}: the largest batch is below --global-batch {config['global_batch']}"
            )
    return follow, (factor, steps)


def steps_of(length, sampler):
    """A length of training (`allgrad.launch.options.length`) as the number of steps in which it is complete."""
    text = str(length)
    if text.endswith("ep"):
        return sampler.steps_in(Fraction(text.removesuffix("ep")))
    if text.endswith("samples"):
        return sampler.steps_for(int(text.removesuffix("samples")))
    return int(text)


def schedule_of(config, lr, steps, sampler, warmup=0, start=0.0):
    """The learning rate over the run, from `--schedule`, after a warm-up of so many steps from the rate `start`."""
    kind, _, text = config["schedule"].partition(":")

    def in_steps(text):
        return steps_of(length(text), sampler)

    def number(text):
        if not math.isfinite(value := float(text)):
            raise ValueError(text)
        return value

    def part(text):  # of the run: a share with a point in it, or a length
        return number(text) * steps if re.fullmatch(r"\d*\.\d*", text) else in_steps(text)

    shapes = {
        "constant": lambda: schedule.constant(lr),
        "linear": lambda: schedule.linear(lr, steps),
        "cosine": lambda: schedule.cosine(lr, steps),
        "polynomial": lambda power: schedule.polynomial(lr, steps, number(power)),
        "onecycle": lambda rise="0.3": schedule.one_cycle(lr, steps, number(rise)),
        "wsd": lambda decay, shape="linear": schedule.wsd(lr, steps, part(decay), shape),
        "step": lambda every, gamma: schedule.step(lr, in_steps(every), number(gamma)),
        "multistep": lambda *v: schedule.multistep(lr, [in_steps(m) for m in (v[0], *v[1:-1])], number(v[1:][-1])),
        "exponential": lambda gamma, every="1": schedule.in_epochs(
            schedule.exponential(lr, number(gamma)), in_steps(every)
        ),
        "inverse": lambda half: schedule.inverse(lr, in_steps(half)),
        "restarts": lambda first, mult="1": schedule.restarts(lr, in_steps(first), number(mult)),
        "plateau": lambda factor, patience: schedule.Plateau(
            schedule.warmup(lr, warmup, start), number(factor), int(patience)
        ),
    }
    try:
        rate = shapes[kind](*(text.split(",") if text else ()))
    except (LookupError, TypeError, ValueError):
        raise ConfigurationError(f"--schedule {config['schedule']} is not one of {', '.join(SCHEDULES)}") from None
    return rate if kind == "plateau" else schedule.warmup(rate, warmup, start)
