"""The trace event format: a process a rank, times in microseconds from the first event on."""

from allgrad.ddp.trace import Event
from allgrad.ddp.trace.chrome import chrome


def test_events_become_rows_of_the_format():
    step = Event("step", "step 3", "main", 10.0, 10.5, {"number": 3})
    wait = Event(
        "exchange", "exchange", "main", 10.1, 10.2, {"waited": 0.0125, "call": 1, "started": 2, "together": True}
    )
    flight = Event("bucket", "bucket 1", "exchange", 10.25, 10.3, {"flight": True})
    rows = chrome([[step, wait], [flight]], ["a", "b"])
    names = [
        (row["pid"], row["tid"], row["name"], row["args"]["name"]) for row in rows if row["name"].endswith("_name")
    ]
    assert names == [
        (0, 0, "process_name", "rank 0 (a)"), (0, 0, "thread_name", "main"),
        (1, 0, "process_name", "rank 1 (b)"), (1, 0, "thread_name", "main"), (1, 1, "thread_name", "exchange"),
    ]  # fmt: skip
    assert [row["args"]["sort_index"] for row in rows if row["name"] == "process_sort_index"] == [0, 1]
    assert [row for row in rows if row["ph"] != "M"] == [
        {"ph": "X", "name": "step 3", "cat": "step", "pid": 0, "tid": 0, "ts": 0.0, "dur": 5e5, "args": {"number": 3}},
        {"ph": "X", "name": "exchange", "cat": "exchange", "pid": 0, "tid": 0, "ts": 1e5, "dur": 1e5,
         "args": {"waited_us": 12500.0}},
        {"ph": "b", "name": "bucket 1", "cat": "bucket", "pid": 1, "tid": 1, "id": "1.0", "ts": 2.5e5, "args": {}},
        {"ph": "e", "name": "bucket 1", "cat": "bucket", "pid": 1, "tid": 1, "id": "1.0", "ts": 3e5},
    ]  # fmt: skip
