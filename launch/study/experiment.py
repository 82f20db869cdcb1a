"""What makes an experiment of a function: the options in their types, those of a preset, and what is refused.

A module of `allgrad.launch.study.experiments` has a table of presets and a function under this decorator:

    GRIDS = {"quick": {"seeds": (0, 1)}, "full": {"seeds": (0, 1, 2, 3)}}

    @experiment(GRIDS)
    def run(lab, work, preset="quick", *, seeds=PRESET, lr=0.1) -> Result: ...
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import runner, workload
from allgrad.launch.study.options import GRID, REPEATED, typed
from allgrad.launch.study.result import Result

PRESETS = "quick", "full"
PRESET: Any = object()  # default of an option whose value is the preset's
R = TypeVar("R")


class Experiment(Generic[R]):
    """What `experiment` makes of an experiment's function: called as it is, with options in their types."""

    def __init__(self, run: Callable[..., R], grids: dict, as_given: tuple[str, ...]):
        functools.update_wrapper(self, run)
        self.run, self.grids, self.as_given = run, grids, as_given
        folder, _, inside = run.__module__.rpartition(".experiments.")
        module = inside.partition(".")[0] if folder else inside.rpartition(".")[2]
        self.name = module.replace("_", "-")
        self.parameters = inspect.signature(run).parameters

    def chosen(self, preset, given) -> dict:
        """The options that the function would get: those given, in their types, and the preset's."""
        if preset not in PRESETS:
            raise ConfigurationError(f"--preset {preset} is not one of {', '.join(PRESETS)}")
        default = {key: self.grids[preset][key] for key, p in self.parameters.items() if p.default is PRESET}
        known = {*self.parameters, *(runner.PASSED_ON if "more" in self.parameters else ())}
        if "options" not in self.parameters and (foreign := given.keys() - known):
            raise ConfigurationError(f"--{min(foreign).replace('_', '-')} has no effect on allgrad study {self.name}")
        plain = {key for key in GRID if key not in (*REPEATED, *self.as_given) and given.get(key) is not None}
        given = {key: typed(key, value) if key in plain else value for key, value in given.items()}
        single = "optimizers" in self.parameters.keys() - {*default, *self.as_given}
        if single and len(several := given.get("optimizers", ())) > 1:
            raise ConfigurationError(f"{self.name} takes one optimizer, got {', '.join(several)}")
        return default | {key: v for key, v in given.items() if v is not None or key not in default}

    def __call__(self, lab, work, preset="quick", **given) -> R:
        if not isinstance(work, workload.Workload):
            raise ConfigurationError(f"a study is of a Workload(data, model), got {type(work).__name__}")
        given = self.chosen(preset, given)
        result = self.run(lab, work, preset, **given)
        twice = sorted({*given.get("seeds", ())} & {*given.get("report_seeds", ())})
        if twice and isinstance(result, Result):
            result.notes.append(
                f"Seeds {', '.join(map(str, twice))} are reported and were tuned with as well: they are not fresh, "
                f"and favour the rates found."
            )
        return result


def experiment(grids: dict, as_given: tuple[str, ...] = ()) -> Callable[[Callable[..., R]], Experiment[R]]:
    """Decorates an experiment, `run(lab, work, preset, *, ...)`: it gets its options in the types that they have on the
    command line, but those of `as_given`, and where there is none the preset's if its default is PRESET.

    One that declares **more takes further words of a run's configuration, and with **options those of other
    experiments; what else has no effect is refused. `run.chosen(preset, given)` are the options it would get.
    """
    return lambda run: Experiment(run, grids, as_given)
