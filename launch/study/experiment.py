"""What makes an experiment of a function: the options in their types, those of a preset, and what is refused.

A module of `allgrad.launch.study.experiments` has a table of presets and a function under this decorator:

    GRIDS = {"quick": {"seeds": (0, 1)}, "full": {"seeds": (0, 1, 2, 3)}}

    @experiment(GRIDS)
    def run(lab, work, preset="quick", *, seeds=PRESET, lr=0.1) -> Result: ...
"""

import contextlib
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import experiments, runner, target, workload
from allgrad.launch.study.forecast import Cells, forecast
from allgrad.launch.study.options import ALIASES, GRID, REPEATED, SIZE_OF_GRIDS, typed
from allgrad.launch.study.result import Result

PRESETS = SIZE_OF_GRIDS.among
PRESET: Any = object()  # default of an option whose value is the preset's
R = TypeVar("R")


class Experiment(Generic[R]):
    """What `experiment` makes of an experiment's function: called as it is, with options in their types."""

    def __init__(self, run: Callable[..., R], grids: dict, as_given: tuple[str, ...], others):
        functools.update_wrapper(self, run)
        self.run, self.grids, self.as_given, self.others = run, grids, as_given, others
        folder, _, inside = run.__module__.rpartition(".experiments.")
        module = inside.partition(".")[0] if folder else inside.rpartition(".")[2]
        self.name = module.replace("_", "-")
        self.parameters = inspect.signature(run).parameters

    def takes(self) -> dict[str, Any]:
        """{option: default} of all that it takes; PRESET if the default is the preset's."""
        found = {key: runner.DEFAULTS.get(key) for key in (runner.PASSED_ON if "more" in self.parameters else ())}
        for other in self.others():
            found |= other.takes()
        own = {key: p.default for key, p in self.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
        return found | own

    def default(self, name, preset) -> Any:
        """What an option is if it is not given; of those of several experiments, the first one's."""
        if (own := self.parameters.get(name)) is not None:
            return self.grids[preset][name] if own.default is PRESET else own.default
        for other in self.others():
            if name in other.takes():
                return other.default(name, preset)
        return runner.DEFAULTS.get(name)

    def chosen(self, preset, given) -> dict:
        """The options that the function would get: those given, in their types, and the preset's.

        As in a file, optimizer and batch are other words for optimizers and batches.
        """
        if preset not in PRESETS:
            raise ConfigurationError(f"--preset {preset} is not one of {', '.join(PRESETS)}")
        default = {key: self.grids[preset][key] for key, p in self.parameters.items() if p.default is PRESET}
        takes = self.takes()
        for name, alias in ALIASES.items():
            if alias in given and name in takes:
                if name in given:
                    raise ConfigurationError(f"{alias} and {name} are the same: give one of them")
                given = {name if key == alias else key: value for key, value in given.items()}
        if foreign := given.keys() - takes.keys():
            raise ConfigurationError(self._refusal(min(foreign), takes))
        plain = {key for key in GRID if key not in (*REPEATED, *self.as_given) and given.get(key) is not None}
        given = {key: typed(key, value) if key in plain else value for key, value in given.items()}
        single = "optimizers" in self.parameters.keys() - {*default, *self.as_given}
        if single and len(several := given.get("optimizers", ())) > 1:
            raise ConfigurationError(f"{self.name} takes one optimizer, got {', '.join(several)}")
        return default | {key: v for key, v in given.items() if v is not None or key not in default}

    def _refusal(self, name, takes):
        """Why an option is not taken: what it is for, or which one is meant."""
        said = f"--{name.replace('_', '-')} has no effect on allgrad study {self.name}"
        verbs = [verb for verb in experiments.VERBS if verb not in (self.name, "all")] if name in GRID else []
        if home := [verb for verb in verbs if name in experiments.module_of(verb).run.takes()]:
            return f"{said}: it is for {', '.join(home)}"
        like = difflib.get_close_matches(name, takes, 1)
        return said + (f": is --{like[0].replace('_', '-')} meant?" if like else "")

    def expected(self, preset, given) -> Cells:
        """About how many runs there will be, see `forecast`; none where nobody can tell."""
        options = {name: self.default(name, preset) for name in self.takes()}
        options |= {name: value for name, value in given.items() if value is not None}
        try:
            return forecast(self.name, options, self.grids[preset])
        except (KeyError, TypeError, ValueError):  # options that the experiment itself will refuse
            return {}

    def __call__(self, lab, work, preset="quick", **given) -> R:
        if not isinstance(work, workload.Workload):
            raise ConfigurationError(f"a study is of a Workload(data, model), got {type(work).__name__}")
        given = self.chosen(preset, given)
        self._refuse_optimizers(work, preset, given)
        aim = self._aim(work, preset, given)
        remarks = target.checked(work, aim)
        say = getattr(lab, "say", None)
        if aim.target == "auto":
            given["target"], told = target.automatic(work, aim, say)
            remarks.insert(0, told)
        under_way = getattr(getattr(lab, "progress", None), "under_way", None)
        with under_way(self.name, self.expected(preset, given)) if under_way else contextlib.nullcontext():
            try:
                found = self.run(lab, work, preset, **given)
            except target.Missing as missing:
                raise ConfigurationError(target.refusal(missing, work, aim, say)) from None
        result: Any = found[0] if isinstance(found, list) else found
        twice = sorted({*given.get("seeds", ())} & {*given.get("report_seeds", ())})
        if twice and isinstance(found, Result):
            remarks.append(
                f"Seeds {', '.join(map(str, twice))} are reported and were tuned with as well: they are not fresh, "
                f"and favour the rates found."
            )
        if isinstance(result, Result):
            result.notes += remarks
            own = [] if isinstance(work.data, str) else [f"{remark}." for remark in work.loaded.remarks]
            result.methods = " ".join(filter(None, (result.methods, *own)))
        return found

    def _refuse_optimizers(self, work, preset, given):
        """Raise what runs would say of an optimizer and its options, before the first of them."""
        if "optimizers" not in self.takes() or "optimizers" in self.as_given:
            return  # it has none, or one for each trial
        more = {key: given[key] for key in target.PASSED_ON if given.get(key) is not None}
        for optimizer in given.get("optimizers") or self.default("optimizers", preset) or ():
            config = runner.configuration(work, optimizer, steps=1, batch=work.shards, **more)
            if more:
                runner.Run(config)

    def _aim(self, work, preset, given):
        """What its runs are to reach, and by which batches and optimizer, as far as it has a target and batches."""
        own = self.takes().keys() - {*self.as_given}
        found = {name: self.default(name, preset) for name in target.READ if name in own}
        found |= {name: given[name] for name in found if given.get(name) is not None}
        optimizer, *_ = found.pop("optimizers", None) or ("sgd",)
        more = {key: given[key] for key in target.PASSED_ON if given.get(key) is not None}
        known = {key: value for key, value in found.items() if value is not None}
        return target.Aim(optimizer=optimizer, **known, more=more)


def experiment(
    grids: dict, as_given: tuple[str, ...] = (), others: Callable[[], Iterable[Experiment]] = tuple,
) -> Callable[[Callable[..., R]], Experiment[R]]:  # fmt: skip
    """Decorates an experiment, `run(lab, work, preset, *, ...)`: it gets its options in the types that they have on the
    command line, but those of `as_given`, and where there is none the preset's if its default is PRESET.

    One that declares **more takes further words of a run's configuration, and with **options those of others(), which
    it calls; what else has no effect is refused. `run.chosen(preset, given)` are the options it would get.
    """
    return lambda run: Experiment(run, grids, as_given, others)
