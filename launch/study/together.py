"""Several runs at once: those of small networks that differ in seed and learning rate only, trained side by side.

A step of a small network takes little arithmetic and many calls. Here forward and backward are called once for all
runs, on arrays with an axis of runs in front: NumPy multiplies such stacks matrix by matrix, as it would multiply each
by itself, so that weights, losses and rows have the bits of runs done one by one. The optimizer, the order of samples,
evaluations and the search for the target remain each run's own.
"""

import json
import math
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from allgrad import ddp
from allgrad.autograd.arrays import LONG_SUM, mask_grad, maxima_of_rows, ones
from allgrad.launch.study import runner, workload

UNLIKE = "seed", "lr", "cap", "prune"  # in which runs may differ
MOST_PRODUCTS = 2_500_000  # multiplications of a forward pass: with more the arithmetic outweighs the calls
MODEL = re.compile(r"softmax|mlp:([\d,]+)(:relu)?")


def likeness(config: dict) -> str | None:
    """What runs have alike that can be trained together; None for a run that cannot."""
    model = MODEL.fullmatch(config["model"])
    if (
        model is None or config["kind"] != "steps_to_target" or config["model_sha256"] is not None
        or config["objective"] is not None or config["dropout"] or config["shards"] > 1
    ):  # fmt: skip
        return None
    try:
        data = workload.load(config)
    except Exception:
        return None  # the run says why
    if data.classes is None or data.vocabulary is not None:
        return None
    widths = [data.inputs, *map(int, filter(None, (model[1] or "").split(","))), data.outputs]
    if config["batch"] * sum(map(math.prod, pairwise(widths))) > MOST_PRODUCTS or config["batch"] > LONG_SUM:
        return None
    return json.dumps({key: value for key, value in config.items() if key not in UNLIKE}, sort_keys=True)


def execute(configs: Sequence[dict], finished: Callable[[int, dict], object]):
    """Do runs of one `likeness` on this process, and call finished(k, row) for the k-th as soon as it has ended.

    A row is that of `runner.execute`; `wall_s` is the time from the common start to the end of the run.
    """
    began = time.perf_counter()

    def end(k, found):
        finished(k, {**found, "wall_s": round(time.perf_counter() - began, 4)})

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        members = []
        for k, config in enumerate(configs):
            try:
                run = runner.Run(config, ddp.Communicator())
                course = runner.course_of(run)
                members.append(_Member(k, run, course, next(course)))
            except StopIteration as ended:  # before the first step
                end(k, ended.value)
            except Exception as error:
                end(k, runner.failed(error))
        stack = Stack([member.run for member in members])
        if members and not stack.has_the_same_bits():
            for member in members:
                finished(member.k, runner.execute(configs[member.k]))
            return
        while members:
            stop = min(member.stop for member in members)
            for member, losses in zip(members, stack.advance(stop)):
                member.losses += losses
            going_on = []
            for member in members:
                try:
                    member.hear()
                    going_on.append(member)
                except StopIteration as ended:
                    end(member.k, ended.value)
                except Exception as error:
                    end(member.k, runner.failed(error))
            if len(going_on) < len(members):
                members, stack = going_on, Stack([member.run for member in going_on])


@dataclass(eq=False)
class _Member:
    """A run among others: its place among them, its course, the step that it wants to come to, its losses since."""

    k: int
    run: runner.Run
    course: Generator[int, list[float], dict]
    stop: int
    losses: list[float] = field(default_factory=list)

    def hear(self):
        """Send the course its losses if it has come where it wanted; StopIteration with the row at its end."""
        if self.run.t == self.stop or not math.isfinite(self.losses[-1]):
            self.stop, self.losses = self.course.send(self.losses), []


class Stack:
    """The weights and gradients of several runs of one network, (runs, ...), and their steps.

    The network is linear layers with ReLU between them, h' = relu(h W + b), and the loss the mean cross-entropy of the
    last one's outputs: what `launch.models.dense.mlp` makes for labels.
    """

    def __init__(self, runs: Sequence[runner.Run]):
        self.runs = list(runs)
        if not runs:
            return
        arena = runs[0].arena
        self.weights = np.stack([run.arena.data for run in runs])
        messages = np.zeros((len(runs), len(arena.message)), arena.dtype)
        for run, message in zip(runs, messages):
            run.arena.adopt_buffer(message)
            for leaf in run.arena.leaves:
                leaf.stale = False  # gradients are written to the arena, and not handed to the leaves
        spans = list(arena.spans.values())
        shapes = [p.shape for p in arena.parameters.values()]
        self.layers = [
            tuple(
                stacked[:, span].reshape(len(runs), *shape[::-1])  # a weight (out, in) lies as (in, out)
                for stacked in (self.weights, messages)
                for span, shape in zip(spans[i : i + 2], shapes[i : i + 2])
            )
            for i in range(0, len(spans), 2)
        ]
        batch, (x, _) = runs[0].config["batch"], runs[0].loader.dataset.arrays
        self.inputs = np.empty((len(runs), batch, *x.shape[1:]), x.dtype)
        self.labels = np.empty((len(runs), batch), np.int64)
        self.rows = np.arange(len(runs) * batch) * arena.parameters[list(arena.spans)[-1]].size

    def has_the_same_bits(self) -> bool:
        """Whether loss and gradient of the last run's next batch are those that it computes by itself.

        They are where stacks are multiplied matrix by matrix by one routine, as NumPy does with OpenBLAS.
        """
        run = self.runs[-1]
        loss, gradient = self._backward()[-1], run.arena.grad.copy()
        own = run.parallel.backward(run.loader.batch(run.t), run.loss)
        return own == loss and run.arena.grad.tobytes() == gradient.tobytes()

    def advance(self, stop: int) -> list[list[float]]:
        """Take steps until `stop` or until a loss of any run is not finite; returns the losses of each run."""
        losses: list[list[float]] = [[] for _ in self.runs]
        finite = True
        while self.runs[0].t < stop and finite:
            for r, (run, loss) in enumerate(zip(self.runs, self._backward())):
                losses[r].append(loss)
                run.t += 1
                if math.isfinite(loss):
                    run.optimizer.step()
                    self.weights[r] = run.arena.data
                else:
                    finite = False
        return losses

    def _backward(self):
        """The loss of the next batch of each run; the gradients are in the arenas."""
        for r, run in enumerate(self.runs):
            (x, y), samples = run.loader.dataset.arrays, run.loader.sampler.indices(run.t)
            x.take(samples, axis=0, out=self.inputs[r], mode="clip")
            y.take(samples, out=self.labels[r], mode="clip")
        count, batch = self.labels.shape
        dtype = self.weights.dtype
        h = self.inputs.reshape(count, batch, -1)
        inputs = []
        for i, (w, b, _, _) in enumerate(self.layers):
            if i:
                h = np.maximum(h, 0.0, out=h)
            inputs.append(h)
            h = np.matmul(h, w)
            h += b[:, None]
        z = h - maxima_of_rows(h)
        at = self.rows + self.labels.reshape(-1)  # of the labels' outputs in the flat z
        e = np.exp(z)
        s = np.matmul(e, ones(e.shape[2], dtype))
        losses = np.log(s)
        losses -= z.take(at).reshape(count, batch)
        d = e * np.divide(dtype.type(1.0) / batch, s)[:, :, None]  # of the mean loss by h
        d.reshape(-1)[at] -= dtype.type(1.0) / batch
        for i in reversed(range(len(self.layers))):
            w, _, gw, gb = self.layers[i]
            np.matmul(inputs[i].mT, d, out=gw)
            np.matmul(ones(batch, dtype), d, out=gb)
            if i:
                d = mask_grad(np.matmul(d, w.mT), inputs[i] != 0.0)
        return [float(loss.dot(ones(batch, dtype)) * (1.0 / batch)) for loss in losses]
