"""The numbers of a step where the gradients are on a device: written and added up there, and sent to the host once."""

import math
from dataclasses import replace
from typing import Any

from allgrad.autograd.arrays import astype, full, on_cpu, xp
from allgrad.ddp.parallel.report import KEY, LOSS, NOISE, STOP, UNUSUAL, WEIGHT, WEIGHTY, Report

LONGEST_DOT = 1 << 30  # elements, which CUDA's products of vectors count in 32 bits


class StepOnDevice:
    """What `DistributedDataParallel` does with numbers in the memory of the host, by tensors of shape ().

    unit   of the weights, and `key` a number that stands for the batch: see there
    """

    def __init__(self, parallel, unit=1, key=0):
        self.parallel, self.unit, self.key = parallel, unit, key
        self.arena, self.extras, self.noise = parallel.arena, parallel.arena.extras, parallel.noise
        self.n = xp[type(self.arena.data)]
        self.zero = parallel.zero
        self.last_weight: Any = None  # that of the last shard, if the device knows it, and whether it is above 0
        self.has_any: Any = None
        self.suspects = []  # of each shard a number that is finite if its loss and its gradient's square are
        self.weight: float | None = 0  # of all shards; None if the host does not know
        self.unusual = False  # whether one of them has another weight than samples, as far as the host knows
        if parallel.comm.size > 1 or unit != 1:
            self.weight = None

    def note(self, samples, mean, weight):
        """Write a shard's extras, which are 0 so far."""
        if self.key:
            self._write(KEY, self.key)
        if self.parallel.stop_asked:
            self._write(STOP, 1.0)
        if not on_cpu(weight):
            self.weight = None
            weight = self.last_weight = astype(weight, "float64")
            self.has_any = weight > 0.0
            part = weight if self.unit == 1 else weight / self.unit
            self._write(LOSS, self.n.where(self.has_any, mean * part, self.zero))
            self._write(WEIGHT, part)
            self._write(UNUSUAL, weight != samples)
            return
        if self.weight is not None:
            self.weight += weight
            self.unusual |= weight != samples
        if weight:
            self._write(LOSS, astype(mean, "float64") * (weight / self.unit))
            self._write(WEIGHT, weight / self.unit)
        if weight != samples:
            self._write(UNUSUAL, 1.0)

    def note_noise(self, size, weight):
        """Write a shard's extras about the noise of a batch of this size, and what its gradient may be suspected of."""
        if self.noise is not None and not on_cpu(weight):
            self._write(WEIGHTY, self.has_any)
            factor = self.n.where(self.has_any, (self.zero + size * size) / self.last_weight, self.zero)
            self.noise.write_extras(self.extras[NOISE:], factor)
        elif self.noise is not None and weight:
            self._write(WEIGHTY, 1.0)
            self.noise.write_extras(self.extras[NOISE:], size * size / weight)
        if self.parallel.halt is None:
            self.suspects.append(self.extras[LOSS] + self.extras[NOISE])

    def _write(self, place, value):
        there = self.extras[place]
        if isinstance(value, (int, float)):
            there.fill_(value)  # an assignment would copy it from the host
        else:
            there.copy_(value)

    def report(self, batch):
        """The report of the sum over all shards, of which the gradient is made the mean."""
        parallel, arena, first = self.parallel, self.arena, self.parallel.own_shards[0]
        batch = replace(batch, shards=[])  # whose arrays are not kept until the report is read
        heard = astype(self.extras[: parallel.told], "float64")
        share = self._share(heard, batch.size)
        if share is not None and not parallel.shard_gradients.mean_of_shard:
            arena.grad *= share
        if self.noise is not None:
            self.noise.square()

        def take(report, heard, squares, suspects):
            report.loss, _, shards = parallel._hear(heard, batch, self.unit, self.key)
            bad = [i for i, number in enumerate(suspects, first) if not math.isfinite(number)]
            parallel.suspect = bad[0] if bad else None
            if self.noise is not None and not report.halted:  # or it is computed again, and observed then
                self.noise.observe(heard[NOISE:], squares, batch.size, parallel.weight, shards)

        squares = self.noise.squares if self.noise is not None else []
        return self._report(heard[LOSS] / heard[WEIGHT], [[heard], squares, self.suspects], take)

    def report_alone(self, mean, weight):
        """The report of one shard, whose gradient is all there is."""
        mean = full((), mean, self.zero) if on_cpu(mean) else mean
        weight = full((), weight, self.zero) if on_cpu(weight) else astype(weight, "float64")  # large counts stay exact

        def take(report, found):
            report.loss = self.parallel._hear_alone(*found)

        return self._report(mean, [[mean, weight]], take)

    def _share(self, heard, size):
        """The factor that makes the sum over the shards the mean, or None if the host knows that it is 1."""
        if self.weight is not None:
            return size / self.weight if self.unusual and self.weight else None
        weight = heard[WEIGHT] * self.unit
        known = (heard[UNUSUAL] != 0.0) & (weight > 0.0)
        return self.n.where(known, (self.zero + size) / weight, self.zero + 1.0)

    def _report(self, mean, parts, take):
        """A report of these numbers and the gradient's norm; with `halt`, the step is undone if one is not finite."""
        parallel, grad = self.parallel, self.arena.grad
        squares = self.noise.squares if self.noise is not None else [g @ g for g in grad.split(LONGEST_DOT)]
        squared = squares[0] if len(squares) == 1 else self.n.stack(squares).sum()
        if parallel.halt is not None:
            doubt = mean + squared
            parallel.halt.logical_or_(doubt - doubt)  # 0 of a number, nan of what is not finite
            parallel.statistics.undo_if(parallel.halt)
        report = Report()
        report.squared_there = squared

        def take_all(report, found, *numbers):
            report.norm, report.halted = math.sqrt(found[0]), found[1] != 0.0
            take(report, *numbers)

        report.sent([[squared, self.zero if parallel.halt is None else parallel.halt], *parts], take_all)
        return report
