"""Where the search of a run for its target may pass over points without measuring the metric there.

`Outlook` says which points, from the losses of the batches that the run is trained with; `first_crossing` looks at the
weights that were kept of them.
"""

import math
from collections import deque

from allgrad.launch.study import fit

NEAR = 2.5  # times the target: nearer than that, each point of the grid is measured
RESTLESS = 3.0  # the same once the metric has risen from one evaluation to the next
APART = 20.0  # one evaluation is at most at so many times the steps of the last
WINDOW = 128  # samples at least, whose losses say how far the metric is from the target
KEPT_BYTES = 2**26  # of weights at points that were passed over
ROUNDING = 1.001  # by so much more, as sums of fewer rows are rounded otherwise
FAR, ABOVE = "far", "above"


class Outlook:
    """Where a metric is likely to be between evaluations, told by the mean loss of the last batches.

    scale   the metric over that loss. Of the training loss itself it is 1; of other metrics the least seen so far, so
            that they are looked at too often rather than too rarely
    """

    def __init__(self, run, target, first):
        config = run.config
        self.run, self.target, self.restless = run, target, False
        self.is_loss = config["metric"] == "train_loss" and config["objective"] is None and not config["dropout"]
        self.last_step = 0  # at which the metric was last looked at
        self.last_value = None  # of the last evaluation after step 0
        self.scale = 1.0 if self.is_loss else first / run.start[0] if run.start[0] > 0.0 else 0.0
        self.recent = deque(maxlen=math.ceil(WINDOW / config["batch"]))
        self.most = KEPT_BYTES // run.arena.data.nbytes

    def passes(self, losses, kept):
        """Whether a point of the grid, to which steps have led with these losses, may be passed over, as those kept.

        FAR: as the losses say that it is far above the target; ABOVE: it is above, as some samples prove; else None.
        """
        self.recent.extend(losses)
        loss, run = self.loss(), self.run
        if run.diverged(loss) or len(kept) >= self.most or min(self.scale, loss, self.target) <= 0.0:
            return None
        if fit.eval_steps(run.t, run.config["eval_ratio"]) > APART * self.last_step + 1:
            return None
        near = (RESTLESS if self.restless else NEAR) * self.target
        if self.scale * loss > near:
            return FAR
        least = run.least(run.config["metric"])
        if not is_above(least, self.target) or (self.restless and not self._were_above(kept)):
            return None
        self.last_step, self.restless = run.t, True  # or it is not known to be otherwise
        self._scale_by(least)
        return ABOVE

    def _were_above(self, kept):
        """Whether some samples prove the same of the points that were passed over as far."""
        run = self.run
        t, training = run.t, run.training()
        metric, above = run.config["metric"], True
        for point in kept:
            run.go_back(*point)
            if not (above := is_above(run.least(metric), self.target)):
                break
        if kept:
            run.go_on(t, training)
        return above

    def observe(self, step, value):
        """Take note of an evaluation; returns whether the metric has risen from one to the next so far."""
        self.restless |= self.last_value is not None and value > self.last_value
        self.last_step, self.last_value = step, value
        self._scale_by(value)
        return self.restless

    def _scale_by(self, value):
        if not self.is_loss and self.loss() > 0.0:
            self.scale = min(self.scale, value / self.loss())

    def loss(self):
        return math.fsum(self.recent) / len(self.recent)


def is_above(least, target):
    """Whether a value that a metric is not below (`Run.least`) proves that the metric is above a target."""
    return least is not None and math.isfinite(least) and least > ROUNDING * target


def first_crossing(run, before, kept, last, target, falling, restless):
    """The step at which the target was met between two points of the grid; None if it was not.

    before is (step, value, weights), where the value, above the target, may be None; last is (step, value). Looks at
    the weights kept between them, one after the other if the metric is restless and else by bisection, and leaves the
    run where it met the target.
    """
    training, metric = run.training(), run.config["metric"]
    points = [(before[0], before[2]), *kept, (last[0], run.weights())]
    values = {len(points) - 1: last[1]} if before[1] is None else {0: before[1], len(points) - 1: last[1]}

    def value(k):
        if k not in values:
            run.go_back(*points[k])
            values[k] = falling()
        return values[k]

    def is_met(k):
        if k not in values:
            run.go_back(*points[k])
            if is_above(run.least(metric), target):
                return False
        return value(k) <= target

    low, high = 0, len(points) - 1
    if restless:
        high = next((k for k in range(1, len(points)) if is_met(k)), None)
    else:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_met(middle) else (middle, high)
    if high is None:
        run.go_on(last[0], training)
        return None
    crossing = fit.crossing((points[high - 1][0], value(high - 1)), (points[high][0], value(high)), target)
    run.go_back(*points[high])
    return crossing
