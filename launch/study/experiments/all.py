"""All experiments in one directory, each reading the runs of those before it, and one report that begins with what to
do."""

import math
from dataclasses import replace

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.experiment import experiment
from allgrad.launch.study.experiments import VERBS, module_of
from allgrad.launch.study.experiments.noise import PREDICTORS
from allgrad.launch.study.result import FAIL, INCONCLUSIVE, PASS, Result, Table

NOT_HERE = "all", "tune"  # the second searches a space that only its user can give
GRIDS = {"quick": {}, "full": {}}  # those of the experiments


def _experiments():
    """`steps` first: others read its runs."""
    order = sorted((verb for verb in VERBS if verb not in NOT_HERE), key=lambda verb: verb != "steps")
    return [module_of(verb).run for verb in order]


@experiment(GRIDS, others=_experiments)
def run(lab, work, preset="quick", **options) -> list[Result]:
    """Every experiment with those of the options that it takes, and in front of their results one about all of them."""
    taken = {each.name: (each, _taken(each, options)) for each in _experiments()}
    if (plan := getattr(getattr(lab, "progress", None), "plan", None)) is not None:
        plan({verb: each.expected(preset, own) for verb, (each, own) in taken.items()})
    results, missing = [], {}
    for verb, (each, own) in taken.items():
        try:
            results.append(each(lab, work, preset, **own))
        except ConfigurationError as error:
            missing[verb] = str(error)
    if not results:
        raise ConfigurationError("no experiment could be done: " + "; ".join(f"{k}: {v}" for k, v in missing.items()))
    return [summary(work, preset, results, missing), *(replace(result, advice="") for result in results)]


def _taken(each, options):
    """The options that an experiment takes, and one optimizer where it takes one."""
    takes = each.takes()
    taken = {key: value for key, value in options.items() if key in takes}
    if "optimizers" in taken and isinstance(default := takes["optimizers"], tuple):
        taken["optimizers"] = taken["optimizers"][: len(default)]
    return taken


def summary(work, preset, results, missing) -> Result:
    """What all of them say together: their verdicts and headlines, and the advice."""
    by_name = {result.name: result for result in results}
    rows = []
    for result in results:
        verdicts = [check.verdict for check in result.checks]
        counts = {word: verdicts.count(word) for word in (FAIL, INCONCLUSIVE, PASS)}
        rows.append({"experiment": result.name, **counts, "headline": result.headline})
    rows += [
        {"experiment": verb, FAIL: 0, INCONCLUSIVE: 0, PASS: 0, "headline": f"not done: {why}"}
        for verb, why in missing.items()
    ]
    total = {word: sum(row[word] for row in rows) for word in (FAIL, INCONCLUSIVE, PASS)}
    return Result(
        "all", "Which batch size, learning rate and length of training does this workload want, and why?",
        f"{len(results)} experiments on {work.name}: {total[PASS]} checks PASS, {total[INCONCLUSIVE]} INCONCLUSIVE, "
        f"{total[FAIL]} FAIL.",
        [], [Table("experiments", ["experiment", FAIL, INCONCLUSIVE, PASS, "headline"], rows,
                   "What each experiment says, and its checks by verdict.",
                   {"experiment": "the word of allgrad study", "headline": "its answer",
                    FAIL: "claims that do not hold here", INCONCLUSIVE: "intervals that straddle the threshold",
                    PASS: "claims that hold"})],
        methods=f"{work.name}, preset {preset}; all runs are in one directory, and the later experiments use the rates "
        f"and fits of `study steps`.",
        notes=[f"{verb} was not done: {why}" for verb, why in missing.items()],
        advice=_advice(by_name),
    )  # fmt: skip


def _advice(by_name):
    """The advice of `steps`, with what the noise and the projection add before its last line: what is not known."""
    if "steps" not in by_name:
        return ""
    *lines, unknown = by_name["steps"].advice.splitlines()
    if "noise" in by_name:
        rows = by_name["noise"].tables[0].rows
        spans = {p: [v for row in rows if math.isfinite(v := row[f"{p}/B_crit"])] for p in PREDICTORS}
        said = [f"{p} is {min(found):.2g} to {max(found):.2g} times B_crit" for p, found in spans.items() if found]
        names = ", ".join(dict.fromkeys(row["optimizer"] for row in rows))
        lines += [f"Predicted from the gradient noise along single runs ({names}): {', '.join(said)}."] * bool(said)
    if "project" in by_name:
        lines.append(f"On more ranks: {by_name['project'].headline}")
    return "\n".join([*lines, unknown])
