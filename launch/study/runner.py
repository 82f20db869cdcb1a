"""One run: a configuration of JSON values in, a row of JSON values out.

What is run is the configuration's "kind": `steps_to_target`, which is here, or the name of a module of
`allgrad.launch.study.experiments`, whose function `execute(config, comm)` is called. Both are built from `Run`, which
takes steps, and `to_target`, which says when to stop.
"""

import json
import math
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from allgrad import ddp
from allgrad.autograd.arrays import to_numpy
from allgrad.autograd.engine import unwrap
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.options import OPTIMIZERS as RULES, length
from allgrad.launch.plan import schedule_of, steps_of
from allgrad.launch.study import experiments, fit, workload
from allgrad.launch.train import make_optimizer

SCHEMA = 1  # part of every configuration; raise it if the same configuration leads to other numbers than before
SAMPLERS = {"epoch": "epoch", "once": "once", "iid": "replacement", "never": "never"}  # ours: that of `ddp.Sampler`
OPTIMIZERS = {  # a study's word for an optimizer with options
    "momentum": {"optimizer": "sgd", "momentum": 0.9},
    "nesterov": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    "lars": {"optimizer": "lars", "momentum": 0.9},
    "muon": {"optimizer": "muon", "momentum": 0.95, "nesterov": True},
}
METRICS = tuple(f"{part}_{name}" for name in ("loss", "accuracy", "mse", "mae", "r2") for part in ("train", "val"))
RISING = "accuracy", "r2"  # metrics that are the better the larger, 1 at most
GROWTH = 20.0  # a loss that has risen by so many times what it began with, or its spread over samples, has diverged
DEFAULTS: dict[str, Any] = {
    "schema": SCHEMA, "kind": "steps_to_target", "optimizer": "sgd", "optimizer_options": {}, "lr": 0.1,
    "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "l1": 0.0, "no_decay": False, "schedule": "constant",
    "warmup": 0, "batch": 64, "sampler": "epoch", "steps": None, "metric": "train_loss", "target": None, "cap": 6000,
    "prune": None, "eval_ratio": 1.05, "sustain": 1, "trace": False, "seed": 0,
}  # fmt: skip
PASSED_ON = (  # options that an experiment with **more hands on to the configurations of its runs
    "momentum", "nesterov", "weight_decay", "l1", "no_decay", "schedule", "warmup", "steps", "optimizer_options",
    "trace",
)  # fmt: skip


def configuration(work: workload.Workload, optimizer: str | None = None, **given) -> dict:
    """A run's configuration: the workload, what is given, and the defaults for all else.

    optimizer      a word of OPTIMIZERS or of `allgrad train --optimizer`; optimizer_options: more of its arguments
    batch, lr      and momentum, nesterov, weight_decay, l1, no_decay, schedule, warmup as in `allgrad train`
    sampler        "epoch", "once" (one permutation), "iid" (with replacement) or "never" (the order of the data);
                   batches go on over the end of an epoch
    steps          budget, over which a schedule is planned: steps, "10ep" or "20000samples"; or None
    metric, target one of METRICS, and the value at which the run ends; target None: the run has its whole budget
    cap, prune     steps after which a run without success is "capped" or "pruned"
    eval_ratio     distance between evaluations, see `fit.eval_steps`; sustain: how many in a row must meet the target
    trace          keep the curve
    seed           of initial weights and order of samples
    Any other word belongs to the kind of run that reads it.
    """
    words = {} if optimizer is None else OPTIMIZERS.get(optimizer, {"optimizer": optimizer})
    config = {**DEFAULTS, **work.config(), **words, **given}
    if config["optimizer"] not in RULES:
        known = ", ".join(sorted({*OPTIMIZERS, *RULES}))
        raise ConfigurationError(f"optimizer {optimizer or config['optimizer']!r} is not one of {known}")
    if config["sampler"] not in SAMPLERS:
        raise ConfigurationError(f"sampler {config['sampler']!r} is not one of {', '.join(SAMPLERS)}")
    if config["metric"] not in METRICS:
        raise ConfigurationError(f"metric {config['metric']!r} is not one of {', '.join(METRICS)}")
    if config["target"] is None and config["steps"] is None:
        raise ConfigurationError("a run needs a target to reach, or a budget of steps")
    if config["metric"].endswith(RISING) and config["target"] is not None and not 0.0 < config["target"] <= 1.0:
        what = "an accuracy" if config["metric"].endswith("accuracy") else "R2"
        raise ConfigurationError(f"{what} is a share: give a --target up to 1, got {config['target']}")
    for key, least in {"eval_ratio": 1.0, "sustain": 1, "batch": 1, "cap": 1, "lr": 0.0}.items():
        if not least <= config[key] < math.inf:
            raise ConfigurationError(f"{key} is at least {least}, got {config[key]}")
    for key in ("steps", "warmup"):
        try:
            length(0 if config[key] is None else config[key])
        except ValueError:
            raise ConfigurationError(
                f"--{key} takes a number of steps, epochs as 10ep or samples as 20000samples, got {config[key]!r}"
            ) from None
    if wrong := [key for key, value in config.items() if isinstance(value, float) and not math.isfinite(value)]:
        raise ConfigurationError(f"{wrong[0]} is a finite number, got {config[wrong[0]]}")
    return json.loads(json.dumps(config, allow_nan=False))


def refuse_failed(rows, what):
    """Raise ConfigurationError, "WHAT: why", if a run has ended by an error: unlike a divergence, it is no finding."""
    if errors := [row["error"] for row in rows if row["status"] == "error"]:
        raise ConfigurationError(f"{what}: {errors[0]}")


def execute(config: dict, comm=None) -> dict:
    """Run a configuration on the ranks of `comm`; what an exception says becomes a row of status "error"."""
    began = time.perf_counter()
    kind = config["kind"]
    run = steps_to_target
    if kind != "steps_to_target":
        run = experiments.module_of(kind).execute
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            found = run(config, comm or ddp.Communicator())
    except (ddp.PeerLost, KeyboardInterrupt):
        raise
    except Exception as error:
        found = {"status": "error", "error": f"{type(error).__name__}: {error}"}
    return {**found, "wall_s": round(time.perf_counter() - began, 4)}


def steps_to_target(config: dict, comm) -> dict:
    """Train until the target is met, or the budget or the cap is used up."""
    return to_target(Run(config, comm))


class Run:
    """Data, model, optimizer and order of samples of a configuration, ready to take steps.

    data, model, parallel, arena, loader, optimizer   what is trained, and how
    loss, metrics   the training loss, and the metrics of each sample
    budget          steps of the whole run, or None if it ends at its target
    t               steps taken

    An experiment with other runs overrides `load`, `exchange`, `learning_rate` or `step`.
    """

    def __init__(self, config: dict, comm=None):
        self.config, self.comm = config, comm or ddp.Communicator()
        self.data = self.load()
        self.model = workload.build(config)
        shards = config["shards"]
        self.parallel = ddp.DistributedDataParallel(self.model, self.comm, shards, **self.exchange())
        self.arena = self.parallel.arena
        arrays = self.data.train_x, self.data.train_y
        self.loader = ddp.DataLoader(
            arrays, config["batch"], self.comm, shards, config["seed"], SAMPLERS[config["sampler"]], "carry"
        )
        self.budget = None if config["steps"] is None else steps_of(config["steps"], self.loader.sampler)
        self.optimizer = make_optimizer(config, self.parallel, self.learning_rate(), config["optimizer_options"])
        self.loss, self.metrics = workload.objective(config, self.model, self.data)
        self.parts = {"train": self._measured(*arrays), "val": self._measured(self.data.val_x, self.data.val_y)}
        self.t = 0

    # --- what a kind of run may change -------------------------------------------------------------------------------

    def load(self):
        """The data."""
        return workload.load(self.config)

    def exchange(self) -> dict:
        """More arguments of `ddp.DistributedDataParallel`."""
        return {}

    def learning_rate(self):
        """A number, or a function of the step counted from 0."""
        steps = self.budget or self.config["cap"]
        warmup = steps_of(self.config["warmup"], self.loader.sampler)
        return schedule_of(self.config, self.config["lr"], steps, self.loader.sampler, warmup)

    def step(self) -> float:
        """Take the step number `t`, and return the mean loss of its batch."""
        loss = self.parallel.backward(self.loader.batch(self.t), self.loss)
        if math.isfinite(loss):
            self.optimizer.step()
        return loss

    # --- what it can say ---------------------------------------------------------------------------------------------

    @property
    def examples(self) -> int:
        """Samples seen so far."""
        return self.loader.sampler.samples_seen(self.t)

    def evaluate(self, part="train") -> dict[str, float]:
        """Means of the metrics over those samples that are measured, of "train" or "val"."""
        return self._evaluated(self.metrics, part)

    def _evaluated(self, metrics, part):
        arrays, shards = ddp.ArrayDataset(*self.parts[part]), self.config["shards"]
        averaged = self.optimizer.eval()  # a schedule-free rule is judged by its average
        try:
            return ddp.evaluate(self.model, arrays, metrics, self.comm, shards, 256 if self.data.vocabulary else 2048)
        finally:
            if averaged:
                self.optimizer.train()

    def measure(self, metric: str) -> float:
        """One of METRICS."""
        part, _, name = metric.partition("_")
        found = self.evaluate(part)
        if name not in found:
            known = ", ".join(f"{part}_{other}" for other in found)
            raise ConfigurationError(f"metric {metric}: {self.config['data']} has no {name}, give {known}")
        return found[name]

    def snapshot(self):
        """A copy of the model as it is, outside of training, for what works on one of its own: see `scaling.probe`.

        Of a schedule-free rule, with the weights at which gradients are taken.
        """
        model = workload.build(self.config)
        model.load_state_dict(self.model.state_dict())
        return model

    def kept(self):
        """Weights, buffers, the optimizer's state and the step, as copies to which `go_back` goes back."""
        buffers = {name: np.array(buffer.numpy()) for name, buffer in self.model.named_buffers()}
        state = {k: np.copy(v) if isinstance(v, np.ndarray) else v for k, v in self.optimizer.state_dict().items()}
        return self.arena.data.copy(), buffers, state, self.t

    def go_back(self, kept):
        """Be again what the run was when `kept` returned this."""
        data, buffers, state, self.t = kept
        self.arena.data[:] = data
        self.arena.bump_versions()
        for name, buffer in self.model.named_buffers():
            buffer.assign(buffers[name])
        self.optimizer.load_state_dict(state)

    @cached_property
    def start(self) -> tuple[float, float]:
        """The mean loss before the first step, and its standard deviation over the samples that are measured.

        To be looked at before a step is taken, and then known.
        """

        def moments(*arrays):
            loss = self.metrics(*arrays)["loss"]
            if isinstance(loss, (tuple, ddp.Weighted)):
                return {"loss": loss}
            array = to_numpy(unwrap(loss)).astype(np.float64)
            return {"loss": loss, "squares": array * array}

        found = self._evaluated(moments, "train")
        variance = found.get("squares", found["loss"] ** 2) - found["loss"] ** 2
        return found["loss"], math.sqrt(max(variance, 0.0))

    def diverged(self, loss: float) -> bool:
        """Whether a loss says that the run has come to nothing: it is not finite, or far above what it began with.

        Far is told by the run itself, so that neither the unit nor the sign of a loss matters.
        """
        first, spread = self.start
        return not (math.isfinite(loss) and loss - first <= GROWTH * max(abs(first), spread))

    def _measured(self, *arrays):
        count, n = self.config["eval_samples"], len(arrays[0])
        if count >= n:
            return arrays
        chosen = np.sort(ddp.Sampler(n, count, "once", 0).order(0)[:count])
        return tuple(a[chosen] for a in arrays)


def to_target(run: Run, at_evaluation: Callable[[Run], Any] | None = None) -> dict:
    """Steps until the metric meets the target, by evaluations at growing distances, and how the run ended.

    at_evaluation(run), if given, is called at each of them; what it returns is listed in the row's "probes".
    """
    config = run.config
    target, cap, prune, sustain = (config[key] for key in ("target", "cap", "prune", "sustain"))
    limit = min(x for x in (cap, prune, run.budget) if x is not None)
    rising = config["metric"].endswith(RISING)
    if rising and target is not None:
        target = 1.0 - target

    def falling():  # accuracies as errors
        value = run.measure(config["metric"])
        return 1.0 - value if rising else value

    initial, _ = run.start
    loss = initial
    measured = [(0, falling())]
    status, met, in_a_row = "ok", None, 0
    probes = [at_evaluation(run)] if at_evaluation is not None else []
    while True:
        stop = min(fit.eval_steps(run.t, config["eval_ratio"]), limit)
        while run.t < stop and math.isfinite(loss):
            loss = run.step()
            run.t += 1
        value = falling() if math.isfinite(loss) else math.nan
        measured.append((run.t, value))
        if not math.isfinite(value) or (not rising and run.diverged(value)):
            status = "diverged"
            break
        if at_evaluation is not None:
            probes.append(at_evaluation(run))
        if target is not None:
            in_a_row = in_a_row + 1 if value <= target else 0
            if in_a_row == sustain:
                met = fit.crossing(measured[-in_a_row - 1], measured[-in_a_row], target)
                break
        if run.t >= limit:
            if target is not None or limit != run.budget:
                status = "pruned" if limit == prune else "capped"
            break
    train, val = run.evaluate("train"), run.evaluate("val")
    found = {
        "status": status, "steps_to_target": met, "censored_at": None if status == "ok" else run.t, "steps": run.t,
        "examples": run.examples, "epochs": run.examples / len(run.data.train_x), "n_evals": len(measured),
        "initial_train_loss": initial, **{f"final_train_{name}": value for name, value in train.items()},
        **{f"final_val_{name}": value for name, value in val.items()},
        **({"probes": probes} if at_evaluation is not None else {}),
    }  # fmt: skip
    found = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in found.items()}
    if config["trace"]:
        found["trace"] = {"step": [t for t, _ in measured], config["metric"]: [v for _, v in measured]}
    return found
