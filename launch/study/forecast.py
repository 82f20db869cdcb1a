"""About how many runs an experiment does, from its options and grids, before it does them."""

from collections.abc import Callable, Mapping
from typing import Any

RATES = 4, 6  # learning rates that the tuning of a cell tries, least and most: about two on each side of the best
RULES, FEW_RULES = 5, 2  # for the rate, of `lr-rules`, and of an optimizer that it runs at every other batch only
SPARSE = "lars", "lamb"
COST = {  # seconds of a run, in those of one of `steps` with the same batch: as on digits, to one digit
    "noise": 20.0, "lr-rules": 1.5, "schedule": 8.0, "shuffle": 2.0, "local": 4.0, "init": 10.0, "branch": 20.0,
    "sharp": 50.0, "tune": 2.0,
}  # fmt: skip

Cells = dict[tuple, tuple[int, int]]  # {(experiment, optimizer, batch): (least, most) runs}; batch None: all others


def forecast(name: str, options: Mapping[str, Any], grid: Mapping[str, Any]) -> Cells:
    """About how many runs there are in each cell; cells of one name are the same runs, in whichever experiment.

    An experiment without a formula here is taken to tune each optimizer at each batch, as `steps` does.
    """
    return FORECASTS.get(name, lambda o, grid: tuned(name, o))(options, grid)


def tuned(name, options, batches=None, times=1) -> Cells:
    """Cells whose rate is tuned and run on the report's seeds, each so many times over."""
    batches = batches or options.get("batches") or (None,)
    seeds, report_seeds = _count(options, "seeds"), _count(options, "report_seeds")
    least, most = (times * (rates * seeds + report_seeds) for rates in RATES)
    return {(name, optimizer, batch): (least, most) for optimizer in _optimizers(options) for batch in batches}


def exactly(name, options, runs, batches=(None,)) -> Cells:
    """Cells of a known number of runs."""
    return {(name, optimizer, batch): (runs, runs) for optimizer in _optimizers(options) for batch in batches}


def _optimizers(options):
    return options.get("optimizers") or ("sgd",)


def _count(options, name):
    return len(options.get(name) or ())


def _noise(o, grid):
    return tuned("steps", o) | exactly("noise", o, len(grid["runs"]), grid["at"])


def _lr_rules(o, grid):
    found, batches, seeds = {}, sorted(o["batches"]), _count(o, "report_seeds")
    for name in _optimizers(o):
        mine, rules = (batches[::2], FEW_RULES) if name in SPARSE and len(batches) > 4 else (batches, RULES)
        one = {**o, "optimizers": (name,)}
        found |= tuned("steps", one, mine) | exactly("lr-rules", one, rules * seeds, mine[1:])
    return found


def _tokens(o, grid):
    return tuned("tokens", o, times=len(o.get("budgets") or grid["budgets"]) * len(o.get("models") or (None,)))


def _cooldown(o, grid):  # a run for each budget, and four that serve all
    return tuned("cooldown", o, o.get("batches") or (32,), times=len(o.get("budgets") or grid["budgets"]) + 4)


def _schedule(o, grid):
    return tuned("schedule", {**o, "report_seeds": 4 * (o["report_seeds"] or ())}, o.get("batches") or (8,))


def _shuffle(o, grid):
    floors = exactly("shuffle", {}, 1 + 5 * len(grid["rates"]) * min(3, _count(o, "report_seeds")))
    return floors | tuned("shuffle", o, (16,), times=4)


def _local(o, grid):
    epochs, rounds, shards = grid["epochs"], grid["rounds"], grid["shards"]
    runs = (len(epochs["every"]) + 2 * len(shards["every"])) * _count(o, "report_seeds")
    first = {**o, "optimizers": _optimizers(o)[:1]}
    return (
        exactly("local", o, runs, (epochs["workers"] * epochs["each"],))
        | tuned("local", first, times=2 * len(rounds["every"]))
        | tuned("steps", {**o, "report_seeds": ()}, (4, 8))
    )


def _init(o, grid):
    return tuned("init", o, (32,), times=2 * len(grid["schemes"]))


def _branch(o, grid):
    first = min(o["batches"])
    return tuned("steps", {**o, "report_seeds": ()}, (first,)) | exactly("branch", o, _count(o, "report_seeds"))


def _ramp(o, grid):
    return _branch(o, grid) | exactly("ramp", o, 3 * len(grid["runs"]))  # three plans


def _tune(o, grid):
    runs = (o.get("trials") or grid["trials"]) * _count(o, "seeds") + 3 * _count(o, "report_seeds")
    return {("tune", "", None): (runs, 2 * runs)}


FORECASTS: dict[str, Callable[[Mapping, Mapping], Cells]] = {
    "noise": _noise,
    "lr-rules": _lr_rules,
    "budgets": lambda o, grid: tuned("budgets", o, times=len(o.get("budgets") or grid["budgets"])),
    "tokens": _tokens,
    "cooldown": _cooldown,
    "schedule": _schedule,
    "shuffle": _shuffle,
    "local": _local,
    "init": _init,
    "branch": _branch,
    "ramp": _ramp,
    "scaling": lambda o, grid: {},  # starts ranks of its own
    "project": lambda o, grid: {},
    "pareto": lambda o, grid: {},
    "tune": _tune,
}
