"""The trainer's own callbacks: everything that has state, beside the weights, the optimizer's and the ranks'."""

from typing import Any

from allgrad.ddp.data import Batch, Piece, Sampler
from allgrad.ddp.errors import ConfigurationError, Diverged
from allgrad.ddp.scaling import FollowNoise
from allgrad.ddp.trainer.callbacks import Callback, StepRecord

MOST_SKIPPED = 20  # steps in a row that may be skipped


class KeepState(Callback):
    """Keeps the state of an object in checkpoints."""

    def __init__(self, name: str, of: Any):
        self.name, self.of = name, of

    def state_dict(self):
        return self.of.state_dict()

    def load_state_dict(self, state):
        self.of.load_state_dict(state)


class UpdateLossScale(KeepState):
    """Lets a `LossScale` know whether gradients overflow."""

    def on_step(self, trainer, step: StepRecord):
        self.of.update(step.finite)


class UpdateAdaScale(KeepState):
    """Tells an `AdaScale` the noise of each step, from which the step's learning rate follows."""

    def on_gradient(self, trainer, batch: Batch):
        self.of.observe(trainer.parallel.noise.last, batch.size)

    def on_step(self, trainer, step: StepRecord):
        if step.finite:
            self.of.advance()


class ResizeBatches(Callback):
    """Lets the batch follow the noise scale, as a `FollowNoise` says."""

    name = "batches"

    def __init__(self, follow: FollowNoise, sampler: Sampler):
        self.follow, self.sampler = follow, sampler

    def on_step(self, trainer, step: StepRecord):
        if self.follow.due(self.sampler, step.step):
            now = self.sampler.batch_at(step.step - 1)
            if (batch := self.follow.next(now, trainer.parallel.noise.value)) != now:
                self.sampler.resize(step.step, batch)

    def state_dict(self):
        return self.sampler.pieces

    def load_state_dict(self, state):
        self.sampler.pieces = [Piece(*piece) for piece in state]


class SkipSteps(Callback):
    """Decides whether a step whose loss or gradient is not finite is skipped or ends the run, and counts those skipped.

    on_nonfinite  "raise" Diverged, or "skip", but at most `MOST_SKIPPED` in a row
    """

    name = "skipped"

    def __init__(self, on_nonfinite):
        if on_nonfinite not in ("raise", "skip"):
            raise ConfigurationError(f"on_nonfinite is raise or skip, got {on_nonfinite!r}")
        self.on_nonfinite = on_nonfinite
        self.count = self.in_a_row = 0

    def skip_or_raise(self, trainer, loss, norm, lr):
        """Undo what the step has changed so far, and raise Diverged unless it is left out. Collective."""
        parallel, scale = trainer.parallel, trainer.parallel.scale
        parallel.undo()
        if not parallel.weight and self.on_nonfinite == "raise":
            seen = f"nothing in the batch of step {trainer.step} counts: all its labels are ignored, or of weight 0"
            raise Diverged("{seen.value}; take larger batches, or give {on_nonfinite:skip}", seen=seen)
        # Of float16, which will be mended by half the scale, if that is not below 1.
        overflow = scale is not None and scale.value >= 2.0
        if not overflow and (self.on_nonfinite == "raise" or self.in_a_row >= MOST_SKIPPED):
            found = parallel.not_finite()
            skipped = f" after {self.in_a_row} steps left out in a row" if self.in_a_row else ""
            seen = (
                f"the loss is {loss:g} and its gradient's norm {norm:g} at step {trainer.step} with learning rate "
                f"{lr:g}{f' ({found})' if found else ''}{skipped}"
            )
            raise Diverged("{seen.value}: lower {lr}, or give {clip} or {warmup}", seen=seen)

    def on_step(self, trainer, step: StepRecord):
        self.count += not step.finite
        self.in_a_row = 0 if step.finite else self.in_a_row + 1

    def state_dict(self):
        return self.count, self.in_a_row

    def load_state_dict(self, state):
        self.count, self.in_a_row = state
