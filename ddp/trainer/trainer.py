"""The training loop."""

import inspect
import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from allgrad.autograd import optim
from allgrad.autograd.arrays import full
from allgrad.autograd.schedule import Plateau
from allgrad.ddp.compatibility import check
from allgrad.ddp.data import DataLoader
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.parallel import DistributedDataParallel, Report, Zero, evaluate
from allgrad.ddp.reduce import Compression
from allgrad.ddp.scaling import AdaScale, FollowNoise
from allgrad.ddp.trainer import checkpoint, run_state, run_summary
from allgrad.ddp.trainer.built_in import KeepState, ResizeBatches, SkipSteps, UpdateAdaScale, UpdateLossScale
from allgrad.ddp.trainer.callbacks import Callback, StepRecord
from allgrad.ddp.trainer.locks import locked
from allgrad.ddp.trainer.metrics_log import MetricsLog, json_number
from allgrad.ddp.trainer.signals import StopOnSignal
from allgrad.ddp.trainer.validation import BestLoss, UpdatePlateau


class _Unread(NamedTuple):
    """A step that was given to a device and of which the host does not know yet what has come out."""

    report: Report
    step: int  # steps before it
    lr: float
    samples: int
    counted: tuple  # what the optimizer's and the EMA's steps had counted before it


class Trainer:
    """Trains a model for a number of steps, and writes what happened.

    What to train, how, on which batches:

    parallel          a `DistributedDataParallel`
    optimizer         of `allgrad.optim`, or a `Zero`. A Plateau as its `lr` is told the validation loss every
                      `eval_every` steps. An AdaScale is told the noise of every step, and ends training before the last
                      step once it is done.
    loader            a `DataLoader`
    loss(*arrays)     the training loss of a shard, see `DistributedDataParallel.backward`
    metrics(*arrays)  {name: one number a sample}, see `evaluate`; "loss" among them
    validation        a data set, or a tuple of arrays; None for none
    ema               an `allgrad.optim.EMA` of the weights, updated after each step, and what is evaluated and saved in
                      their place; None for none
    batches           a `FollowNoise` that changes the batch on the way; None for batches as the loader has them
    callbacks         what else is to be done on the way, see `Callback`
    signals           a `StopOnSignal`, if SIGTERM and others are to end training with a checkpoint; None leaves them

    For how long, and within which limits:

    steps             total number of steps; None for as many as `epochs` take. One of the two has to be given
    epochs            times that every sample is seen: a number that need not be whole
    patience          stop after so many evaluations, at least 1, without a lower validation loss; never if None
    clip              upper limit of the Euclidean norm of all gradients together; None for none
    clip_value        upper limit of the size of each element of the gradients, after `clip`; None for none
    on_nonfinite      what to do with a step whose loss or gradient is not finite: "raise" Diverged, or "skip" it, but
                      at most 20 in a row

    How often, in steps; the last step has an evaluation, a line and a checkpoint anyway:

    eval_every        between evaluations; an epoch if None, only the last step has one if 0
    log_every         between lines of metrics.jsonl; each evaluation has one too, and only they if 0
    checkpoint_every  between checkpoints; only the last step has one if None or 0
    check_every       between comparisons of the ranks' parameters, each a hash of them: an epoch if None, never if 0

    Where to:

    out               directory for metrics.jsonl, summary.json and checkpoints/; nothing is written if None
    resumes           whether `out` is that of this very run, begun before
    config            JSON values to be kept in checkpoints and in the summary
    """

    def __init__(
        self, parallel: DistributedDataParallel, optimizer: optim.Optimizer | Zero, loader: DataLoader, loss, metrics,
        *, validation=None, steps: int | None = None, epochs=0, out: Path | None = None, clip: float | None = None,
        clip_value: float | None = None, log_every=10, eval_every: int | None = None,
        checkpoint_every: int | None = None, patience: int | None = None, config: dict | None = None, resumes=False,
        check_every: int | None = None, on_nonfinite="raise", batches: FollowNoise | None = None,
        callbacks: Sequence[Callback] = (), signals: StopOnSignal | None = None, ema: optim.EMA | None = None,
    ):  # fmt: skip
        self.parallel, self.optimizer, self.loader, self.ema = parallel, optimizer, loader, ema
        self.loss, self.metrics, self.validation = loss, metrics, validation
        self.comm, self.model, self.timeline = parallel.comm, parallel.model, parallel.timeline
        self.steps, self.epochs, self.clip, self.clip_value = steps, epochs, clip, clip_value
        self.eval_every, self.log_every = eval_every, log_every
        self.checkpoint_every, self.check_every = checkpoint_every, check_every
        self.out, self.resumes, self.config = None if out is None else Path(out), resumes, config or {}
        self.step = self.first_step = 0  # steps taken so far, and those before this process
        self.should_stop = False  # for callbacks to set: see `Callback`
        self.logged: dict = {}  # by callbacks, for the next line of metrics.jsonl
        self.bytes_sent = 0  # by this rank, in training
        self.seconds = 0.0  # spent in steps, without evaluations, checkpoints and what callbacks do after a step
        self.unrecorded = 0.0  # of these, since the last step of which there is a record
        self.unread: deque[_Unread] = deque()  # steps whose reports are still to be read, at most two
        self.record: Any = None  # of the last step of which there is one
        self.best, self.skips = BestLoss(patience), SkipSteps(on_nonfinite)
        self._refuse_senseless()
        check(
            zero=isinstance(optimizer, Zero), sync_every=parallel.local and parallel.local.every, ema=ema and ema.decay
        )
        self.adascale = optimizer.lr if isinstance(optimizer.lr, AdaScale) else None
        self.built_in = [self.best, self.skips, *self._built_in(batches)]
        self.callbacks, self.signals = run_state.checked(callbacks), signals
        self.timeline.plan(steps)
        directory = self.out / "checkpoints" if self.out and self.comm.rank == 0 else None
        self.writer = checkpoint.Writer(directory, self.timeline)

    def _refuse_senseless(self):
        if self.steps is None and not self.epochs:
            raise ConfigurationError("a run has a length: give {steps} or {epochs}", steps=None)
        counts = ("steps", "epochs", "log_every", "eval_every", "checkpoint_every", "check_every")
        for name, least in {**dict.fromkeys(counts, 0), "patience": 1}.items():
            value = self.best.patience if name == "patience" else getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigurationError(
                    "{name.value} is at least {least.value}, got {value.value}", name=name, least=least, value=value
                )
        rule = getattr(self.optimizer, "optimizer", self.optimizer)
        if self.parallel.local is not None and not rule.takes_local_steps:
            raise ConfigurationError(
                "{sync_every} averages the parameters, and {optimizer.value} keeps more that belongs to them: leave it "
                "out", sync_every=self.parallel.local.every, optimizer=type(rule).__name__,
            )  # fmt: skip
        if self.ema is not None and isinstance(rule, optim.ScheduleFree):
            raise ConfigurationError(
                "{ema} has no effect with {optimizer.value}, whose weights are an average anyway: leave it out",
                ema=self.ema.decay, optimizer=type(rule).__name__,
            )  # fmt: skip

    def _built_in(self, batches):
        """Callbacks for what parallel, optimizer and batches need to know and to keep."""
        noise, scale, rate = self.parallel.noise, self.parallel.scale, self.optimizer.lr
        if isinstance(rate, Plateau) and self.validation is None:
            raise ConfigurationError("a Plateau follows the validation loss: give the trainer a validation set")
        if (isinstance(rate, AdaScale) or batches) and noise is None:
            raise ConfigurationError("AdaScale and FollowNoise follow the noise scale: give the model a NoiseScale")
        if noise is not None:
            yield KeepState("noise_scale", noise)
        if scale is not None:
            yield UpdateLossScale("loss_scale", scale)
        if isinstance(rate, AdaScale):
            yield UpdateAdaScale("adascale", rate)
        if isinstance(rate, Plateau):
            yield UpdatePlateau("plateau", rate)
        if batches is not None:
            yield ResizeBatches(batches, self.loader.sampler)

    @property
    def total_steps(self):
        """Steps of the whole run, as far as known by now: those of `epochs` depend on what the batch will be."""
        return self.loader.sampler.steps_in(self.epochs) if self.steps is None else self.steps

    @property
    def finished(self):
        """Whether there is nothing left to do."""
        return self.step >= self.total_steps or (self.adascale is not None and self.adascale.done)

    @cached_property
    def reads_late(self):
        """Whether a step is given to the device before the host knows the numbers of the one before it.

        So it is if the arrays are on a device and nothing needs the numbers at once.
        """
        parallel, follows_noise = self.parallel, any(isinstance(one, ResizeBatches) for one in self.built_in)
        looks = any(
            getattr(getattr(callback, event), "__func__", None) is not getattr(Callback, event)
            for callback in self.callbacks
            for event in ("on_step", "on_gradient")
        )
        keeps = isinstance(parallel.gradient_sum, Compression)  # residuals, in the memory of the host
        at_once = looks or follows_noise or self.adascale or parallel.scale or parallel.local or keeps
        may_skip = "skip" in inspect.signature(self.optimizer.step).parameters
        return not (parallel.on_cpu or at_once or self.skips.on_nonfinite == "skip") and may_skip

    # --- the loop ------------------------------------------------------------------------------------------------

    def fit(self) -> dict:
        """Train until the last step, or until patience runs out or a callback stops the run; returns the summary.

        The model has the weights that were evaluated and saved then: with an EMA or a schedule-free rule, averages.
        Raises, on every rank at the same step, Diverged if the loss or its gradient is no longer finite, and OutOfStep
        if the ranks' parameters differ. Raises ConfigurationError if `out` holds another run's checkpoints or is
        written by another process, or if the last checkpoint could not be written; and `Stopped` as `signals` say.
        """
        with ExitStack() as stack:
            if (out := self.out) is not None:
                self.comm.agree_or_raise(lambda: self.comm.rank or stack.enter_context(locked(out)))
            if self.signals is not None:
                stack.enter_context(self.signals.listening(self.parallel))
            stack.callback(setattr, self.parallel, "halt", None)
            return self._fit()

    def _fit(self):
        self.comm.agree_or_raise(self._refuse_another_run)
        began = time.perf_counter()
        self.should_stop = stopped = False
        self.unread.clear()
        for kept in self._averages:
            kept.train()
        self._tell_all("on_start")
        with MetricsLog(self) as log, self.writer:
            while not (self.finished or self.should_stop):
                self._tell_steps(self._take_step(), log)
                if self.signals is not None and self.signals.agreed(self.parallel, self.step):
                    self.should_stop = stopped = True
                if self.should_stop:
                    self._tell_steps(self._read(), log)
                last = self.finished
                if self.comm.size > 1 and self.check_every != 0 and (last or self._due(self.check_every)):
                    self.parallel.compare_parameters()
                values = self._evaluate() if last or self._due(self.eval_every) else {}
                last = last or self.should_stop
                if last or values or self._due(self.log_every):
                    log.write_line(self.record, values)
                if not last and self._due(self.checkpoint_every or 0):
                    self.save()
            self.save()
            if stopped and self.signals is not None:
                self.timeline.finish()
                self.signals.end(self, self.out and checkpoint.path_of(self.out / "checkpoints", self.step))
            for kept in self._averages:
                kept.eval()
            summary = run_summary.summary_of(self, time.perf_counter() - began)
            error = self.comm.broadcast_object(str(self.writer.wait() or ""))
            if traced := self.timeline.finish():
                summary["timeline"] = traced
            log.write_summary(summary)
        if error:
            raise ConfigurationError(f"the final weights are lost: their checkpoint could not be written ({error})")
        return summary

    def _refuse_another_run(self):
        """A new run must not mix its checkpoints with those of an old one: a resume would take the later of them."""
        if self.comm.rank or self.out is None or self.step or self.resumes:
            return
        if checkpoint.steps_in(self.out / "checkpoints"):
            raise ConfigurationError(f"{self.out} holds checkpoints of another run: give a new directory")

    def _take_step(self):
        """Take a step; the records of the steps that are known then: this one, or those before it on a device."""
        if not self.reads_late:
            return [self._one_step()]
        self._enqueue_step()
        return self._read(but=0 if self.finished or self._any_due() else 1)

    def _one_step(self) -> StepRecord:
        """Take a step, and wait for its numbers."""
        sent = self.comm.bytes_sent
        with self.timeline.step(self.step):
            began = time.perf_counter()
            with self.timeline.span("data"):
                batch = self.loader.batch(self.step)
            with np.errstate(over="ignore", invalid="ignore"):  # what they lead to is reported as Diverged
                report = self.parallel.enqueue(batch, self.loss, norm=True).read()
                loss, norm = report.loss, report.norm
                if math.isfinite(norm):
                    if self.clip is not None:
                        optim.clip_grads_with_norm(self.parallel, self.clip, norm)
                    self._clip_value()
            for callback in chain(self.built_in, self.callbacks):
                callback.on_gradient(self, batch)
            lr, finite = self.optimizer.current_lr, math.isfinite(loss) and math.isfinite(norm)
            if finite:
                with self.timeline.span("optimizer"):
                    self.optimizer.step()
                    self.parallel.step(self.step)
                    if self.ema is not None:
                        self.ema.update()
            else:
                self.skips.skip_or_raise(self, loss, norm, lr)
            seconds = time.perf_counter() - began
        self.step += 1
        self.seconds += seconds
        self.bytes_sent += self.comm.bytes_sent - sent
        samples = batch.size if self.parallel.local is None else sum(map(len, batch.shards))
        seen = self.loader.sampler.samples_seen(self.step)
        return StepRecord(self.step, loss, norm, lr, samples, seen, seconds, finite)

    def _clip_value(self):
        if self.clip_value is not None:
            optim.clip_grad_value(self.parallel, self.clip_value)

    def _enqueue_step(self):
        """Give a whole step to the device, which leaves it out if it is not finite, or one before it was not."""
        began, sent, halt = time.perf_counter(), self.comm.bytes_sent, self.parallel.halt
        if halt is None:
            halt = self.parallel.halt = full((), 0.0, self.parallel.arena.data, "float32")
        with self.timeline.step(self.step):
            with self.timeline.span("data"):
                batch = self.loader.batch(self.step)
            counted = self.optimizer.progress, self.ema and self.ema.updates
            report = self.parallel.enqueue(batch, self.loss)
            if self.clip is not None:
                optim.clip_grads_with_norm(self.parallel, self.clip, report.norm_there)
            self._clip_value()
            lr = self.optimizer.current_lr
            with self.timeline.span("optimizer"):
                self.optimizer.step(skip=halt)
                if self.ema is not None:
                    self.ema.update(skip=halt)
            self.unread.append(_Unread(report, self.step, lr, batch.size, counted))
            self.unrecorded += time.perf_counter() - began
        self.step += 1
        self.bytes_sent += self.comm.bytes_sent - sent

    def _read(self, but=0):
        """Read the reports of the steps that were given to the device, but for so many of the last; their records."""
        while len(self.unread) > but:
            began, one = time.perf_counter(), self.unread.popleft()
            report = one.report.read()
            if report.halted:
                self._end_before(one)
            seconds, self.unrecorded = self.unrecorded + time.perf_counter() - began, 0.0
            self.seconds += seconds
            seen = self.loader.sampler.samples_seen(one.step + 1)
            yield StepRecord(one.step + 1, report.loss, report.norm, one.lr, one.samples, seen, seconds, True)

    def _end_before(self, one):
        """Raise Diverged, of a step that was not finite, where the host hears of it late. Collective.

        Nothing has changed since. So its gradient, which later ones have overwritten, is computed again and looked at.
        """
        self.unread.clear()
        self.step = one.step
        self.optimizer.progress, updates = one.counted
        if self.ema is not None:
            self.ema.updates = updates
        self.parallel.halt = None
        self.parallel.enqueue(self.loader.batch(one.step), self.loss).read()
        self.skips.skip_or_raise(self, one.report.loss, one.report.norm, one.lr)

    def _tell_steps(self, records, log):
        """Let callbacks and the log know of steps."""
        for record in records:
            self.record = record
            for callback in chain(self.built_in, self.callbacks):
                callback.on_step(self, record)
            log.add(record)

    def _any_due(self):
        """Whether anything is to be done after this step that needs its numbers, or the weights as it leaves them."""
        every = [self.log_every, self.checkpoint_every or 0]
        every += [self.eval_every] if self.validation is not None else []
        every += [self.check_every] if self.comm.size > 1 else []
        return any(map(self._due, every))

    def _due(self, every):
        """Whether to do after this step what is done every so many steps, never if 0, after each epoch if None."""
        if every is not None:
            return every > 0 and self.step % every == 0
        sampler = self.loader.sampler
        before, now = (sampler.samples_seen(step) // sampler.samples for step in (self.step - 1, self.step))
        return now > before

    def _evaluate(self):
        if self.validation is None:
            return {}
        values = {f"val_{name}": value for name, value in self.evaluate(self.validation).items()}
        if "val_loss" not in values:
            raise ConfigurationError(f"metrics return a loss among others, got {', '.join(values)}: name it 'loss'")
        if self._due(self.eval_every):  # the last step may lie between two that a longer run evaluates
            self._tell_all("on_evaluation", values)
        return values

    def _tell_all(self, event, *args):
        """Call this method of all callbacks; what a user's refuses on one rank is raised on all."""
        for callback in self.built_in:
            getattr(callback, event)(self, *args)
        for callback in self.callbacks:
            self.comm.agree_or_raise(getattr(callback, event), self, *args)

    # --- for callbacks -------------------------------------------------------------------------------------------

    def evaluate(self, dataset) -> dict[str, float]:
        """The mean of each metric over a data set, with the weights as they are now. Collective.

        Where steps are local, these are the mean weights of all ranks, which the model has until the next step; with an
        EMA or a schedule-free rule, the averages: see `averaged`.
        """
        self.parallel.show_mean()
        with self.timeline.span("evaluation"), self.averaged():
            return evaluate(self.model, dataset, self.metrics, self.comm, self.parallel.shards, place=self.loader.place)

    @property
    def _averages(self):
        """What may keep an average of the weights."""
        return [self.optimizer] if self.ema is None else [self.optimizer, self.ema]

    @contextmanager
    def averaged(self):
        """A context in which the model has the weights that are evaluated and saved. Collective.

        With an EMA or a schedule-free rule these are averages, and training goes on from others, of which no bit
        changes.
        """
        changed = [kept for kept in self._averages if kept.eval()]
        try:
            yield
        finally:
            for kept in changed:
                kept.train()

    def log(self, numbers: dict):
        """Add {name: number} to the next line of metrics.jsonl; of one name the last number counts."""
        self.logged |= {name: json_number(name, value) for name, value in numbers.items()}

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def save(self):
        """Begin to write a checkpoint. A disk that refuses is reported, and training goes on."""
        with self.timeline.span("checkpoint", "copy"), self.averaged():
            optimizer, state = run_state.collect(self)
            if self.writer.directory is not None:
                self.writer.save(self.step, self.model.state_dict(), optimizer, state)
        if self.out is not None:
            self._tell_all("on_checkpoint", checkpoint.path_of(self.out / "checkpoints", self.step))

    def restore(self, saved):
        """Go on from `(model, optimizer, state)`, as `checkpoint.load` returns them."""
        run_state.restore(self, saved)

    @cached_property
    def fingerprint(self) -> dict:
        """What equal bits are claimed within: processor, libraries, BLAS and its threads."""
        return run_summary.fingerprint_of(self.loader.place)
