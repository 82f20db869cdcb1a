"""The trace event format, as chrome://tracing and Perfetto read it ("Trace Event Format", Google, 2016)."""


def chrome(ranks, hosts) -> list[dict]:
    """The events of all ranks, as `waits` has left them, in the trace format: a process a rank, times in us."""
    zero, rows = min(event.begin for events in ranks for event in events), []
    for pid, events in enumerate(ranks):
        threads = {"main": 0}
        for event in events:
            threads.setdefault(event.thread, len(threads))
        names = [("process_name", 0, f"rank {pid} ({hosts[pid]})")]
        names += [("thread_name", tid, name) for name, tid in threads.items()]
        rows += [{"ph": "M", "name": what, "pid": pid, "tid": t, "args": {"name": n}} for what, t, n in names]
        rows.append({"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}})
        for number, event in enumerate(events):
            begin, end = (round(1e6 * (t - zero), 3) for t in (event.begin, event.end))
            row = {"name": event.name, "cat": event.kind, "pid": pid, "tid": threads[event.thread]}
            args = {key: value for key, value in event.args.items() if key not in ("call", "started", "together")}
            if "waited" in args:
                args["waited_us"] = round(1e6 * args.pop("waited"), 3)
            if args.pop("flight", False):  # several are under way at once, which a thread's spans cannot be
                row["id"] = f"{pid}.{number}"
                rows += [{**row, "ph": "b", "ts": begin, "args": args}, {**row, "ph": "e", "ts": end}]
            else:
                rows.append({**row, "ph": "X", "ts": begin, "dur": max(round(end - begin, 3), 0.0), "args": args})
    return rows
