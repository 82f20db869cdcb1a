"""All experiments in one directory, each reading the runs of those before it, and one report that begins with what to
do."""

from dataclasses import replace

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import cells
from allgrad.launch.study.experiment import experiment
from allgrad.launch.study.experiments import VERBS, module_of
from allgrad.launch.study.experiments.noise import PREDICTORS
from allgrad.launch.study.result import FAIL, INCONCLUSIVE, NONE, PASS, VERDICTS, Result, Table
from allgrad.launch.study.wording import number

NOT_HERE = "all", "tune"  # the second searches a space that only its user can give
LATER = {"project": "On more ranks", "pareto": "At what cost"}  # whose headlines are advice
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
        words = [verdict.word for verdict in result.verdicts]
        rows.append({"experiment": result.name, **_counted(words), "headline": result.headline})
    rows += [{"experiment": verb, **_counted([]), "headline": f"not done: {why}"} for verb, why in missing.items()]
    answer = f"{by_name['steps'].headline} " if "steps" in by_name else ""
    every = [verdict for result in results for verdict in result.verdicts]
    return Result(
        "all", "Which batch size, learning rate and length of training does this workload want, and why?",
        f"{answer}{len(results)} experiments on {work.name}, {cells.counts(every)}.",
        tables=[Table(
            "experiments", ["experiment", *VERDICTS, "headline"], rows,
            "What each experiment says, and its verdicts on claims of the literature.",
            {"experiment": "the word of allgrad study", "headline": "its answer",
             FAIL: "claims that do not hold here", INCONCLUSIVE: "claims that these runs do not decide",
             PASS: "claims that hold here", NONE: "claims with too few seeds, or seeds that failed"})],
        methods=f"{work.name}, preset {preset}; all runs are in one directory, and the later experiments use the rates "
        f"and fits of `study steps`.",
        notes=[f"{verb} was not done: {why}" for verb, why in missing.items()],
        advice=_advice(by_name),
    )  # fmt: skip


def _counted(words):
    return {word: words.count(word) for word in VERDICTS}


def _advice(by_name):
    """The advice of `steps`, with what others add before its last line: what is not known."""
    if "steps" not in by_name:
        return ""
    *lines, unknown = by_name["steps"].advice.splitlines()
    if "noise" in by_name:
        lines.append(_predicted(by_name["noise"]))
    lines += by_name["ramp"].advice.splitlines()[:1] if "ramp" in by_name else []  # its syntaxes stand in its section
    lines += [f"{what}: {by_name[name].headline}" for name, what in LATER.items() if name in by_name]
    return "\n".join([*lines, unknown])


def _predicted(noise):
    """How far the noise scales are from the critical batch size that leads: the reach of all intervals there are."""
    leads = {row["optimizer"]: row["measured"] for row in noise.summary.rows}
    (ratios,) = (table.rows for table in noise.tables if table.name == "ratios")
    known = [row for row in ratios if row["measured"] == leads[row["optimizer"]] and row["ratio_lo"] > 0.0]
    if not known:
        return "Whether the gradient noise of a single run predicts the critical batch size is not known from this."
    said = []
    for predictor in PREDICTORS:
        if found := [row for row in known if row["predictor"] == predictor]:
            low, high = min(row["ratio_lo"] for row in found), max(row["ratio_hi"] for row in found)
            said.append(f"{PREDICTORS[predictor]} is between {number(low, 2)} and {number(high, 2)} times as large")
    names = ", ".join(dict.fromkeys(row["optimizer"] for row in known))
    return (
        f"Predicted from the gradient noise along single runs, beside the critical batch size ({names}; all 95 % "
        f"intervals together): {', '.join(said)}."
    )
