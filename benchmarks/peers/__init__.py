"""The competitors: each module has `make(workload) -> prepare, step`: prepare(x, y) makes a batch
of arrays, before anything is timed, and step(batch) trains on it once and returns the loss."""
