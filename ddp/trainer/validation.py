"""What follows the validation loss: the best one so far, patience, and the learning rate of a Plateau."""

import math

from allgrad.ddp.trainer.built_in import KeepState
from allgrad.ddp.trainer.callbacks import Callback


class BestLoss(Callback):
    """The lowest validation loss so far; the run stops after `patience` evaluations without a lower one, if given."""

    name = "best"

    def __init__(self, patience: int | None):
        self.patience = patience
        self.val_loss: float | None = None
        self.step = 0  # after which it was measured
        self.evaluations_since = 0

    def on_start(self, trainer):
        self._stop_if_out_of_patience(trainer)  # a run that has stopped early stays so

    def on_evaluation(self, trainer, values):
        if values["val_loss"] < (math.inf if self.val_loss is None else self.val_loss):
            self.val_loss, self.step, self.evaluations_since = values["val_loss"], trainer.step, 0
        else:
            self.evaluations_since += 1
        self._stop_if_out_of_patience(trainer)

    def _stop_if_out_of_patience(self, trainer):
        if self.patience is not None and self.evaluations_since >= self.patience:
            trainer.should_stop = True

    def state_dict(self):
        return {"val_loss": self.val_loss, "step": self.step, "evaluations_since": self.evaluations_since}

    def load_state_dict(self, state):
        self.val_loss, self.step = state["val_loss"], state["step"]
        self.evaluations_since = state["evaluations_since"]


class UpdatePlateau(KeepState):
    """Tells a `Plateau` the validation loss."""

    def on_evaluation(self, trainer, values):
        self.of.observe(values["val_loss"], trainer.step)
