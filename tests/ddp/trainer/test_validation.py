"""The lowest validation loss, and the patience that is counted from it."""

from types import SimpleNamespace

import pytest

from allgrad.ddp.trainer.validation import BestLoss


@pytest.mark.parametrize(
    "patience, losses, stops, best",
    [
        (None, [3.0, 4.0, 4.0, 4.0], None, 3.0),
        (2, [3.0, 4.0, 2.0, 2.0, 5.0], 5, 2.0),  # an equal one is not lower
        (1, [3.0, 2.0, 1.0], None, 1.0),
        (1, [-1.0, -3.0, float("nan")], 3, -3.0),
        (2, [float("nan"), 3.0, 2.0, 1.0], None, 1.0),
        (2, [float("inf"), 3.0, 4.0, 5.0], 4, 3.0),
        (2, [float("nan")] * 5, 2, None),
    ],
)
def test_a_run_stops_after_evaluations_without_a_lower_loss(patience, losses, stops, best):
    found, trainer = BestLoss(patience), SimpleNamespace(step=0, should_stop=False)
    for loss in losses:
        trainer.step += 1
        found.on_evaluation(trainer, {"val_loss": loss})
        if trainer.should_stop:
            break
    assert (trainer.step if trainer.should_stop else None) == stops and found.val_loss == best
    again, trainer.should_stop = BestLoss(patience), False
    again.load_state_dict(found.state_dict())
    again.on_start(trainer)
    assert trainer.should_stop is (stops is not None)
