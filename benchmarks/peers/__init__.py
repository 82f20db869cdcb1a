"""The competitors: each module has `make(workload) -> step`, and step(x, y) trains once and returns the loss."""
