"""Local SGD: every rank takes steps of its own, and now and then all take the mean of their parameters."""

from dataclasses import dataclass

import numpy as np

from allgrad.autograd.arrays import to_backend_of, to_numpy
from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.ddp.reduce import ShardSum, gathered


@dataclass(frozen=True)
class LocalSGD:
    """Local steps, see `LocalSteps`: parameters are averaged over the ranks every `every` steps (at least 1).

    after  steps at first in which gradients are exchanged as usual (at least 0)
    """

    every: int
    after: int = 0

    def __post_init__(self):
        if self.every < 1 or self.after < 0:
            raise ConfigurationError(
                "{sync_every.name} is at least 1 and {sync_after.name} at least 0, got {sync_every.value} and "
                "{sync_after.value}", sync_every=self.every, sync_after=self.after,
            )  # fmt: skip


class LocalSteps:
    """Each rank, with one logical shard, steps along the mean gradient of its own samples; nothing is sent meanwhile.

    Every `every` steps the parameters and running statistics become the mean over the ranks, weighted by the samples
    each has seen since the last time; what an optimizer keeps, such as momentum, stays each rank's own. Stich 2019,
    "Local SGD Converges Fast and Communicates Little". The first `after` steps are taken together, by the exchange of
    gradients ("post-local SGD", Lin et al. 2020, "Don't Use Large Mini-Batches, Use Local SGD").

    Whoever looks at the model between two averages (evaluation, checkpoints, the end of the run) sees the mean too; the
    ranks then go on from where each of them was, so that looking changes nothing.
    """

    def __init__(self, arena, statistics, comm, shards, options: LocalSGD, canonical=True):
        if shards != comm.size:
            raise ConfigurationError(
                "{sync_every.name} takes local steps on each rank, which needs as many logical shards as ranks: got "
                "{shards.value} on {ranks.value}",
                sync_every=options.every, shards=counted(shards, "shard"), ranks=counted(comm.size, "rank"),
            )  # fmt: skip
        self.arena, self.statistics, self.comm = arena, statistics, comm
        self.every, self.after = options.every, options.after
        self.parameter_sum = ShardSum(comm, shards, canonical)
        self.own_samples = self.samples = 0  # since the last average: this rank's, and those of all ranks
        self.own = None  # (parameters, running statistics) of this rank, while the model shows the mean

    def is_local(self, step):
        """Whether the step of this number is a local one."""
        return step >= self.after

    def count_samples(self, batch):
        """Count the samples of a batch."""
        self.own_samples += sum(map(len, batch.shards))
        self.samples += batch.size

    def averages_after(self, step):
        """Whether the ranks take the mean of their parameters after the step of this number."""
        return self.is_local(step) and (step + 1 - self.after) % self.every == 0

    def after_step(self, step):
        """Average, if it is time to after the step of this number."""
        if self.averages_after(step):
            self._average()
            self.own_samples = self.samples = 0

    def show_mean(self):
        """Let the model have the mean parameters, until `restore_own`. Collective."""
        if self.own is None and self.samples:
            self.own = to_numpy(self.arena.data).copy(), self.statistics.read()
            self._average()

    def restore_own(self):
        """Give this rank its own parameters back."""
        if self.own is not None:
            self._write(*self.own)
            self.own = None

    def _average(self):
        """The mean over the ranks, in place of what each has."""
        if self.comm.size == 1:
            return
        share = self.own_samples / self.samples
        mean = share * self.arena.data
        self.parameter_sum.push(self.comm.rank, mean)
        self.parameter_sum.finish(mean)
        self.arena.data[...] = mean
        self.arena.bump_versions()
        self.statistics.average(share)

    def _write(self, parameters, statistics):
        self.arena.data[...] = to_backend_of(parameters, self.arena.data)
        self.arena.bump_versions()
        self.statistics.write(statistics)

    def state_dict(self, optimizer):
        """What every rank has of its own, on rank 0: {"local_parameters": {"RANK/fc1.weight": array, ...}, ...}."""
        parameters, statistics = self.own or (to_numpy(self.arena.data), self.statistics.read())
        state = {}
        for kind, flat in {"parameters": parameters, **optimizer.state}.items():
            rows = gathered(self.comm, self.comm.size, [np.ascontiguousarray(to_numpy(flat))])
            state[f"local_{kind}"] = {
                f"{rank}/{name}": row[span] for rank, row in enumerate(rows) for name, span in self.arena.spans.items()
            }
        rows = gathered(self.comm, self.comm.size, [np.append(to_numpy(statistics), [self.own_samples, self.samples])])
        return {**state, "local_statistics": {str(rank): row for rank, row in enumerate(rows)}}

    def load_state_dict(self, state, optimizer):
        """Take back this rank's own; a run goes on with as many ranks as it had."""
        rank = self.comm.rank
        if len(state["local_statistics"]) != self.comm.size:
            raise ConfigurationError(
                f"the checkpoint has local steps of {len(state['local_statistics'])} ranks, and {self.comm.size} are "
                f"there: start as many as it had"
            )
        for kind, flat in {"parameters": self.arena.data, **optimizer.state}.items():
            for name, span in self.arena.spans.items():
                flat[span] = to_backend_of(state[f"local_{kind}"][f"{rank}/{name}"], flat)
        *statistics, own_samples, samples = state["local_statistics"][str(rank)].tolist()
        self.own_samples, self.samples = int(own_samples), int(samples)
        self.arena.bump_versions()
        self.statistics.write(np.array(statistics))
