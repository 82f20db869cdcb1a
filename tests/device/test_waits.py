"""Training on a device: from the third step on the host waits for nothing, and that changes nothing else."""

import json
import math
import signal

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, optim
from allgrad.ddp.trainer import StepRecord
from allgrad.ddp.trainer.callbacks import Callback
from tests.ddp.conftest import simulate
from tests.device import workloads
from tests.device.pretend import pretend
from tests.device.workloads import WORKLOADS, Workload, trainer_of

MLP, SHARDS = Workload("mlp:16", (20,)), Workload("mlp:16", (20,), shards=4)
SAME_ON_CPU = ["mlp sgd", "mlp adam", "mlp lamb", "mlp 4 shards", "mlp clipped", "lstm", "transformer"]  # bit for bit
TIMES = "samples_per_second", "wall_seconds", "device", "arrays", "fingerprint"


class Norm(float):
    """Equal to one that was added up in another order, as beside a noise scale on the processor."""

    def __eq__(self, other):
        return math.isclose(self, other, rel_tol=1e-6) or repr(self) == repr(other)

    def __hash__(self):
        raise TypeError("a norm that may differ is no key")

    def __repr__(self):
        return f"{float(self):.4g}"


class Records(Callback):
    """Keeps the records of all steps, as one of the trainer's own callbacks, which change nothing."""

    def __init__(self, trainer):
        self.name, self.seen = "records", []
        trainer.built_in.append(self)

    def on_step(self, trainer, step: StepRecord):
        self.seen.append(step._replace(seconds=0.0, grad_norm=Norm(step.grad_norm)))


def trained(workload, device, at_once=False, **options):
    """(records, weights and running statistics, trainer) of a run."""
    trainer = trainer_of(workload, device, **options)
    trainer.metrics = lambda x, y: {"zero": np.zeros(len(x))}  # of several ranks, each measures something
    if at_once:
        trainer.reads_late = False
    records = Records(trainer)
    trainer.fit()
    return records.seen, bits(trainer.model.state_dict()), trainer


def bits(arrays):
    return {name: np.asarray(a).tobytes() for name, a in arrays.items()}


def watched(trainer, device, first=2, stop=6):
    """Let the device count from step `first` on, and return what it has counted before step `stop`."""
    counted, enqueue = {}, trainer._enqueue_step

    def step():
        if trainer.step == first:
            device.reset()
        if trainer.step == stop:
            counted.update(waits=dict(device.waits), behind=sum(device.behind.values()))
        enqueue()

    trainer._enqueue_step = step
    return counted


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_step_waits(name):
    with pretend() as device:
        trainer = trainer_of(WORKLOADS[name], "cuda:0", steps=7)
        counted = watched(trainer, device)
        trainer.fit()
    assert trainer.reads_late
    assert counted == {"waits": {}, "behind": 4}  # reports, each read while the next step is under way


RULES = {
    "sgd": lambda p: optim.SGD(p, 0.1, 0.9, dampening=0.5),
    "sgd, l1": lambda p: optim.SGD(p, 0.1, 0.9, l1=0.01),
    "adagrad": lambda p: optim.Adagrad(p),
    "adadelta": lambda p: optim.Adadelta(p),
    "rmsprop": lambda p: optim.RMSprop(p, momentum=0.9),
    "amsgrad": lambda p: optim.Adam(p, 2.0**-10, amsgrad=True),
    "no decay": lambda p: optim.AdamW(p, 2.0**-10, groups=optim.no_decay(p)),
    "zero": lambda p: ddp.Zero(optim.AdamW(p, 2.0**-10, groups=optim.no_decay(p)), ddp.Communicator()),
    "schedule": lambda p: optim.Adam(p, lambda step: 2.0 ** -(4 + step)),
    "radam": lambda p: optim.RAdam(p, 0.01),
    "lion": lambda p: optim.Lion(p),
    "lars": lambda p: optim.LARS(p, 0.1, groups=optim.no_decay(p, adapt=False)),
    "lamb": lambda p: optim.LAMB(p, groups=optim.no_decay(p, adapt=False)),
    "muon": lambda p: optim.Muon(p),
    "schedule-free sgd": lambda p: optim.ScheduleFreeSGD(p, 0.1),
    "schedule-free adamw": lambda p: optim.ScheduleFreeAdamW(p),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_does_without_waiting_what_it_does_on_the_processor(rule):
    workload = MLP._replace(optimizer=RULES[rule], options={"clip": 1.0, "clip_value": 0.1})
    with pretend() as device:
        trainer = trainer_of(workload, "cuda:0", steps=7)
        records, counted = Records(trainer), watched(trainer, device)
        trainer.fit()
        weights = bits(trainer.model.state_dict())
    assert counted == {"waits": {}, "behind": 4}
    assert (records.seen, weights) == trained(workload, "cpu", steps=7)[:2]


@pytest.mark.parametrize("name", SAME_ON_CPU)
def test_losses_norms_and_weights_are_those_of_the_processor(name):
    with pretend():
        records, weights, _ = trained(WORKLOADS[name], "cuda:0")
    assert len(records) == 6 and (records, weights) == trained(WORKLOADS[name], "cpu")[:2]


@pytest.mark.parametrize("name", ["cnn 2 shards", "resnet bfloat16", "transformer bfloat16"])
def test_reading_late_changes_nothing(name):
    with pretend():
        late, once = (trained(WORKLOADS[name], "cuda:0", at_once, steps=4) for at_once in (False, True))
        assert late[:2] == once[:2]
        a, b = (t.parallel.noise for *_, t in (late, once))
        assert a is b is None or a.state_dict() == b.state_dict()


def test_what_a_run_leaves_is_the_same(tmp_path):
    """With evaluations, lines, checkpoints and comparisons at steps of their own, an EMA and a Plateau."""

    def leave(out, at_once):
        rate = ag.autograd.schedule.Plateau(0.125, patience=0)
        workload = SHARDS._replace(optimizer=lambda p: optim.SGD(p, rate, momentum=0.9))
        trainer = trainer_of(
            workload, "cuda:0", steps=11, out=out, log_every=2, eval_every=3, checkpoint_every=7,
            validation=workloads.arrays(SHARDS, 24, seed=1),
        )  # fmt: skip
        trainer.ema = optim.EMA(trainer.model, decay=0.5)
        trainer.metrics = lambda x, y: {"loss": ag.cross_entropy(trainer.model(x), y, "none")}
        if at_once:
            trainer.reads_late = False
        trainer.fit()
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads((out / "summary.json").read_text())
        files = {
            path.relative_to(out): path.read_bytes() for path in sorted((out / "checkpoints").rglob("*.safetensors"))
        }
        states = [json.loads(p.read_text()) for p in sorted((out / "checkpoints").rglob("state.json"))]
        for one in (*lines, summary, *states):
            for name in TIMES:
                one.pop(name, None)
        return lines, summary, files, states

    with pretend():
        late, once = leave(tmp_path / "late", False), leave(tmp_path / "once", True)
    assert late == once
    assert [line["step"] for line in late[0]] == [2, 3, 4, 6, 8, 9, 10, 11] and late[2]


def poisoned(workload, device, step, at_once=False, on_rank=0, **options):
    """What a run with an infinite sample in one step leaves: (message, steps, weights, state of the optimizer, EMA)."""
    x, y = workloads.arrays(workload, 64)
    with_nothing = trainer_of(workload, "numpy", data=(x, y))
    x[with_nothing.loader.sampler.indices(step)[-1]] = np.inf
    trainer = trainer_of(workload, device, steps=12, data=(x, y), **options)
    if at_once:
        trainer.reads_late = False
    trainer.ema = None if "schedule" in str(type(trainer.optimizer)) else optim.EMA(trainer.model, decay=0.5)
    with pytest.raises(ddp.Diverged) as raised:
        trainer.fit()
    assert trainer.parallel.halt is None
    state = trainer.optimizer.state_dict()
    arrays = {f"{kind} {name}": a for kind, some in state.items() if isinstance(some, dict) for name, a in some.items()}
    numbers = {kind: some for kind, some in state.items() if not isinstance(some, dict)}
    mean = None if trainer.ema is None else (trainer.ema.updates, bits(trainer.ema.state_dict()["mean"]))
    message = str(raised.value).replace("on rank 0", f"on rank {on_rank}") if on_rank else str(raised.value)
    return message, trainer.step, bits(trainer.model.state_dict()), bits(arrays), numbers, mean


@pytest.mark.parametrize("step", [0, 2, 3])
@pytest.mark.parametrize("name", ["mlp sgd", "mlp lamb", "mlp 4 shards", "mlp clipped"])
def test_a_step_that_is_not_finite_changes_nothing(name, step):
    """Though the host hears of it when the next one is under way."""
    with pretend():
        found = poisoned(WORKLOADS[name], "cuda:0", step)
    assert found == poisoned(WORKLOADS[name], "cpu", step)
    assert found[1] == step and f"at step {step} " in found[0] and "first in the gradient of '0.weight'" in found[0]
    assert ("from shard 3 on rank 0" in found[0]) == (name == "mlp 4 shards")


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_changes_anything_then(rule):
    workload = MLP._replace(optimizer=RULES[rule])
    with pretend():
        assert poisoned(workload, "cuda:0", 3) == poisoned(workload, "cpu", 3)


@pytest.mark.parametrize("name", ["cnn 2 shards", "resnet lamb"])
def test_nor_do_running_statistics(name):
    with pretend():
        late, once = (poisoned(WORKLOADS[name], "cuda:0", 2, at_once) for at_once in (False, True))
    assert late == once and any("running_mean" in key for key in late[2])


def test_the_shard_is_told_though_gradients_were_clipped_by_a_norm_that_is_none():
    workload = SHARDS._replace(options={"clip": 0.1})
    with pretend():
        found = poisoned(workload, "cuda:0", 3)
    assert found == poisoned(workload, "cpu", 3) and "from shard 3 on rank 0" in found[0]


@pytest.mark.parametrize("compress", [None, "topk:0.1", "powersgd:1"])
def test_a_step_that_is_computed_again_is_counted_once(compress):
    """Of a loss that is not finite while its gradient is, the noise scale, and residuals of compression."""

    def train(device):
        x, y = workloads.arrays(SHARDS, 64)
        model = workloads.model_of(SHARDS)
        model.to(device=device)
        noise = ddp.NoiseScale(layers=True) if compress is None else None
        parallel = ddp.DistributedDataParallel(model, shards=4, noise=noise, compress=compress)
        loader = ddp.DataLoader((x, y), 16, shards=4, place=ddp.Placement(device))
        loss = lambda x, y: ag.cross_entropy(model(x), y) + (np.inf if trainer.step >= 3 else 0.0)
        optimizer = optim.SGD(parallel, 0.05)
        trainer = ddp.Trainer(parallel, optimizer, loader, loss, lambda x, y: {}, steps=9, log_every=0, eval_every=0)
        with pytest.raises(ddp.Diverged, match="the loss is inf") as raised:
            trainer.fit()
        kept = {name: bits(some) for name, some in parallel.state_dict(optimizer).items()}
        return str(raised.value), kept, noise and noise.recent.state_dict()["blocks"]

    with pretend():
        message, kept, blocks = train("cuda:0")
    expected = train("cpu")
    assert (message, kept) == expected[:2] and (kept == {}) is (compress is None)
    assert blocks is expected[2] is None or np.shape(blocks) == np.shape(expected[2]) == (4, 3)


def test_a_batch_of_which_nothing_counts_is_told():
    workload = MLP._replace(shards=2)

    def train(device):
        x, y = workloads.arrays(workload, 64)
        y[trainer_of(workload, "numpy").loader.sampler.indices(2)] = -100
        trainer = trainer_of(workload, device, data=(x, y))
        with pytest.raises(ddp.Diverged, match="nothing in the batch of step 2 counts") as raised:
            trainer.fit()
        return str(raised.value), bits(trainer.model.state_dict())

    with pretend():
        assert train("cuda:0") == train("cpu")


class Looks(ddp.Callback):
    def on_step(self, trainer, step):
        self.last = step.loss


class LooksAtEvaluations(ddp.Callback):
    def on_evaluation(self, trainer, values):
        pass


@pytest.mark.parametrize(
    "options, late",
    [
        ({}, True), ({"on_nonfinite": "skip"}, False), ({"callbacks": [Looks()]}, False),
        ({"callbacks": [LooksAtEvaluations()]}, True), ({"clip": 1.0}, True),
        ({"batches": ddp.scaling.FollowNoise(1.0, 16, 64)}, False),
    ],
    ids=["plain", "skip", "on_step", "on_evaluation", "clip", "batches"],
)  # fmt: skip
def test_reports_are_read_late_where_nothing_needs_them_at_once(options, late):
    with pretend():
        records, weights, trainer = trained(SHARDS, "cuda:0", **options)
        assert trainer.reads_late == late
    assert not trainer_of(SHARDS, "cpu", **options).reads_late
    cpu, cpu_weights, _ = trained(SHARDS, "cpu", **options)
    assert records == cpu and ("clip" in options or weights == cpu_weights)  # the factor's last bit is the norm's


def test_a_skipped_step_changes_nothing_and_training_goes_on():
    x, y = workloads.arrays(SHARDS, 64)
    x[trainer_of(SHARDS, "numpy").loader.sampler.indices(2)[0]] = np.inf
    options = {"on_nonfinite": "skip", "data": (x, y), "steps": 9}
    with pretend():
        records, weights, trainer = trained(SHARDS, "cuda:0", **options)
    assert trainer.skips.count == 2 and [r.finite for r in records].count(False) == 2
    cpu, cpu_weights, _ = trained(SHARDS, "cpu", **options)
    assert (repr(records), weights) == (repr(cpu), cpu_weights)


def test_a_signal_ends_training_after_the_step_under_way():
    with pretend():
        trainer = trainer_of(MLP, "cuda:0", steps=20, signals=ddp.StopOnSignal())
        records, loss = Records(trainer), trainer.loss

        def asked(x, y):
            if trainer.step == 5:
                signal.raise_signal(signal.SIGTERM)
            return loss(x, y)

        trainer.loss = asked
        with pytest.raises(ddp.Stopped):
            trainer.fit()
        weights = bits(trainer.model.state_dict())
    assert (records.seen, weights) == trained(MLP, "cpu", steps=6)[:2] and trainer.step == 6


@pytest.mark.parametrize("name, ignored", [("mlp 4 shards", False), ("mlp 4 shards", True), ("cnn 2 shards", False)])
def test_ranks_make_the_same_of_it(name, ignored):
    """Also of labels that do not count, and are not spread evenly."""
    workload = WORKLOADS[name]
    x, y = workloads.arrays(workload, 64)
    y[:40:3] = -100 if ignored else y[:40:3]
    run = lambda comm: trained(workload, "cuda:0", data=(x, y), comm=comm)[:2]
    with pretend():
        alone, together = run(None), simulate(2, run)
    assert together == [alone] * 2
    if name != "cnn 2 shards":
        assert alone == trained(workload, "cpu", data=(x, y))[:2]


@pytest.mark.parametrize("step", [0, 3])
def test_all_ranks_raise_at_the_same_step(step):
    with pretend():
        found = simulate(2, lambda comm: poisoned(SHARDS, "cuda:0", step, comm=comm))
    assert found[0] == found[1] == poisoned(SHARDS, "cpu", step, on_rank=1)


def test_a_signal_of_one_rank_ends_all_after_the_same_step():
    def run(comm):
        trainer = trainer_of(SHARDS, "cuda:0", steps=20, comm=comm, signals=ddp.StopOnSignal())
        records, loss = Records(trainer), trainer.loss

        def asked(x, y):
            if trainer.step == 5 and comm.rank == 1:
                trainer.signals.heard, trainer.parallel.stop_asked = int(signal.SIGTERM), True
            return loss(x, y)

        trainer.loss = asked
        with pytest.raises(ddp.Stopped):
            trainer.fit()
        return records.seen, bits(trainer.model.state_dict()), trainer.step

    with pretend():
        (first, weights, steps), other = simulate(2, run)
    assert other == (first, weights, steps) and steps == 7  # the one after is under way when the ranks hear of it
    assert (first, weights) == trained(SHARDS, "cpu", steps=7)[:2]


def test_local_steps_wait_once_each():
    def run(comm, device="cuda:0"):
        trainer = trainer_of(SHARDS._replace(shards=2), device, steps=4, comm=comm, local_sgd=ddp.LocalSGD(2))
        assert not trainer.reads_late
        trainer.metrics = lambda x, y: {"zero": np.zeros(len(x))}
        trainer.fit()
        return bits(trainer.model.state_dict())

    with pretend():
        found = simulate(2, run)
    assert found == simulate(2, lambda comm: run(comm, "cpu"))


def test_float16_waits_once_a_step():
    def train(device):
        trainer = trainer_of(MLP, device, steps=8)
        trainer.parallel.scale = trainer.parallel.shard_gradients.scale = ddp.LossScale(2.0**20)
        return trainer

    with pretend() as device:
        trainer = train("cuda:0")
        assert not trainer.reads_late
        trainer._one_step(), device.reset(), trainer._one_step()
        assert sum(device.waits.values()) == 1 and sum(device.behind.values()) == 0


def test_backward_is_a_report_that_is_read():
    with pretend():
        trainer = trainer_of(SHARDS, "cuda:0")
        batch = trainer.loader.batch(0)
        loss, weight = trainer.parallel.backward(batch, trainer.loss), trainer.parallel.weight
        report = trainer.parallel.enqueue(batch, trainer.loss)
        assert np.isnan(report.loss) and np.isnan(report.norm)
        assert report.read() is report and (report.loss, trainer.parallel.weight) == (loss, weight) == (loss, 16)
        assert report.norm == pytest.approx(optim.grad_norm(trainer.parallel)) and not report.halted
