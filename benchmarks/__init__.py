"""Side-by-side measurements: every figure is a ratio of medians, the competitors taking turns in one run."""
