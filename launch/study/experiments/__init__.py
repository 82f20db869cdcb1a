"""The experiments: each a module with `run(lab, work, preset, ...) -> Result`, and its grids at its top."""

VERBS = {  # what `allgrad study` calls them; the module is the verb with _ for -
    "steps": "steps to a target against batch size, each with its learning rate tuned",
    "tune": "hyper-parameters by grid, random, quasi-random search or successive halving, and how much each matters",
    "scaling": "weak and strong scaling on real ranks, and which part of a step is communication",
    "project": "time to target on up to thousands of ranks: calibration, cost model, steps to target",
    "lr-rules": "what the rules for scaling the learning rate with the batch are worth, next to tuning it",
    "budgets": "batch sizes compared at equal epochs and at equal steps",
    "schedule": "decaying the learning rate against growing the batch",
    "branch": "the critical batch size along a run, by branches of its checkpoints",
}
