"""DistributedDataParallel: one backward for each logical shard, one exchange for each step."""

import difflib
import math
import time
import zlib
from dataclasses import replace
from typing import Any

import numpy as np

from allgrad.autograd import optim
from allgrad.autograd.arena import arena_of
from allgrad.autograd.arrays import full
from allgrad.ddp.comm import Communicator, activity
from allgrad.ddp.compatibility import check, contradiction, takes_all_at_once
from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.ddp.parallel.consistency import (
    compare_batches,
    compare_data,
    compare_models,
    compare_parameters,
    first_not_finite,
    refuse_new_parameters,
    refuse_other_parameters,
)
from allgrad.ddp.parallel.local_sgd import LocalSGD, LocalSteps
from allgrad.ddp.parallel.report import KEY, LOSS, NOISE, STOP, UNUSUAL, WEIGHT, WEIGHTY, Report
from allgrad.ddp.parallel.running_statistics import RunningStatistics
from allgrad.ddp.parallel.shard_gradients import CAPTURES, ShardGradients
from allgrad.ddp.parallel.step_on_device import StepOnDevice
from allgrad.ddp.parallel.sync_batch_norm import SyncBatchNorm
from allgrad.ddp.reduce import (
    POLICIES,
    BucketedExchange,
    Compression,
    Exchange,
    ExchangeAfterBackward,
    Overlap,
    ShardSum,
    StreamedExchange,
    ThreadedExchange,
    bucket_size,
    gradient_sum,
    on_device,
    wire_of,
    without_trial,
)
from allgrad.ddp.shards import shards_of_rank
from allgrad.ddp.trace import Timeline

BATCH_NORMS = ("shard", "sync")
SHORT_FORM = {  # keyword -> the field of `Exchange` that it sets
    "reduce": "reduce", "wire": "wire", "compress": "compress", "overlap": "overlap", "bucket": "bucket_bytes",
}  # fmt: skip


class DistributedDataParallel:
    """A model whose gradients are summed over all ranks.

    At construction the ranks compare the names, shapes and dtypes of their parameters and buffers, and take over
    rank 0's values. `backward` then leaves in every rank the gradient of the mean loss over the global batch, and
    moves running statistics, with the same bits on any number of ranks that share the same logical shards.

    shards      number of logical shards; the number of ranks if absent
    exchange    how and when gradients are added up, see `Exchange`
    local_sgd   a `LocalSGD`: local steps between averages of the parameters; then `step` has to be called after the
                optimizer's, as `Trainer` does. None: gradients are exchanged in every step
    noise       a `NoiseScale` to be kept up to date, or None; costs one pass over the gradients a shard
    scale       a `LossScale` for float16, or None
    batch_norm  "shard": moments of each logical shard, see `RunningStatistics`; "sync": moments of the global batch, as
                in torch's SyncBatchNorm, which is slower, see `SyncBatchNorm`
    capture     replay forward and backward of shards of one shape and weight, see `ag.capture`: then `backward` takes
                the same loss every time. "auto": where it pays, see `ShardGradients.captures`; what cannot be replayed
                is then computed as without. The loss and the model must do nothing besides, such as counting calls
    timeline    a `Timeline` that is to record some steps, or None

    The fields of the groups may also be given by themselves: reduce, wire, compress, overlap and bucket, which is
    `Exchange.bucket_bytes`; sync_every and sync_after, which are those of `LocalSGD`. Raises ConfigurationError where
    options contradict each other (`ddp.compatibility`), TypeError for any other keyword.
    """

    def __init__(
        self, model, comm: Communicator | None = None, shards: int | None = None, *, exchange: Exchange | None = None,
        local_sgd: LocalSGD | None = None, noise=None, scale=None, batch_norm="shard", capture: bool | str = False,
        timeline: Timeline | None = None, **short_form,
    ):  # fmt: skip
        exchange, local_sgd = _grouped(exchange or Exchange(), local_sgd, short_form)
        if batch_norm not in BATCH_NORMS:
            raise ConfigurationError(f"batch_norm is {' or '.join(BATCH_NORMS)}, got {batch_norm!r}")
        capture = ("off", "on")[capture] if isinstance(capture, bool) else capture
        if capture not in CAPTURES:
            raise ConfigurationError(f"capture is {', '.join(CAPTURES)}, True or False, got {capture!r}")
        self.model, self.comm = model, comm or Communicator()
        self.shards = self.comm.size if shards is None else shards
        self.own_shards = [*range(*shards_of_rank(self.comm.rank, self.comm.size, self.shards))]
        self.arena = arena_of(model)
        buffers = {name: p for name, p in model.named_parameters() if not p.requires_grad} | dict(model.named_buffers())
        compare_models(self.comm, {**self.arena.parameters, **buffers})
        canonical = exchange.reduce != "native"
        self.statistics = RunningStatistics(model, self.comm, self.shards, canonical)
        configuration = {
            "reduce": exchange.reduce, "wire": exchange.wire, "compress": exchange.compress,
            "sync_every": local_sgd and local_sgd.every, "batch_norm": batch_norm,
            "device": "cpu" if self.arena.on_cpu else "cuda",
        }  # fmt: skip
        check(
            **configuration, overlap=exchange.overlap, capture=capture, noise=noise is not None,
            dtype=None if scale is None else "float16", trace=timeline and timeline.path,
        )  # fmt: skip
        self.all_at_once = takes_all_at_once(**configuration)  # why no exchange can overlap with backward, or None
        self.noise, self.scale, self.on_cpu = noise, scale, self.arena.on_cpu
        rounded = self.arena.dtype.itemsize == 2 or wire_of(exchange.wire) is not None  # sums, to half precision
        self.keys = max(1, min((2**8 if rounded else 2**24) // self.shards, 4093))  # how many `_key` tells apart
        self.compared = {""}  # origins of batches that ranks with local steps have compared
        self.weight: float = 0.0  # of the last batch: of all the terms that its mean loss is over
        self.suspect: int | None = None  # this rank's first shard of the batch whose loss or gradient is not finite
        self.stop_asked = False  # whether this rank asks all to end training: they hear of it with its gradients
        self.stop_agreed = False  # whether any rank has asked before its last `backward`: the same on all ranks
        # None, or on a device a float32 tensor of shape () which is 1 from the first step on whose loss or gradient is
        # not finite: then running statistics stay as they are, and `optimizer.step(skip=halt)` leaves the rest.
        self.halt: Any = None
        self.zero = None if self.on_cpu else full((), 0.0, self.arena.data, "float64")  # for what is computed there
        self.gradient_sum = gradient_sum(self.arena, self.comm, self.shards, exchange)
        if type(self.gradient_sum) is ShardSum:
            message = self.gradient_sum.share(self.arena.message)
            if message is not self.arena.message:
                self.arena.adopt_buffer(message)
        self.local = self.sync_batch_norm = None
        if local_sgd is not None:
            self.local = LocalSteps(self.arena, self.statistics, self.comm, self.shards, local_sgd, canonical)
        if batch_norm == "sync":
            self.sync_batch_norm = SyncBatchNorm(self.arena, self.statistics, self.comm, self.shards, canonical)
        self.timeline = timeline or Timeline()
        self.shard_gradients = ShardGradients(
            self.arena, self.timeline, scale, capture, exchange.reduce == "adasum", self.sync_batch_norm
        )
        if capture == "auto":
            against = contradiction(capture="on", batch_norm=batch_norm, trace=timeline and timeline.path)
            against = against or (None if self.arena.on_cpu else "on a device by capture='on' alone")
            if against is not None:
                self.shard_gradients.leave_out_capture(str(against))
        self.overlap = self._overlap(exchange)
        self._attach()
        self.timeline.watch(self)
        self.comm.broadcast(self.arena.data)
        self.arena.bump_versions()
        for buffer in buffers.values():
            values = np.array(buffer.numpy(), order="C").reshape(-1)
            if values.size:
                self.comm.broadcast(values.view(np.uint8))  # bytes: a buffer may have any dtype
                buffer.assign(values.reshape(buffer.shape))

    def _attach(self):
        """Take the gradients from where they lie: another model of the same parameters may have moved them."""
        self.gradients = self.arena.grad
        # What is finished one by one; on a device all at once, unless it is exchanged meanwhile.
        one_by_one = self.arena.on_cpu or self.overlap.policy == "bucket"
        self.pieces = [self.arena.grad[span] for span in self.arena.spans.values()] if one_by_one else [self.arena.grad]
        if self.noise is not None:
            self.noise.attach(self.arena)

    def _overlap(self, exchange):
        """The policy that was asked for, or the trial of several."""
        arena, comm = self.arena, self.comm
        if exchange.overlap == "thread" and not comm.threads:
            raise ConfigurationError(
                "{overlap} needs ranks that talk in any thread (MPI_THREAD_MULTIPLE), which {backend.value} does not "
                "let them here: give {overlap:bucket}", overlap="thread", backend=comm.backend,
            )  # fmt: skip
        message_bytes = len(arena.message) * arena.dtype.itemsize
        bucket_bytes = bucket_size(exchange.bucket_bytes, message_bytes)
        # A sum of gradients as they come out of backward, that nothing else looks at.
        direct = type(self.gradient_sum) is ShardSum and self.sync_batch_norm is self.noise is self.scale is None

        def exchange_by(policy):
            if policy == "after":
                return ExchangeAfterBackward(arena, self.gradient_sum, self._finish_gradients, direct)
            kind = ThreadedExchange if policy == "thread" else BucketedExchange if arena.on_cpu else StreamedExchange
            return kind(arena, comm, self.shards, wire_of(exchange.wire), bucket_bytes, self._finish_gradients)

        if exchange.overlap != "auto":
            return Overlap(comm, {exchange.overlap: exchange_by(exchange.overlap)}, "as asked for")
        if why := without_trial(comm, self.all_at_once, message_bytes, bucket_bytes):
            return Overlap(comm, {"after": exchange_by("after")}, why)
        if not arena.on_cpu:  # where the clock of the host tells little
            policy, why = on_device(comm)
            return Overlap(comm, {policy: exchange_by(policy)}, why)
        return Overlap(comm, {name: exchange_by(name) for name in POLICIES[1:] if name != "thread" or comm.threads})

    def backward(self, batch, loss):
        """Compute the gradient of the mean loss over the global batch, and return that mean as a float.

        loss(*arrays) gets one shard's arrays and returns a tensor, the mean over the shard or one number a sample, or a
        `Weighted`. Every shard is computed by itself, so that each matrix product has the same shape on any number of
        ranks. The losses are summed over all shards and divided once by the sum of their weights: of the labels that
        count where `ag.cross_entropy` ignores some, of the classes' weights where it has such, and else of samples. So
        the mean is that over the whole batch, as one process without shards would compute it, however the labels that
        count are spread over the shards.

        Where nothing in the batch has any weight, the mean is nan and the gradient 0.
        """
        return self.enqueue(batch, loss).read().loss

    def enqueue(self, batch, loss, norm=False) -> Report:
        """`backward` that waits for no device: its numbers are those of the report, once that is read.

        A step of one's own may so be given to a device before the one before it is over there:

            report = parallel.enqueue(batch, loss)
            optimizer.step()
            print(earlier.read().loss)

        norm: whether the report has the norm of the gradient; on a device it has it anyway.
        """
        if batch.logical_shards != self.shards:
            raise ConfigurationError(
                f"the batch is cut into {counted(batch.logical_shards, 'logical shard')} and the model expects "
                f"{self.shards}: give both the same shards"
            )
        if [shard.index for shard in batch.shards] != self.own_shards:
            raise ConfigurationError(
                f"rank {self.comm.rank} got the shards {[shard.index for shard in batch.shards]} of the batch, but it "
                f"has to compute {self.own_shards}: give the same comm to DataLoader and DistributedDataParallel"
            )
        activity.step = batch.step
        self.suspect = None
        if self.gradients is not self.arena.grad:
            self._attach()
        self.statistics.begin()
        alone = self.shards == 1 and isinstance(self.gradient_sum, ShardSum)
        if self.local is not None:
            self.local.restore_own()
            if self.local.is_local(batch.step):
                if batch.origin not in self.compared:
                    self.compared.add(batch.origin)
                    compare_data(self.comm, batch.origin)
                self.local.count_samples(batch)
                alone = True
        report = self._alone(batch, loss) if alone else self._together(batch, loss)
        if norm and self.on_cpu:
            report.norm = optim.grad_norm(self)
        return report

    def _together(self, batch, loss):
        """The gradient of all shards, added up over all ranks."""
        began = time.perf_counter()
        arena, extras, exchange, key = self.arena, self.arena.extras, self.overlap.current(), self._key(batch)
        unit = batch.size if self.arena.dtype.itemsize == 2 else 1  # of weights, which half precision has to hold
        there = None if self.on_cpu else StepOnDevice(self, unit, key)
        for shard, mean, weight in self.shard_gradients.of_batch(batch, loss, exchange):
            if there is not None:
                there.note(len(shard), mean, weight)
            else:
                extras[KEY] = key  # the others are 0 so far
                if weight:
                    extras[LOSS], extras[WEIGHT] = mean * (weight / unit), weight / unit
                if weight != len(shard):
                    extras[UNUSUAL] = 1.0
                if self.stop_asked:
                    extras[STOP] = 1.0
            refuse_other_parameters(arena)
            arena.zero_missing_grads()
            exchange.complete()
            if there is not None:
                there.note_noise(batch.size, weight)
            else:
                if self.noise is not None and weight:
                    extras[WEIGHTY] = 1.0
                    self.noise.write_extras(extras[NOISE:], batch.size * batch.size / weight)
                if self.suspect is None and not math.isfinite(float(extras[LOSS]) + float(extras[NOISE])):
                    self.suspect = shard.index
            exchange.push()
            self.statistics.push(shard.index, len(shard) / batch.size)
        with self.timeline.span("exchange"):
            exchange.finish()
            self.statistics.finish()
        if there is not None:
            report = there.report(batch)
        else:
            heard = extras[: self.told].tolist()
            mean, share, shards = self._hear(heard, batch, unit, key)
            if self.stop_agreed:
                extras[STOP] = 0.0
            if share != 1.0 and not self.shard_gradients.mean_of_shard:
                arena.grad *= share
            if self.noise is not None:
                self.noise.square()
                self.noise.observe(heard[NOISE:], self.noise.squares, batch.size, self.weight, shards)
            report = Report(mean)
        self.overlap.record_time(time.perf_counter() - began)
        return report

    @property
    def told(self):
        """How many of the extras say anything."""
        return NOISE + (self.noise.extras if self.noise is not None else 0)

    def _hear(self, heard, batch, unit, key):
        """(mean loss, factor of the gradient, shards with any weight), from the extras' sums. Collective."""
        total, weight, unusual, shards, keys, asked = heard[:NOISE]
        self.stop_agreed = asked != 0.0
        if keys != key * self.shards:
            compare_batches(self.comm, batch)
        self.weight = weight * unit if unusual else batch.size
        if not self.weight:
            return math.nan, 1.0, int(shards)
        return total * unit / self.weight, batch.size / self.weight if unusual else 1.0, int(shards)

    def _key(self, batch):
        """A number that stands for the batch, small enough for its sum over all shards to be exact in any precision."""
        if self.comm.size == 1:
            return 0
        return zlib.crc32(f"{batch.step} {batch.size} {batch.seed} {batch.origin}".encode()) % self.keys

    def _alone(self, batch, loss):
        """The gradient of one shard, which is all there is or all that this step wants; its samples' mean loss."""
        (shard,) = batch.shards
        self.arena.zero_grad()
        mean, weight = self.shard_gradients.of_shard(batch, shard, loss, None) if len(shard) else (0.0, 0)
        refuse_other_parameters(self.arena)
        self.arena.zero_missing_grads()
        self._finish_gradients(slice(None))
        if not self.on_cpu:
            return StepOnDevice(self).report_alone(mean, weight)
        return Report(self._hear_alone(mean, weight))

    def _hear_alone(self, mean, weight):
        """The mean loss of one shard of this weight."""
        self.weight = weight
        if self.local is not None and not weight:  # of this rank, while others' samples may count
            return 0.0
        if not math.isfinite(mean):
            self.suspect = 0
        return mean

    def _finish_gradients(self, which):
        """Of a slice of the parameters, whose gradients are final: undo the loss scale, and square for the noise."""
        if self.scale is not None:
            for g in self.pieces[which]:
                g *= 1.0 / self.scale.value
        if self.noise is not None:
            self.noise.square(which)

    def undo(self):
        """After `backward`: a step is left out, and what it would leave behind is taken back."""
        self.statistics.undo()
        if isinstance(self.gradient_sum, Compression):
            self.gradient_sum.forget_not_finite()

    def not_finite(self) -> str | None:
        """The first parameter, in the arena's order, whose gradient is not finite, and the shard if known, in words.

        A collective, after `backward`. The shard is known if its loss is not finite, or a noise scale is kept.
        """
        return first_not_finite(self.comm, self.arena, self.suspect)

    def compare_parameters(self):
        """Raise OutOfStep on every rank if the ranks do not have the same parameters, bit for bit. A collective.

        Between the averages of local steps they are meant to differ, and nothing is compared. ConfigurationError if the
        model has got parameters since this was made.
        """
        refuse_new_parameters(self.comm, self.arena)
        if self.local is None:
            compare_parameters(self.comm, self.arena)

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
        return self.gradient_sum.state_dict() if isinstance(self.gradient_sum, Compression) else {}

    def load_state_dict(self, state, optimizer):
        """Restore what `state_dict` returned; the optimizer has its own state already."""
        try:
            if self.local is not None:
                self.local.load_state_dict(state, optimizer)
            elif isinstance(self.gradient_sum, Compression):
                self.gradient_sum.load_state_dict(state)
        except (KeyError, ValueError) as error:
            raise ConfigurationError(f"the checkpoint is that of another way to exchange gradients: {error}") from None


def _grouped(exchange, local_sgd, short_form):
    """The groups of options with what of their fields was given by itself."""
    given = dict(short_form)
    every = given.pop("sync_every", local_sgd and local_sgd.every)
    after = given.pop("sync_after", local_sgd.after if local_sgd else 0)
    for name in given.keys() - SHORT_FORM:
        like = difflib.get_close_matches(name, [*SHORT_FORM, "sync_every", "sync_after", "exchange", "local_sgd"], 1)
        meant = f", is {like[0]!r} meant?" if like else ""
        raise TypeError(f"DistributedDataParallel got an unexpected keyword argument {name!r}{meant}")
    check(sync_every=every, sync_after=after)
    exchange = replace(exchange, **{SHORT_FORM[name]: value for name, value in given.items()})
    return exchange, None if every is None else LocalSGD(every, after)
