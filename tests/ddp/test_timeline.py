"""Timelines: what is in the file, clocks that differ, and what is said about a step made by hand."""

import json
import time

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import Communicator, ConfigurationError, DataLoader, DistributedDataParallel, Timeline, Trainer, Zero
from allgrad.ddp.trace import PARTS, Event, aligned, length, minus, parts, settled, suggestion, union, verdict, waits

X = generator("timeline").standard_normal((40, 12)).astype("f4")
LABELS = np.arange(40) % 3


def trainer_of(comm, timeline, out=None, rule=optim.SGD, steps=9, shards=None, **options):
    ag.manual_seed(1)
    layers = [nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)]
    if options.get("batch_norm") == "sync":
        layers.insert(1, nn.BatchNorm1d(16))
    model = nn.Sequential(*layers)
    parallel = DistributedDataParallel(model, comm, shards, **options, timeline=timeline)

    def metrics(x, y):
        return {"loss": ag.cross_entropy(model(x), y, "none")}

    return Trainer(
        parallel, rule(parallel, 0.1), DataLoader((X, LABELS), 12, comm, shards),
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


def test_events_are_moved_by_a_line_through_both_measurements():
    events = [Event("step", "step", "main", 10.0, 15.0), Event("step", "step", "main", 20.0, 30.0)]
    moved = aligned(events, [(10.0, 1.0, 0.0), (20.0, 2.0, 0.0)])
    assert [(e.begin, e.end) for e in moved] == [(11.0, 16.5), (22.0, 33.0)]


@pytest.mark.parametrize("one_host, add, used", [(True, 2e-6, False), (True, 9e-6, True), (False, 2e-6, True)])
def test_the_clock_of_one_host_is_not_corrected_by_what_may_be_noise(one_host, add, used):
    found = settled([(1.0, add, 5e-6), (2.0, -add, 5e-6)], one_host)
    assert [pair[1] for pair in found] == ([add, -add] if used else [0.0, 0.0])


# --- by hand -----------------------------------------------------------------------------------------------------


def test_intervals():
    assert union([(3, 5), (1, 2), (4, 7), (2, 2.5), (9, 9)]) == [(1, 2.5), (3, 7)]
    assert minus([(0, 4), (5, 9)], [(1, 2), (3, 6), (8, 10)]) == [(0, 1), (2, 3), (6, 8)]
    assert minus([(1, 2)], []) == [(1, 2)] and minus([], [(1, 2)]) == [] and length([(1, 2.5), (3, 7)]) == 5.5


def of(kind, begin, end, thread="main", **args):
    return Event(kind, kind, thread, begin, end, args)


def test_what_is_hidden_and_what_is_exposed():
    step = of("step", 0.0, 100.0, step=7)
    events = [
        step, of("data", 0, 5), of("forward", 6, 26), of("backward", 26, 66), of("exchange", 40, 42),  # a launch
        of("bucket", 40, 60, "exchange"), of("bucket", 58, 80, "exchange"), of("exchange", 70, 80),
        of("exchange", 72, 78), of("exchange", 45, 50, "exchange"), of("optimizer", 82, 90), of("exchange", 85, 88),
    ]  # fmt: skip
    found, waiting = parts(sorted(events, key=lambda e: (e.begin, -e.end)), step)
    assert found == {
        "step": 100.0, "exposed": 2.0 + 10.0 + 3.0, "data": 5.0, "forward": 20.0, "backward": 38.0, "optimizer": 5.0,
        "other": 1.0 + 4.0 + 2.0 + 10.0, "hidden": 40.0 - 2.0 - 10.0, "waiting": 0.0, "moving": 15.0,
    }  # fmt: skip
    assert sum(found[part] for part in PARTS) == found["step"] and waiting == {}


def ranks_of(forward, exchange_from=None, last=0.030, steps=3):
    """Ranks whose forward takes so long, and who then swap with their neighbours until the last has come."""
    ranks = []
    for rank, seconds in enumerate(forward):
        events = []
        for number in range(steps):
            t = number * 0.040
            other = [rank ^ 1]
            events += [
                of("step", t, t + last + 0.002, step=number), of("data", t, t + 0.001),
                of("forward", t + 0.001, t + 0.001 + seconds),
                of("exchange", t + 0.001 + seconds, t + last, sends=other, receives=other, tag=0),
            ]  # fmt: skip
        ranks.append(events)
    return ranks


def test_a_straggler_is_named_with_what_takes_it_so_long():
    ranks = ranks_of([0.028, 0.020])
    waits(ranks)
    told = verdict(ranks, slack=3e-6, overlap="bucket")
    assert told["waits"] == [{"rank": 1, "for": 0, "seconds": pytest.approx(0.008)}]
    assert told["verdict"][0] == "traced steps 0 to 2 of 2 ranks, whose clocks agree within 3 us"
    assert told["verdict"][2:] == ["rank 1 waits 8 ms a step for rank 0, whose forward takes 1.4 times as long"]
    parts = "data wait 1 ms, forward 24 ms, backward 0 ms"
    assert told["verdict"][1].startswith(f"a step takes 32 ms, on average over the ranks: {parts}")
    assert told["seconds_by_rank"][1]["waiting"] == pytest.approx(0.008) and told["suggestion"] is None


def test_equal_ranks_wait_for_nobody_and_within_the_doubt_of_the_clocks_nobody_is_blamed():
    for forward, slack in [([0.020, 0.020], 0.0), ([0.028, 0.020], 0.010)]:
        ranks = ranks_of(forward)
        waits(ranks)
        assert verdict(ranks, slack)["waits"] == []


def test_who_is_late_only_because_of_another_passes_it_on():
    """Halving and doubling: in the second exchange rank 0 waits for 2, which waits for 3 in the first."""
    ranks = []
    for rank, ready in enumerate([1.0, 1.0, 1.0, 9.0]):
        first = max(ready, 9.0 if rank == 2 else 1.0)
        events = [of("step", 0.0, 11.0, step=0), of("forward", 0.0, ready)]
        for begin, end, other in [(ready, first, rank ^ 1), (first, 9.5, rank ^ 2)]:
            events.append(of("exchange", begin, end, sends=[other], receives=[other], tag=0))
        ranks.append(events)
    waits(ranks)
    told = verdict(ranks)
    assert {(w["rank"], w["for"]): w["seconds"] for w in told["waits"]} == {(r, 3): 8.0 for r in (0, 1, 2)}
    line = "ranks 0, 1 and 2 wait 8e+03 ms a step for rank 3, whose forward takes 9.0 times as long"
    assert told["verdict"][2] == line


def test_the_wait_for_messages_of_a_bucket_is_that_for_who_started_it_last():
    def rank(start, wait):
        message = {"sends": [1 - start], "receives": [1 - start], "tag": 5, "call": 3}
        message |= {"sends": [int(start == 2.0)], "receives": [int(start == 2.0)]}
        return [of("exchange", start, start, **message), of("exchange", wait, 9.0, started=3)]

    ranks = [rank(2.0, 3.0), rank(7.0, 7.5)]
    waits(ranks)
    assert [events[1].args["waited"] for events in ranks] == [4.0, 0.0] and ranks[0][1].args["late"] == 1


@pytest.mark.parametrize(
    "exposed, waiting, backward, overlap, said",
    [(0.4, 0.1, 0.3, "bucket", "exchanging takes 30% of a step beyond waiting: try the overlap 'bucket'"),
     (0.4, 0.1, 0.3, "", "exchanging takes 30% of a step beyond waiting: a larger global batch exchanges less often"),
     (0.8, 0.0, 0.1, "thread", "exchanging takes 80% of a step beyond waiting: a larger global batch exchanges less"
      " often"), (0.4, 0.3, 0.3, "bucket", None), (0.4, 0.1, 0.3, None, None)],
)  # fmt: skip
def test_what_is_worth_a_try(exposed, waiting, backward, overlap, said):
    whole = {"step": 1.0, "moving": exposed - waiting, "backward": backward}
    assert suggestion(whole, overlap) == said
