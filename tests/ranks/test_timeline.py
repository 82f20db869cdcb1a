"""A timeline of the ranks of this launch, by every way to exchange."""

import json

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import Communicator, DataLoader, DistributedDataParallel, Timeline

X = generator("timeline").standard_normal((40, 36)).astype("f4")
LABELS = np.arange(40) % 3


def train(comm, timeline, shards, **options):
    ag.manual_seed(1)
    model = nn.Sequential(nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, 3))
    parallel = DistributedDataParallel(model, comm, shards, **options, timeline=timeline)
    optimizer = optim.SGD(parallel, 0.1)

    for batch in DataLoader((X, LABELS), 20, comm, shards).steps(0, 6):
        with timeline.step(batch.step):
            parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
            optimizer.step()
            parallel.step(batch.step)
    return parallel.arena.sha256(), timeline.finish()


@pytest.mark.parametrize(
    "options", [{"overlap": "after"}, {"overlap": "bucket", "bucket": 1}, {"overlap": "thread", "bucket": 1}]
)
def test_it_has_all_ranks_their_waits_and_their_buckets(options, comm, directory):
    shards = max(2, comm.size)  # of one shard nothing is added up
    found, told = train(comm, Timeline(directory / "t.json", (1, 6)), shards, **options)
    expected, _ = train(Communicator(), Timeline(), shards, overlap="after")
    assert {*comm.all_gather_object(found)} == {expected} and [told] * comm.size == comm.all_gather_object(told)
    rows = json.loads((directory / "t.json").read_text())["traceEvents"]
    assert {row["pid"] for row in rows} == {*range(comm.size)}
    for rank in range(comm.size):
        mine = [row for row in rows if row["pid"] == rank and row["ph"] != "M"]
        talks = [row for row in mine if row["name"] in ("send and receive", "wait", "all ranks")]
        assert all(row["args"]["late"] != rank and row["args"]["waited_us"] <= row["dur"] + 0.01 for row in talks)
        sent = [row for row in mine if row["name"] in ("send and receive", "start", "all ranks")]
        assert len(sent) >= 5 or comm.size == 1  # what has arrived already needs no wait
        buckets = [row["name"] for row in mine if row["cat"] == "bucket" and row["ph"] in "Xb"]
        names = [f"bucket {number}" for number in range(5)] if "bucket" in options else []
        assert sorted(buckets) == sorted(5 * names)
        parts = told["seconds_by_rank"][rank]
        assert 0.0 <= parts["waiting"] <= parts["exposed"] <= parts["step"]


def test_local_steps_are_recorded_too(comm, directory):
    _, told = train(comm, Timeline(directory / "t.json", (0, 6)), comm.size, sync_every=3)
    assert told["steps"] == [0, 6]
