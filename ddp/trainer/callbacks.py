"""Callback: what a training run does besides taking steps, the user's and the trainer's own alike."""

from pathlib import Path
from typing import Any, NamedTuple

from allgrad.ddp.data import Batch


class StepRecord(NamedTuple):
    """A training step that has been taken: the same numbers on every rank.

    With local steps (`sync_every`), loss, grad_norm, finite and samples are those of this rank's own samples.
    """

    step: int  # how many steps have been taken, with this one: 1 after the first
    loss: float  # mean training loss of the step's samples, before the step
    grad_norm: float  # Euclidean norm of the gradient of all parameters, before clipping
    lr: float  # learning rate of the step
    samples: int  # in the step's batch, of all ranks together; the last batch of an epoch may be short
    samples_seen: int  # in all steps so far, with those of this one
    seconds: float  # that the step took on this rank; of those read late, from one record to the next
    finite: bool  # whether loss and gradient were finite: if not, the step was skipped and no parameter has changed


class Callback:
    """Something that accompanies a training run: derive from it, and override what is needed.

        class AverageOfWeights(ddp.Callback):
            mean = None

            def on_step(self, trainer, step):
                now = trainer.model.state_dict()
                self.mean = self.mean or now
                for name, w in now.items():
                    self.mean[name] += 0.01 * (w - self.mean[name])

            def state_dict(self):
                return {"mean": self.mean}

            def load_state_dict(self, state):
                self.mean = state["mean"]

        trainer = ddp.Trainer(..., callbacks=[AverageOfWeights()])

    All methods are called on every rank, and in the order of `callbacks`. A method may

        trainer.log({"name": number})    add numbers to the next line of metrics.jsonl
        trainer.should_stop = True       end training after this step
        trainer.evaluate(dataset)        compute the metrics of a data set; collective

    On a device, a callback with `on_step` or `on_gradient` lets training wait for each step; else the next one is under
    way when the host reads the numbers of the one before it.

    Ranks have to do the same: whatever stops the run, changes parameters or is collective has to be decided alike on
    every rank, as follows from what the trainer passes on. What only one rank knows, such as the time, goes to all by
    `trainer.comm.broadcast_object(value)`. Files are for the rank `trainer.comm.rank == 0` to write.

    A `ConfigurationError` that one rank raises in `on_start`, `on_evaluation`, `on_checkpoint` or `state_dict` is
    raised on all ranks. Any other error ends the rank that it is raised on, and so the run, like one in the model.
    """

    name: str | None = None  # under which its state is kept in checkpoints; the name of its class if None

    def on_start(self, trainer):
        """Before the first step, and after a checkpoint to go on from has been restored."""

    def on_gradient(self, trainer, batch: Batch):
        """Before the optimizer's step: the clipped gradient of the batch is in each `parameter.grad`.

        It is called also if the gradient is not finite. `trainer.step` is the number of steps before this one.
        """

    def on_step(self, trainer, step: StepRecord):
        """After each step, also one that was skipped (`step.finite` is False then)."""

    def on_evaluation(self, trainer, values: dict[str, float]):
        """After each evaluation every `eval_every` steps: values are {"val_loss": mean loss, "val_NAME": mean, ...}.

        Not after that of a last step in between two of these: a longer run would not have it.
        """

    def on_checkpoint(self, trainer, path: Path):
        """When a checkpoint is being written: a directory, which appears once it is whole. Only if the run has `out`.

        Rank 0 writes in the background, and `trainer.writer.wait()` returns when that is done.
        """

    def state_dict(self) -> Any:
        """What a run needs to go on as if it had not been interrupted, on every rank; that of rank 0 is kept.

        A dict whose values are JSON values, NumPy arrays or torch tensors, or {name: array} dicts. Arrays come back as
        NumPy's; of what is JSON, tuples come back as lists.
        """
        return {}

    def load_state_dict(self, state: Any):
        """Restore what `state_dict` returned, before `on_start`. Not called if the checkpoint has no state of it."""
