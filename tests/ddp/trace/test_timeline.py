"""Timelines: what is in the file, for any number of ranks and clocks that differ."""

import json
import time

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import (
    Communicator,
    ConfigurationError,
    DataLoader,
    DistributedDataParallel,
    Placement,
    Timeline,
    Trainer,
    Zero,
)
from allgrad.ddp.trace import PARTS
from tests.device import streams
from tests.device.pretend import pretend

X = generator("timeline").standard_normal((40, 12)).astype("f4")
LABELS = np.arange(40) % 3


def trainer_of(comm, timeline, out=None, rule=optim.SGD, steps=9, shards=None, device="numpy", **options):
    ag.manual_seed(1)
    layers = [nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)]
    if options.get("batch_norm") == "sync":
        layers.insert(1, nn.BatchNorm1d(16))
    model = nn.Sequential(*layers).to(device=device)
    parallel = DistributedDataParallel(model, comm, shards, **options, timeline=timeline)

    def metrics(x, y):
        return {"loss": ag.cross_entropy(model(x), y, "none")}

    return Trainer(
        parallel, rule(parallel, 0.1), DataLoader((X, LABELS), 12, comm, shards, place=Placement(device)),
        lambda x, y: ag.cross_entropy(model(x), y), metrics, validation=(X[:5], LABELS[:5]), steps=steps, out=out,
        checkpoint_every=5, eval_every=4,
    )  # fmt: skip


def read(path):
    """{(pid, category): [event]} of a trace, once it is certain that it is one."""
    whole = json.loads(path.read_text())
    found, open_spans, ends = {}, {}, {}
    for row in whole["traceEvents"]:
        assert row.keys() >= {"name", "ph", "pid", "tid"} and row["ph"] in "MXbe"
        if row["ph"] == "X":
            assert row["dur"] >= 0.0 <= row["ts"]
        elif row["ph"] in "be":
            open_spans.setdefault((row["pid"], row["cat"], row["id"]), []).append(row["ph"])
        if row["ph"] in "Xb":
            found.setdefault((row["pid"], row["cat"]), []).append(row)
    assert all(phases == ["b", "e"] for phases in open_spans.values())
    spans = [row for row in whole["traceEvents"] if row["ph"] == "X"]
    for row in sorted(spans, key=lambda row: (row["ts"], -row["dur"])):  # a thread's spans lie inside each other
        around = ends.setdefault((row["pid"], row["tid"]), [])
        while around and around[-1] <= row["ts"] + 1e-6:
            around.pop()
        assert not around or row["ts"] + row["dur"] <= around[-1] + 1e-6, row
        around.append(row["ts"] + row["dur"])
    return found, whole["otherData"]


# --- the file ----------------------------------------------------------------------------------------------------

WAYS = [
    (1, {"shards": 2, "overlap": "thread", "bucket": 1}), (1, {"shards": 1}), (2, {"shards": 3, "overlap": "after"}),
    (2, {"shards": 4, "overlap": "bucket", "bucket": 1}), (2, {"sync_every": 2}), (2, {"compress": "topk:0.5"}),
    (3, {"shards": 5, "batch_norm": "sync"}), (2, {"rule": lambda p, lr: Zero(optim.Adam(p, lr), p.comm)}),
    (2, {"reduce": "native"}),
]  # fmt: skip


@pytest.mark.parametrize("ranks, options", WAYS, ids=lambda value: "-".join(value) if isinstance(value, dict) else None)
def test_the_trace_of_a_run_is_valid_and_changes_no_bits(ranks, options, simulate, tmp_path):
    def run(comm, timeline):
        trainer = trainer_of(comm, timeline, tmp_path / "out" if timeline else None, **options)
        summary = trainer.fit()
        assert all(leaf.hook is None for leaf in trainer.parallel.arena.leaves)
        assert not {"exchange", "start", "all_reduce", "broadcast", "_checked_all_gather"} & vars(comm).keys()
        assert not any({"_sum", "finish"} & vars(way).keys() for way in trainer.parallel.overlap.exchanges.values())
        return summary["weights_sha256"], summary.get("timeline")

    plain = simulate(ranks, lambda comm: run(comm, None))
    traced = simulate(ranks, lambda comm: run(comm, Timeline(tmp_path / "trace", (3, 7))))
    assert [sha for sha, _ in traced] == [sha for sha, _ in plain] and plain[0][1] is None
    told = traced[0][1]
    assert [told] * ranks == [numbers for _, numbers in traced]
    found, other = read(tmp_path / "trace")
    assert other["steps"] == [3, 7] == told["steps"]
    for rank in range(ranks):
        steps = found[rank, "step"]
        assert [row["args"]["step"] for row in steps] == [3, 4, 5, 6]
        for kind in ("data", "forward", "backward", "optimizer"):
            inside = [
                any(s["ts"] <= r["ts"] and r["ts"] + r["dur"] <= s["ts"] + s["dur"] + 1e-6 for s in steps)
                for r in found[rank, kind]
            ]
            assert all(inside) and len(inside) >= 4, kind
        assert len(found[rank, "evaluation"]) == 1 and len(found[rank, "checkpoint"]) == (2 if rank == 0 else 1)
        if ranks > 1:
            assert any("waited_us" in row["args"] for row in found[rank, "exchange"])
        if "bucket" in options:
            assert len(found[rank, "bucket"]) == 5 * 4  # four parameters, and what rides behind them
        if "batch_norm" not in options:
            first = [row for row in found[rank, "layer"] if row["name"] == "2"]
            assert first and all(row["args"].keys() == {"2.weight", "2.bias"} for row in first)
    for rank in told["seconds_by_rank"]:
        assert rank["step"] > 0.0 and all(rank[part] >= 0.0 for part in PARTS)


def test_a_loop_of_ones_own_records_and_is_left_alone_after(tmp_path):
    model = nn.Linear(12, 3)
    timeline, seen = Timeline(tmp_path / "trace.json"), []
    parallel = DistributedDataParallel(model, shards=2, timeline=timeline)
    parallel.arena.leaves[0].hook = seen.append
    optimizer = optim.SGD(parallel, 0.1)
    for batch in DataLoader((X, LABELS), 8, shards=2).steps(0, 30):
        with timeline.step(batch.step):
            parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
            with timeline.span("optimizer"):
                optimizer.step()
    told = timeline.finish()
    assert told["steps"] == [2, 22] and len(seen) == 60 and parallel.arena.leaves[0].hook == seen.append
    assert len(read(tmp_path / "trace.json")[0][0, "optimizer"]) == 20
    assert timeline.finish() is None  # nothing new


def test_without_a_file_nothing_is_recorded():
    trainer = trainer_of(Communicator(), None)
    assert "timeline" not in trainer.fit() and not trainer.timeline.events and not trainer.timeline.final


@pytest.mark.parametrize("steps, total, window", [(None, 100, [2, 22]), (None, 9, [0, 9]), ((5, 99), 8, [5, 8])])
def test_the_steps_that_are_recorded(steps, total, window, tmp_path):
    assert trainer_of(Communicator(), Timeline(tmp_path / "t", steps), steps=total).fit()["timeline"]["steps"] == window


def test_what_cannot_be_traced_is_refused(tmp_path, simulate):
    with pytest.raises(ConfigurationError, match=r"path='.*' cannot be written \(it is a directory\): give another"):
        simulate(2, lambda comm: trainer_of(comm, Timeline(tmp_path)))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"path='.*file/x' cannot be written"):
        simulate(2, lambda comm: trainer_of(comm, Timeline(tmp_path / "file" / "x")))
    with pytest.raises(ConfigurationError, match="begin at step 9, and the run ends with step 8"):
        trainer_of(Communicator(), Timeline(tmp_path / "x", (9, 12)))
    with pytest.raises(ConfigurationError, match=r"0 <= first < stop, got \(3, 3\)"):
        Timeline(tmp_path / "x", (3, 3))
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_a_file_that_cannot_be_written_in_the_end_is_reported(tmp_path):
    timeline = Timeline(tmp_path / "new" / "trace.json", (0, 3))
    trainer = trainer_of(Communicator(), timeline)
    (tmp_path / "new").rmdir()
    told = trainer.fit()["timeline"]
    assert "the trace is lost" in told["verdict"][-1] and told["seconds"]["step"] > 0.0


def test_on_a_device_spans_have_the_times_of_the_device(tmp_path, monkeypatch):
    """This one does everything an hour later than it is told to."""
    hour = 3600e3
    elapsed = streams.Event.elapsed_time
    monkeypatch.setattr(streams.Event, "elapsed_time", lambda a, b: elapsed(a, b) + hour)
    with pretend() as device:
        timeline = Timeline(tmp_path / "trace", (2, 5))
        trainer = trainer_of(Communicator(), timeline, tmp_path / "out", shards=2, device="cuda", steps=6)
        untraced = trainer_of(Communicator(), None, shards=2, device="cuda", steps=6).fit()["weights_sha256"]
        waits = []
        step = trainer._take_step

        def counted():
            before = sum(n for (what, _), n in device.waits.items() if what == "torch.cuda.synchronize")
            try:
                return step()
            finally:
                after = sum(n for (what, _), n in device.waits.items() if what == "torch.cuda.synchronize")
                waits.append(after - before)

        trainer._take_step = counted
        assert trainer.fit()["weights_sha256"] == untraced
    assert waits == [0, 0, 2, 0, 0, 1], "the device is waited for when recording begins and ends"
    found, _ = read(tmp_path / "trace")
    steps = found[0, "step"]
    assert [row["args"]["step"] for row in steps] == [2, 3, 4] and len(found[0, "forward"]) == 6
    (written,) = [row for row in found[0, "checkpoint"] if row["name"] == "write"]
    assert written["ts"] < steps[-1]["ts"] - 0.9 * 1e3 * hour, "what a disk does is on the host's clock"
    assert {row["name"] for row in found[0, "layer"]} == {"0", "2"}


# --- clocks ------------------------------------------------------------------------------------------------------


def test_clocks_that_differ_and_drift_are_brought_together(simulate, tmp_path):
    def run(comm):
        timeline = Timeline(tmp_path / "trace.json", (2, 6))
        timeline.clock = lambda: time.perf_counter() * (1.0 + 0.1 * comm.rank) + 500.0 * comm.rank
        return trainer_of(comm, timeline, shards=2).fit()["timeline"]

    simulate(2, run)
    found, other = read(tmp_path / "trace.json")
    meetings = [[row for row in found[rank, "exchange"] if row["name"] == "exchange"] for rank in (0, 1)]
    for one, two in zip(*meetings, strict=True):  # each begins before the other has ended
        doubt = 1.0 + sum(clock["uncertainty_us"] for clock in other["clocks"]["rank 1"])
        assert max(one["ts"], two["ts"]) <= min(one["ts"] + one["dur"], two["ts"] + two["dur"]) + doubt
    first, last = (clock["measured_us"] for clock in other["clocks"]["rank 1"])
    assert last < first < -500e6  # and the difference grows
