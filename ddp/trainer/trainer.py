"""The training loop: steps, evaluation, early stopping, metrics, checkpoints, summary."""

import math
import os
import platform
import time
from functools import cached_property
from pathlib import Path

import numpy as np

from allgrad.autograd import optim
from allgrad.autograd.schedule import Plateau
from allgrad.ddp import process
from allgrad.ddp.data import DataLoader, Piece
from allgrad.ddp.errors import ConfigurationError, Diverged
from allgrad.ddp.parallel import DistributedDataParallel, Zero, evaluate
from allgrad.ddp.scaling import AdaScale, FollowNoise
from allgrad.ddp.trainer import checkpoint
from allgrad.ddp.trainer.metrics_log import Journal

OWN = "exchange_"  # in front of what a checkpoint has, beside the optimizer's state, of the exchange between ranks

SKIPS = 20  # steps in a row that may be left out


class Trainer:
    """Trains a model for a number of steps, and writes what happened.

    parallel, optimizer, loader   what to train, how, on which batches
    loss(*arrays)                 the training loss of a shard, see `DistributedDataParallel.backward`
    metrics(*arrays)              {name: one number a sample}, see `evaluate`; "loss" among them
    validation                    a data set, or None
    steps                         total number of steps; None for as many as `epochs` take
    out                           directory for metrics.jsonl, summary.json and checkpoints/; nothing is written if None
    clip, clip_value              limits of the gradients' common norm, and then of each of their elements, or None
    eval_every                    steps between evaluations; an epoch if None
    checkpoint_every              steps between checkpoints; only the last step has one if None
    patience                      stop after so many evaluations without a better validation loss; never if None
    config                        JSON values to be kept in checkpoints and in the summary
    check_every                   steps between comparisons of the ranks' parameters, each a hash of them: an epoch if
                                  None, never if 0
    on_nonfinite                  what to do with a step whose loss or gradient is not finite: "raise" Diverged, or
                                  "skip" it, but at most 20 in a row
    batches                       a `FollowNoise` that changes the batch on the way, or None
    resumes                       whether `out` is that of this very run, begun before

    A Plateau as the optimizer's `lr` is told the validation loss every `eval_every` steps. An AdaScale is told the
    noise of every step, and ends training before the last step once it is done. Checkpoints keep the state of both.
    """

    def __init__(
        self, parallel: DistributedDataParallel, optimizer: optim.Optimizer | Zero, loader: DataLoader, loss, metrics,
        *, validation=None, steps: int | None = None, epochs=0, out: Path | None = None, clip: float | None = None,
        clip_value: float | None = None, log_every=10, eval_every: int | None = None,
        checkpoint_every: int | None = None, patience: int | None = None, config: dict | None = None, resumes=False,
        check_every: int | None = None, on_nonfinite="raise", batches: FollowNoise | None = None,
    ):  # fmt: skip
        self.parallel, self.optimizer, self.loader = parallel, optimizer, loader
        self.loss, self.metrics, self.validation = loss, metrics, validation
        self.comm, self.model = parallel.comm, parallel.model
        self.steps, self.epochs, self.batches = steps, epochs, batches
        self.out = None if out is None else Path(out)
        self.clip, self.clip_value = clip, clip_value
        self.log_every, self.eval_every, self.check_every = log_every, eval_every, check_every
        self.checkpoint_every, self.patience = checkpoint_every, patience
        self.config, self.resumes = config or {}, resumes
        if on_nonfinite not in ("raise", "skip"):
            raise ConfigurationError(f"on_nonfinite is raise or skip, got {on_nonfinite!r}")
        self.on_nonfinite = on_nonfinite
        self.skipped = self.skipped_in_a_row = 0
        self.timeline = parallel.timeline
        self.timeline.plan(steps)
        directory = self.out / "checkpoints" if self.out and self.comm.rank == 0 else None
        self.writer = checkpoint.Writer(directory, self.timeline)
        self.step = 0
        self.best = {"val_loss": None, "step": 0, "evaluations_since": 0}
        self.bytes_sent = 0  # bytes that this rank has sent in training
        self.seconds = 0.0  # spent training, without evaluation and checkpoints
        self.first_step = 0
        self.plateau = optimizer.lr if isinstance(optimizer.lr, Plateau) else None
        self.adascale = optimizer.lr if isinstance(optimizer.lr, AdaScale) else None
        if self.plateau is not None and validation is None:
            raise ConfigurationError("a Plateau follows the validation loss: give the trainer a validation set")
        if (self.adascale or batches) and parallel.noise is None:
            raise ConfigurationError("AdaScale and FollowNoise follow the noise scale: give the model a NoiseScale")

    @property
    def total_steps(self):
        """Steps of the whole run, as far as known by now: those of `epochs` depend on what the batch will be."""
        return self.loader.sampler.steps_in(self.epochs) if self.steps is None else self.steps

    @property
    def finished(self):
        """Whether there is nothing left to do."""
        return self.step >= self.total_steps or (self.adascale is not None and self.adascale.done)

    # --- going on from a checkpoint ------------------------------------------------------------------------------

    def restore(self, saved):
        """Go on from `(model, optimizer, state)`, as `checkpoint.load` returns them."""
        model, optimizer, state = saved
        own = {name: optimizer[name] for name in optimizer if name.startswith(OWN)}
        try:
            self.model.load_state_dict(model)
            self.optimizer.load_state_dict({name: optimizer[name] for name in optimizer.keys() - own.keys()})
        except (ValueError, KeyError) as error:
            raise ConfigurationError(f"the checkpoint is that of another model or optimizer: {error}") from None
        self.parallel.load_state_dict({name.removeprefix(OWN): value for name, value in own.items()}, self.optimizer)
        if self.parallel.noise is not None and state["noise_scale"] is not None:
            self.parallel.noise.load_state_dict(state["noise_scale"])
        if self.parallel.scale is not None and state["loss_scale"] is not None:
            self.parallel.scale.load_state_dict(state["loss_scale"])
        self.step = self.first_step = state["step"]
        self.best = state["best"]
        self.skipped, self.skipped_in_a_row = state.get("skipped", (0, 0))
        if self.batches is not None:
            self.loader.sampler.pieces = [Piece(*piece) for piece in state["batches"]]
        if self.adascale is not None:
            self.adascale.load_state_dict(state["adascale"])
        if self.plateau is not None and state.get("plateau") is not None:
            self.plateau.load_state_dict(state["plateau"])

    def save(self):
        """Begin to write a checkpoint. A disk that refuses is reported, and training goes on."""
        noise, scale, sampler = self.parallel.noise, self.parallel.scale, self.loader.sampler
        self.parallel.show_mean()
        own, optimizer = self.parallel.state_dict(self.optimizer), self.optimizer.state_dict()
        state = {
            "config": self.config,
            "samples_seen": sampler.samples_seen(self.step),
            "epochs": sampler.samples_seen(self.step) / sampler.samples,
            "noise_scale": noise.state_dict() if noise is not None else None,
            "loss_scale": scale.state_dict() if scale is not None else None,
            "best": self.best,
            "skipped": (self.skipped, self.skipped_in_a_row),
            "plateau": self.plateau.state_dict() if self.plateau is not None else None,
            "adascale": self.adascale.state_dict() if self.adascale is not None else None,
            "batches": sampler.pieces,
            "fingerprint": self.fingerprint,
        }
        if self.writer.directory is not None:
            optimizer |= {OWN + name: value for name, value in own.items()}
            self.writer.save(self.step, self.model.state_dict(), optimizer, state)

    # --- the loop ------------------------------------------------------------------------------------------------

    def fit(self) -> dict:
        """Train until the last step or until patience runs out; returns the summary.

        Raises, on every rank at the same step, Diverged if the loss or its gradient is no longer finite, and OutOfStep
        if the ranks' parameters differ. Raises ConfigurationError if `out` holds another run's checkpoints, or if the
        last checkpoint could not be written.
        """
        self.comm.agree_or_raise(self._refuse_another_run)
        journal = Journal(self.out, self.step, self.total_steps, self.comm.rank == 0)
        began = time.perf_counter()
        window = [0.0, 0, 0, 0.0]  # sum of finite losses, their samples, all samples and seconds since the last line
        stopped = self._out_of_patience()  # a run that has stopped early stays so
        with journal, self.writer:
            while not (self.finished or stopped):
                sent = self.comm.bytes_sent
                with self.timeline.step(self.step):
                    loss, samples, norm, lr, seconds = self._one_step()
                self.bytes_sent += self.comm.bytes_sent - sent
                known = samples if math.isfinite(loss) else 0
                news = (loss * known if known else 0.0, known, samples, seconds)
                window = [a + b for a, b in zip(window, news)]
                self.seconds += seconds
                self._follow_noise()
                journal.advance(self.step, loss, self.total_steps)
                last = self.finished
                if self.comm.size > 1 and self.check_every != 0 and (last or self._due(self.check_every)):
                    self.parallel.compare_parameters()
                line = {}
                if last or self._due(self.eval_every):
                    line |= self._evaluate()
                    stopped = self._out_of_patience()
                if last or stopped or line or self.step % self.log_every == 0:
                    if self.parallel.local is not None:  # each rank knows the losses of its own samples
                        window[:2] = map(math.fsum, zip(*self.comm.all_gather_object(window[:2])))
                    line = {
                        "step": self.step,
                        "epoch": self.loader.sampler.epoch_of(self.step - 1),
                        "samples_seen": self.loader.sampler.samples_seen(self.step),
                        "lr": lr,
                        **({"gain": self.adascale.gain} if self.adascale is not None else {}),
                        "batch": self.loader.sampler.batch_at(self.step - 1),
                        "loss": window[0] / window[1] if window[1] else None,
                        "grad_norm": norm if math.isfinite(norm) else None,
                        **self._noise(),
                        "samples_per_second": window[2] / window[3],
                        **line,
                    }
                    window = [0.0, 0, 0, 0.0]
                    journal.write(line)
                if not (last or stopped) and self.checkpoint_every and self.step % self.checkpoint_every == 0:
                    with self.timeline.span("checkpoint", "copy"):
                        self.save()
            summary = self._summary(stopped, time.perf_counter() - began)
            with self.timeline.span("checkpoint", "copy"):
                self.save()
            error = self.comm.broadcast_object(str(self.writer.wait() or ""))
            if traced := self.timeline.finish():
                summary["timeline"] = traced
            journal.finish(summary)
        if error:
            raise ConfigurationError(f"the final weights are lost: their checkpoint could not be written ({error})")
        return summary

    def _refuse_another_run(self):
        """A new run must not mix its checkpoints with those of an old one: a resume would take the later of them."""
        if self.comm.rank or self.out is None or self.step or self.resumes:
            return
        if checkpoint.steps_in(self.out / "checkpoints"):
            raise ConfigurationError(f"{self.out} holds checkpoints of another run: give a new directory")

    def _one_step(self):
        began = time.perf_counter()
        with self.timeline.span("data"):
            batch = self.loader.batch(self.step)
        with np.errstate(over="ignore", invalid="ignore"):  # what they lead to is reported as Diverged
            loss = self.parallel.backward(batch, self.loss)
            norm = optim.clip_grad_norm(self.parallel, self.clip if self.clip is not None else math.inf)
            if self.clip_value is not None and math.isfinite(norm):
                optim.clip_grad_value(self.parallel, self.clip_value)
        if self.adascale is not None and self.parallel.noise is not None:
            self.adascale.observe(self.parallel.noise.last, batch.size)
        lr = self.optimizer.current_lr
        finite, scale = math.isfinite(loss) and math.isfinite(norm), self.parallel.scale
        if scale is not None:
            scale.update(finite)
        if finite:
            with self.timeline.span("optimizer"):
                self.optimizer.step()
                self.parallel.step(self.step)
            self.skipped_in_a_row = 0
            if self.adascale is not None:
                self.adascale.advance()
        else:
            self._leave_out(loss, norm, lr)
        self.step += 1
        samples = batch.size if self.parallel.local is None else sum(map(len, batch.shards))
        return loss, samples, norm, lr, time.perf_counter() - began

    def _due(self, every):
        """Whether something is to be done after this step that is done every so many steps, or after epochs if None."""
        if every is not None:
            return self.step % every == 0
        sampler = self.loader.sampler
        before, now = (sampler.samples_seen(step) // sampler.samples for step in (self.step - 1, self.step))
        return now > before

    def _follow_noise(self):
        """Let the batch follow the noise scale, if it is time to."""
        sampler, noise = self.loader.sampler, self.parallel.noise
        if self.batches is not None and noise is not None and self.batches.due(sampler, self.step):
            now = sampler.batch_at(self.step - 1)
            if (batch := self.batches.next(now, noise.value)) != now:
                sampler.resize(self.step, batch)

    def _leave_out(self, loss, norm, lr):
        """Leave a step out whose loss or gradient is not finite, or raise Diverged, as agreed."""
        scale, row = self.parallel.scale, self.skipped_in_a_row
        overflow = scale is not None and scale.value >= 1.0  # of float16, which a smaller scale will mend
        if not overflow and (self.on_nonfinite == "raise" or row >= SKIPS):
            found = self.parallel.not_finite()
            seen = (
                f"the loss is {loss:g} and its gradient's norm {norm:g} at step {self.step} with learning rate {lr:g}"
                f"{f' ({found})' if found else ''}{f' after {row} steps left out in a row' if row else ''}"
            )
            raise Diverged("{seen.value}: lower {lr}, or give {clip} or {warmup}", seen=seen)
        self.parallel.statistics.undo()
        self.skipped, self.skipped_in_a_row = self.skipped + 1, row + 1

    def _evaluate(self):
        if self.validation is None:
            return {}
        self.parallel.show_mean()
        values = self._means(self.validation)
        regular = self._due(self.eval_every)  # the last step may lie between two that a longer run evaluates
        best = self.best["val_loss"]
        if not regular:
            pass
        elif best is None or values["loss"] < best:
            self.best = {"val_loss": values["loss"], "step": self.step, "evaluations_since": 0}
        else:
            self.best["evaluations_since"] += 1
        if self.plateau is not None and regular:
            self.plateau.observe(values["loss"], self.step)
        return {f"val_{name}": value for name, value in values.items()}

    def _out_of_patience(self):
        return self.patience is not None and self.best["evaluations_since"] >= self.patience

    def _noise(self):
        noise = self.parallel.noise
        return noise.report() if noise is not None else {"noise_scale": None, "noise_scale_ci": None}

    def _summary(self, stopped, wall):
        sampler = self.loader.sampler
        seen = sampler.samples_seen(self.step)
        now = seen - sampler.samples_seen(self.first_step)
        self.parallel.show_mean()
        train = self._means(self.loader.dataset)
        val = self._means(self.validation) if self.validation is not None else {}
        return {
            "weights_sha256": self.parallel.arena.sha256(),
            "world_size": self.comm.size,
            "launcher": self.comm.launcher,
            "backend": self.comm.backend,
            "arrays": self.loader.place.arrays,
            "device": self.loader.place.device,
            "dtype": self.loader.place.dtype,
            "logical_shards": self.parallel.shards,
            "overlap": self.parallel.overlap.policy or "auto",
            "overlap_why": self.parallel.overlap.why,
            "global_batch": sampler.global_batch,
            "steps": self.step,
            "epochs": seen / sampler.samples,
            "samples_seen": seen,
            "skipped_steps": self.skipped,
            **{f"train_{name}": value for name, value in train.items()},
            "val_loss": None,
            "val_accuracy": None,
            **{f"val_{name}": value for name, value in val.items()},
            **({"scale_invariant_steps": self.adascale.tau} if self.adascale is not None else {}),
            **({"batches": [list(piece) for piece in sampler.pieces]} if len(sampler.pieces) > 1 else {}),
            **self._noise(),
            "samples_per_second": now / self.seconds if self.seconds else None,
            "bytes_per_step": self.bytes_sent / (self.step - self.first_step) if self.step > self.first_step else None,
            "wall_seconds": wall,
            "seed": self.loader.seed,
            "stopped_early": stopped,
            "best": self.best,
            "resumed_at": self.first_step or None,
            "malloc": process.malloc(),
            "oversubscribed": self.comm.local_size > (os.cpu_count() or 1),
            "config": self.config,
            "fingerprint": self.fingerprint,
        }

    def _means(self, dataset):
        with self.timeline.span("evaluation"):
            return evaluate(self.model, dataset, self.metrics, self.comm, self.parallel.shards, place=self.loader.place)

    @cached_property
    def fingerprint(self) -> dict:
        """What equal bits are claimed within: processor, libraries, BLAS and its threads."""
        return {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
            "blas": process.blas(),
            **self.loader.place.fingerprint(),
        }
