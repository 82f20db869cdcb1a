"""DistributedDataParallel: one backward for each logical shard, one exchange for each step."""

import hashlib
import math
import time
from collections import Counter
from contextlib import nullcontext

import numpy as np

from allgrad.autograd import random
from allgrad.autograd.arena import arena_of
from allgrad.autograd.arrays import full, is_torch, to_numpy
from allgrad.autograd.engine import unwrap
from allgrad.autograd.ops import NoVarianceError
from allgrad.autograd.replay import capture as captured
from allgrad.ddp.comm import Communicator, activity
from allgrad.ddp.errors import ConfigurationError, OutOfStep, counted
from allgrad.ddp.parallel.local_sgd import LocalSteps
from allgrad.ddp.parallel.running_statistics import RunningStatistics
from allgrad.ddp.parallel.sync_batch_norm import SyncBatchNorm
from allgrad.ddp.reduce import Compression, Overlap, ShardSum, gradient_sum
from allgrad.ddp.shards import shards_of_rank
from allgrad.ddp.trace import Timeline

BATCH_NORMS = ("shard", "sync")
CAPTURED = 8  # functions, each for shards of one weight, that are kept
LOSS, WEIGHTED = 0, 1  # what rides behind the gradients: the sum of losses, and from there on what `NoiseScale` needs


class DistributedDataParallel:
    """A model whose gradients are summed over all ranks.

    At construction the ranks compare the names, shapes and dtypes of their parameters and buffers, and take over
    rank 0's values. `backward` then leaves in every rank the gradient of the mean loss over the global batch, and
    moves running statistics, with the same bits on any number of ranks that share the same logical shards.

    shards  number of logical shards; the number of ranks if absent
    noise   a `NoiseScale` to be kept up to date, or None; costs one pass over the gradients a shard
    scale   a `LossScale` for float16, or None

    reduce, wire, compress  how gradients are added up, see `gradient_sum`
    sync_every, sync_after  local steps between averages of the parameters, see `LocalSteps`: then `step` has to be
                            called after the optimizer's, as `Trainer` does
    batch_norm              "shard": moments of each logical shard, see `RunningStatistics`; "sync": moments of the
                            global batch, as in torch's SyncBatchNorm, which is slower, see `SyncBatchNorm`
    overlap, bucket         when gradients are exchanged, see `Overlap`, and how many bytes a bucket has at least (an
                            eighth of all if None, from 256 kB to 25 MB); the same bits whatever they are
    timeline                a `Timeline` that is to record some steps, or None
    capture                 replay forward and backward of shards of one shape and weight, see `ag.capture`: then
                            `backward` takes the same loss every time
    """

    def __init__(
        self, model, comm: Communicator | None = None, shards=None, reduce="canonical", noise=None, scale=None,
        wire="float32", compress=None, sync_every: int | None = None, sync_after=0, batch_norm="shard",
        overlap="auto", bucket: int | None = None, timeline: Timeline | None = None, capture=False,
    ):  # fmt: skip
        self.model, self.comm = model, comm or Communicator()
        self.shards = self.comm.size if shards is None else shards
        self.run = list(
            range(*shards_of_rank(self.comm.rank, self.comm.size, self.shards))
        )  # the shards this rank computes
        self.arena = arena_of(model)
        buffers = dict(model.named_buffers())
        self._verify({**self.arena.parameters, **buffers})
        self.total = gradient_sum(self.arena, self.comm, self.shards, reduce, wire, compress)
        if type(self.total) is ShardSum and self.arena.on_cpu:
            message = self.total.share(self.arena.message)
            if message is not self.arena.message:
                self.arena.adopt_buffer(message)
        self.statistics = RunningStatistics(model, self.comm, self.shards, reduce != "native")
        self.noise, self.scale = noise, scale
        self.suspect: int | None = None  # this rank's first shard of the batch whose loss or gradient is not finite
        self.adasum = reduce == "adasum"
        self.capture = capture
        self.captured: dict = {}
        self._refuse(reduce, wire, compress, sync_every, sync_after, batch_norm, timeline)
        self.local = None
        if sync_every is not None:
            self.local = LocalSteps(
                self.arena, self.statistics, self.comm, self.shards, sync_every, sync_after, reduce != "native"
            )
        self.lockstep = None
        if batch_norm == "sync":
            self.lockstep = SyncBatchNorm(self.arena, self.statistics, self.comm, self.shards, reduce != "native")
        self._attach()
        # A sum of gradients as they come out of backward, that nothing else looks at.
        direct = type(self.total) is ShardSum and self.lockstep is noise is scale is None
        self.overlap = Overlap(
            overlap, bucket, self.arena, self.comm, self.shards, self.total, self._settle, direct, reduce, wire,
            compress, sync_every, batch_norm,
        )  # fmt: skip
        self.timeline = timeline or Timeline()
        self.timeline.watch(self)
        self.comm.broadcast(self.arena.data)
        self.arena.bump_versions()
        for buffer in buffers.values():
            values = np.array(buffer.numpy(), order="C").reshape(-1)
            if values.size:
                self.comm.broadcast(values.view(np.uint8))  # bytes: a buffer may have any dtype
                buffer.assign(values.reshape(buffer.shape))

    def _refuse(self, reduce, wire, compress, sync_every, sync_after, batch_norm, timeline):
        """Stop where two of the ways contradict each other."""
        if batch_norm not in BATCH_NORMS:
            raise ConfigurationError(f"batch_norm is {' or '.join(BATCH_NORMS)}, got {batch_norm!r}")
        apart = {
            f"--reduce {reduce}": self.adasum, f"--sync-every {sync_every}": sync_every is not None,
            "a NoiseScale": self.noise is not None,
        }  # fmt: skip
        if batch_norm == "sync" and any(apart.values()):
            other = next(way for way, given in apart.items() if given)
            raise ConfigurationError(
                f"--batch-norm sync makes each shard's gradient depend on all others, and {other} takes each by "
                f"itself: leave one out"
            )
        moving = {
            "--batch-norm sync": batch_norm == "sync", "a model with running statistics": self.statistics.tensors,
            "--arrays torch": is_torch(self.arena.data), "--trace": timeline is not None and timeline.path is not None,
        }  # fmt: skip
        if self.capture and any(moving.values()):
            other = next(way for way, given in moving.items() if given)
            raise ConfigurationError(
                f"--capture replays forward and backward as one list of NumPy's functions, which {other} does not "
                f"allow: leave one out"
            )
        if sync_every is None and sync_after:
            raise ConfigurationError(f"--sync-after {sync_after} has no effect without --sync-every")
        asked = {
            f"--compress {compress}": compress, f"--reduce {reduce}": self.adasum, f"--wire {wire}": wire != "float32",
            f"--sync-every {sync_every}": sync_every,
        }  # fmt: skip
        asked = [flag for flag, given in asked.items() if given]
        if sync_every is not None and len(asked) > 1:
            raise ConfigurationError(f"{asked[-1]} sends parameters, and {asked[0]} is for gradients: leave out one")
        if self.scale is not None and (compress or sync_every is not None):
            raise ConfigurationError(
                f"{asked[0] if compress else asked[-1]} would keep what overflows in float16: give --dtype bfloat16"
            )
        if self.noise is not None and (compress or self.adasum or sync_every is not None):
            raise ConfigurationError(
                f"a NoiseScale needs the exact gradient, which {asked[0]} does not compute: give noise=None"
            )

    def _attach(self):
        """Take the gradients from where they lie: another model of the same parameters may have moved them."""
        self.gradients = self.arena.grad
        # What is settled one by one; on a device, where nothing overlaps, all at once.
        self.pieces = [self.arena.grad[span] for span in self.arena.spans.values()]
        if not self.arena.on_cpu:
            self.pieces = [self.arena.grad]
        if self.noise is not None:
            self.noise.attach(self.arena)

    def _verify(self, tensors):
        """Stop on every rank if the models differ: a sum over different parameters would be meaningless."""
        mine = [(name, list(t.shape), str(t.dtype)) for name, t in tensors.items()]
        all_ranks = self.comm.all_gather_object(mine)
        for rank, theirs in enumerate(all_ranks):
            for first, other in zip(all_ranks[0] + [None] * len(theirs), theirs + [None] * len(all_ranks[0])):
                if first != other:
                    raise ConfigurationError(
                        f"the models differ between ranks: rank 0 has {_describe(first)} where rank {rank} has "
                        f"{_describe(other)}; build the same model on every rank"
                    )

    def backward(self, batch, loss):
        """Compute the gradient of the mean loss over the global batch, and return that mean as a float.

        loss(*arrays) gets one shard's arrays and returns a tensor: the mean over the shard's samples, or one number
        a sample. Every shard is computed by itself, so that each matrix product has the same shape on any number of
        ranks, and is weighted by its share of the batch, so that uneven shards count by their samples.
        """
        if batch.logical_shards != self.shards:
            raise ConfigurationError(
                f"the batch is cut into {counted(batch.logical_shards, 'logical shard')} and the model expects "
                f"{self.shards}: give both the same shards"
            )
        if [shard.index for shard in batch.shards] != self.run:
            raise ConfigurationError(
                f"rank {self.comm.rank} got the shards {[shard.index for shard in batch.shards]} of the batch, but it "
                f"has to compute {self.run}: give the same comm to DataLoader and DistributedDataParallel"
            )
        began = time.perf_counter()
        activity.step = batch.step
        self.suspect = None
        if self.gradients is not self.arena.grad:
            self._attach()
        self.statistics.begin()
        if self.local is not None:
            self.local.restore_own()
            if self.local.is_local(batch.step):
                self.local.count_samples(batch)
                return self._alone(batch, loss)
        if self.shards == 1 and isinstance(self.total, ShardSum):
            return self._alone(batch, loss)
        arena, extras, exchange = self.arena, self.arena.extras, self.overlap.current()
        for shard, mean in self._descents(batch, loss, exchange):
            extras[LOSS] = mean * len(shard)
            arena.zero_missing_grads()
            exchange.complete()
            if self.noise is not None and len(shard):
                self.noise.ride(extras[WEIGHTED:], batch.size, len(shard))
            if self.suspect is None and not math.isfinite(float(extras[LOSS]) + float(extras[WEIGHTED])):
                self.suspect = shard.index
            exchange.push()
            self.statistics.push(shard.index, len(shard) / batch.size)
        with self.timeline.span("exchange"):
            exchange.finish()
            self.statistics.finish()
        if self.noise is not None:
            self.noise.observe(extras[WEIGHTED:], batch.size, min(batch.size, self.shards))
        self.overlap.record_time(time.perf_counter() - began)
        return float(extras[LOSS]) / batch.size

    def not_finite(self) -> str | None:
        """The first parameter, in the arena's order, whose gradient is not finite, and the shard if known, in words.

        A collective, after `backward`. The shard is known if its loss is not finite, or a noise scale is kept.
        """
        flat = to_numpy(self.arena.grad)
        names = [name for name, span in self.arena.spans.items() if not np.isfinite(flat[span]).all()]
        shards = [
            (shard, rank) for rank, shard in enumerate(self.comm.all_gather_object(self.suspect)) if shard is not None
        ]
        if not names:
            return None
        source = ", from shard {} on rank {}".format(*min(shards)) if shards else ""
        return f"first in the gradient of {names[0]!r}{source}"

    def compare_parameters(self):
        """Raise OutOfStep on every rank if the ranks do not have the same parameters, bit for bit. A collective.

        Between the averages of local steps they are meant to differ, and nothing is compared.
        """
        if self.local is not None:
            return
        digests = self.comm.all_gather_object(hashlib.sha256(to_numpy(self.arena.data).data).digest())
        if len({*digests}) == 1:
            return
        flat = to_numpy(self.arena.data)
        mine = [hashlib.sha256(flat[span].data).digest() for span in self.arena.spans.values()]
        (most, count), *_ = Counter(digests).most_common()
        like, wrong = digests.index(most), next(r for r, digest in enumerate(digests) if digest != most)
        everyones = self.comm.all_gather_object(mine)
        name = next(
            (n for n, a, b in zip(self.arena.spans, everyones[like], everyones[wrong]) if a != b), "the padding"
        )
        others = f"the other {count} of {self.comm.size} ranks" if 2 * count > self.comm.size else f"rank {like}"
        raise OutOfStep(
            f"the parameters of rank {wrong} differ from those of {others}, first in {name!r}, after step "
            f"{activity.step}: change parameters on all ranks alike, and by nothing that is random or local to a rank"
        )

    def step(self, number):
        """To be called after the optimizer's step of this number, counted from 0: average, where steps are local."""
        if self.local is not None:
            self.local.after_step(number)

    def show_mean(self):
        """Where steps are local, let the model have the mean parameters until the next `backward`. Collective."""
        if self.local is not None:
            self.local.show_mean()

    def state_dict(self, optimizer):
        """What else a run needs to go on, on rank 0: residuals of compression, what each rank has of its own."""
        if self.local is not None:
            return self.local.state_dict(optimizer)
        return self.total.state_dict() if isinstance(self.total, Compression) else {}

    def load_state_dict(self, state, optimizer):
        """Restore what `state_dict` returned; the optimizer has its own state already."""
        try:
            if self.local is not None:
                self.local.load_state_dict(state, optimizer)
            elif isinstance(self.total, Compression):
                self.total.load_state_dict(state)
        except (KeyError, ValueError) as error:
            raise ConfigurationError(f"the checkpoint is that of another way to exchange gradients: {error}") from None

    def _alone(self, batch, loss):
        """The gradient of one shard, which is all there is or all that this step wants; its samples' mean loss."""
        (shard,) = batch.shards
        self.arena.zero_grad()
        value = self._descend(batch, shard, loss, len(shard), nullcontext()) if len(shard) else 0.0
        self.arena.zero_missing_grads()
        self._settle(slice(None))
        if not math.isfinite(value):
            self.suspect = 0
        return value

    def _settle(self, which):
        """Finish the gradients of a slice of the parameters: undo the scale, and square them for the noise scale."""
        if self.scale is not None:
            for g in self.pieces[which]:
                g *= 1.0 / self.scale.value
        if self.noise is not None:
            self.noise.square(which)

    def _descents(self, batch, loss, exchange):
        """Pairs (shard, mean loss of its samples), with the shard's gradient in the arena."""
        if self.lockstep is not None:
            descend = lambda shard: self._descend(batch, shard, loss, batch.size, nullcontext())
            for shard, mean in self.lockstep.descend(batch, descend):
                exchange.begin(shard.index)
                yield shard, mean
            return
        try:
            for shard in batch.shards:
                self.arena.zero_grad()
                self.arena.extras[:] = 0.0
                exchange.begin(shard.index)
                # Adasum weighs the shards by itself, and takes the mean gradient of each.
                count = len(shard) if self.adasum else batch.size
                mean = self._descend(batch, shard, loss, count, exchange.watching()) if len(shard) else 0.0
                yield shard, mean
        finally:
            self.arena.redirect_grads()

    def _descend(self, batch, shard, loss, count, watching):
        """Backward from a shard's losses, summed and divided by `count`, in the context `watching`.

        Returns the mean loss of the shard's samples.
        """
        samples, span = len(shard), self.timeline.span
        scale = 1.0 if self.scale is None else self.scale.value
        if self.capture:
            with random.keyed(batch.seed, "forward", batch.step, shard.index), watching:
                return _mean(self._replayed(loss, samples, scale, count)(*shard.arrays), samples)
        with random.keyed(batch.seed, "forward", batch.step, shard.index), span("forward", shard=shard.index):
            try:
                value = loss(*shard.arrays)
            except NoVarianceError as error:
                fewer = "fewer shards, " if self.lockstep is None else ""
                raise ConfigurationError(
                    f"{error} in a shard with {samples} of a batch of {counted(batch.size, 'sample')}: give {fewer}a "
                    f"larger global batch, or --boundary carry if it is the short last batch of an epoch"
                ) from None
        with watching, span("backward", shard=shard.index):
            _backward(value, samples, scale, count)
        return _mean(value, samples)

    def _replayed(self, loss, samples, scale, count):
        """Forward and backward of shards of so many samples as one captured function of their arrays."""
        key = loss, samples, scale, count

        def forward_backward(*arrays):
            value = loss(*arrays)
            _backward(value, samples, scale, count)
            return value

        if key not in self.captured:
            if len(self.captured) == CAPTURED:
                self.captured.clear()
            self.captured[key] = captured(forward_backward)
        return self.captured[key]


def _backward(value, samples, scale, count):
    """Backward from the losses of a shard's samples, or from their mean: times `scale`, divided by `count`."""
    if value.shape not in ((), (samples,)):
        raise ValueError(
            f"the loss of a shard of {counted(samples, 'sample')} must be a scalar (their mean) or of shape "
            f"({samples},), got shape {value.shape}"
        )
    like = unwrap(value)
    value.backward(scale * samples / count if value.shape == () else full((samples,), scale / count, like))


def _mean(value, samples):
    return value.item() if value.shape == () else math.fsum(value.tolist()) / samples


def _describe(parameter):
    return "nothing" if parameter is None else "{!r} {} {}".format(*parameter)
