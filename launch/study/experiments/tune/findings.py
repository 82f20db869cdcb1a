"""What the trials of a search say: tables and sentences, and the command that trains the best of them."""

import itertools
import math
import shlex
from collections import Counter
from typing import NamedTuple

import numpy as np

from allgrad.launch import data as datasets
from allgrad.launch.options import completed, defaults
from allgrad.launch.study import intervals, runner
from allgrad.launch.study.costs.drawn import columns
from allgrad.launch.study.experiments.tune import designs, drawing, importance
from allgrad.launch.study.intervals import Estimate
from allgrad.launch.study.result import ALPHA, LEAST_SEEDS, Result, Table
from allgrad.launch.study.wording import compared as in_words, number, with_interval

PLAIN = {"quasi": "quasi-random search", "random": "random search", "grid": "grid search",
         "halving": "successive halving"}  # fmt: skip


class Finalist(NamedTuple):
    """A trial on fresh seeds: its mean, what it is over that of the winner (a ratio, or a difference), and the verdict:
    "worse", "better", "not told apart", or why there is none; "" for the winner itself."""

    trial: int
    fresh: Estimate
    over: Estimate | None
    verdict: str


def judged(finalists, values) -> dict[str, Finalist]:
    """The finalists against the winner, seed by seed, by tests of Student's t, corrected together by Holm.

    finalists: {role: number of the trial}; values: {role: the metric on each fresh seed}, the smaller the better
    """
    means = {role: intervals.mean(found) for role, found in values.items()}
    log = all(mean.log for mean in means.values())  # else a metric has values that are not above 0, and no ratios
    over = {
        role: intervals.paired(found, values["winner"], log=log) for role, found in values.items() if role != "winner"
    }
    p_values = []
    for e in over.values():
        equal = 1.0 if e.log else 0.0
        decides = e.known and e.n >= LEAST_SEEDS
        p_values.append(min(1.0, 2.0 * min(e.p_above(equal), e.p_below(equal))) if decides else math.nan)
    found = {"winner": Finalist(finalists["winner"], means["winner"], None, "")}
    for (role, e), p in zip(over.items(), intervals.holm(p_values)):
        if math.isnan(p):
            verdict = f"no verdict: {e.why or f'{e.n} seeds, and it needs {LEAST_SEEDS}'}"
        elif p > ALPHA:
            verdict = "not told apart"
        else:
            verdict = "worse" if e.value > (1.0 if e.log else 0.0) else "better"
        found[role] = Finalist(finalists[role], means[role], e, verdict)
    return found


def chosen(found: dict[str, Finalist]) -> str:
    """The role of the trial to train with: the winner, unless fresh seeds find another better, or it fails on some."""
    whole = {role: one for role, one in found.items() if not one.fresh.failed}
    better = {role: one for role, one in whole.items() if one.verdict == "better"}
    if better:
        return min(better, key=lambda role: better[role].fresh.value)
    return "winner" if "winner" in whole else next(iter(whole), "winner")


def summarize(setting, tried, levels, scores, finalists, report_seeds, eta) -> Result:
    searched = [d for d in setting.space.values() if not d.fixed]
    found = [scores[0][k] for k in range(len(tried))]
    setting.positive = min(found) > 0.0
    compared = [math.log(score) if setting.positive and math.isfinite(score) else score for score in found]
    groups = {d.name: importance.bins(d, [trial.values.get(d.name) for trial in tried]) for d in searched}
    matter = {name: importance.importance(group, compared) for name, (group, _) in groups.items()}
    order = sorted(matter, key=lambda name: -np.nan_to_num(matter[name].share, nan=-1.0))
    pairs = _pairs(setting, tried, searched, compared)
    all_effects = importance.additive_share([group for group, _ in groups.values()], compared)
    fresh = {role: [setting.value(row) for row in tried[k].fresh] for role, k in finalists.items()}
    finals = judged(finalists, fresh)
    tables = [
        _trials_table(setting, tried), _finalists_table(setting, tried, finals, fresh),
        _importance_table(setting, groups, compared, matter, order), _effects_table(setting, groups, compared, order),
        _pairs_table(setting, pairs),
    ]  # fmt: skip
    if len(levels) > 1:
        tables.append(_rungs_table(setting, levels, scores))
    result = Result(
        "tune", f"Which hyper-parameters lead to the least {setting.measured} under an equal budget, and which matter?",
        _headline(setting, tried, levels, finals, matter), [], tables,
        drawing.pictures(setting, tried, levels, scores, finalists, groups, compared, matter, order),
        _summary(setting, tried, finals), _findings(setting, tried, finals, matter, order, pairs),
    )  # fmt: skip
    result.methods = _methods(setting, tried, levels, report_seeds, eta)
    result.notes = _notes(setting, tried, finalists, fresh, compared, matter, all_effects)
    result.advice = _advice(setting, tried, finals)
    return result


def _advice(setting, tried, finals):
    best = chosen(finals)
    one = finals[best]
    line = command(setting.work, tried[one.trial].last[0])
    said = f"Train with {_words(setting.space, tried[one.trial])}" + f": {line}" * bool(line)
    said += f" ({setting.measured} {with_interval(one.fresh)} over fresh seeds)"
    if best != "winner":
        why = "fresh seeds find it better" if one.verdict == "better" else "the winner failed on fresh seeds"
        said += f". It was {best} in the search; {why}, and since they chose it, its number is flattered"
    elif same := _roles(finals, "not told apart"):
        said += f". Not told apart from it: {', '.join(same)} of the search"
    return f"{said}."


def _roles(finals, verdict):
    return [role for role, one in finals.items() if one.verdict == verdict]


def _finite(values):
    return [v for v in values if math.isfinite(v)]


def _words(space, trial):
    """What was searched, with the values of a trial."""
    named = {d.name: trial.values.get(d.name) for d in space.values() if not d.fixed}
    return ", ".join(f"{name} {v:.3g}" if isinstance(v, float) else f"{name} {v}" for name, v in named.items()
                     if v is not None)  # fmt: skip


def _headline(setting, tried, levels, finals, matter):
    one = finals["winner"]
    budget = "up to " * (len(levels) > 1) + setting.equal
    said = (
        f"Of {len(tried)} trials ({PLAIN[setting.search]}, {budget}), the winner of the search has "
        f"{_words(setting.space, tried[one.trial])} and comes to {setting.measured} {with_interval(one.fresh)} on "
        f"{one.fresh.n} fresh seeds"
    )
    for verdict, words in (
        ("not told apart", "not told apart from it"), ("better", "but fresh seeds find better"), ("worse", "worse"),
    ):  # fmt: skip
        if roles := _roles(finals, verdict):
            said += f"; {words}: {', '.join(roles)}"
    if any(one.verdict.startswith("no verdict") for one in finals.values()):
        said += "; no verdict on others"
    known = _telling(matter)
    shares = ", ".join(f"{name} {_percent(matter[name])}" for name in known[:3])
    said += f". Of the variance of {setting.compared}, alone: {shares}." if known else (
        ". No hyper-parameter alone explains more of the variance than chance would."
    )  # fmt: skip
    failed = sum(not math.isfinite(setting.mean(trial.rows[0])) for trial in tried)
    return said + (f" {failed} trials failed." if failed else "")


def _telling(matter) -> list[str]:
    """The hyper-parameters that explain more than chance would, of all of them together (Holm); the largest first."""
    known = [name for name, p in zip(matter, intervals.holm([one.p for one in matter.values()])) if p <= ALPHA]
    return sorted(known, key=lambda name: -matter[name].share)


def _percent(one):
    return f"{100 * one.share:.0f} % [{100 * one.low:.0f}, {100 * one.high:.0f}]"


def _findings(setting, tried, finals, matter, order, pairs):
    said = []
    for role, one in finals.items():
        if one.over is not None:
            said.append(
                f"The {role} of the search ({_words(setting.space, tried[one.trial])}): {setting.measured} "
                f"{with_interval(one.fresh)}, {_beside(one.over)}: {one.verdict}."
            )
    winner = finals["winner"]
    score = setting.mean(tried[winner.trial].last)
    if winner.fresh.known and winner.fresh.log and score > 0.0:
        flattered = winner.fresh.times(1.0 / score)
        apart = not flattered.low <= 1.0 <= flattered.high
        said.append(
            f"In the search the winner scored {number(score)}, the best of {len(tried)}; its mean on fresh seeds is "
            f"{with_interval(flattered)} times that"
            + (": the score was luck in part." if apart and flattered.value > 1.0 else
               ": not told apart." if not apart else ".")
        )  # fmt: skip
    known = _telling(matter)
    if len(known) > 1:
        first, rest = known[0], [name for name in known[1:] if matter[name].high >= matter[known[0]].low]
        said.append(
            f"The largest share of the variance is that of {first}, {_percent(matter[first])}"
            + (f"; which of {first}, {', '.join(rest)} matters more is not told apart by their intervals." if rest else
               "; its interval is above those of all others.")
        )  # fmt: skip
    if little := [name for name in order if name not in known and math.isfinite(matter[name].share)]:
        said.append(f"No more than chance explains, each by itself: {', '.join(little)}.")
    telling = [pair for pair, p in zip(pairs, intervals.holm([pair["p"] for pair in pairs])) if p <= ALPHA]
    for pair in [pair for pair in telling if pair["beyond_lo"] > 0.0][:1]:
        said.append(
            f"Together, {pair['first']} and {pair['second']} explain {100 * pair['share']:.0f} % "
            f"[{100 * pair['ci_lo']:.0f}, {100 * pair['ci_hi']:.0f}], {100 * pair['beyond']:.0f} "
            f"[{100 * pair['beyond_lo']:.0f}, {100 * pair['beyond_hi']:.0f}] points more than the sum of each alone: "
            f"choose them together."
        )
    return said


def _beside(over: Estimate) -> str:
    """How far a trial is from the winner, in words."""
    if not over.log and over.known:
        return f"{with_interval(over)} more than the winner"
    words = in_words(over)
    return words + (" that of the winner" if words.endswith("times") else " than the winner" * words[-4:].isalpha())


def _summary(setting, tried, finals):
    rows = [
        {"finalist": role, "trial": one.trial, "setting": _words(setting.space, tried[one.trial]),
         **columns("fresh", one.fresh), **columns("over", one.over), "verdict": one.verdict}
        for role, one in finals.items()
    ]  # fmt: skip
    relative = all(one.over.log for one in finals.values() if one.over is not None)
    return Table(
        "summary", list(rows[0]), rows, "The best of the search and its median trial on fresh seeds; 95 % intervals.",
        {"fresh": f"{setting.measured} on fresh seeds", "setting": "what was searched",
         "over": f"{'that over' if relative else 'that less'} that of the winner, seed by seed",
         "verdict": "against the winner, by Student's t, all of them corrected together"},
    )  # fmt: skip


def _trials_table(setting, tried):
    ranks = {k: i + 1 for i, k in enumerate(setting.rank(tried))}
    names, finals = [*setting.space], [name for name in tried[0].last[0] if name.startswith("final_")]
    finals = finals or [f"final_{setting.metric}"]
    rows = []
    for k, trial in enumerate(tried):
        bad = trial.failed
        rows.append({
            "trial": k, **trial.values, "status": bad[0]["status"] if bad else "ok", "fail": len(bad),
            "n_seeds": len(trial.last), "level": len(trial.rows), "budget": trial.last[0]["config"]["steps"],
            **{key: trial.last[0].get(key) for key in ("steps", "examples", "epochs")},
            **{name.removeprefix("final_"): _mean([row.get(name) for row in trial.last]) for name in finals},
            "rank": ranks.get(k),
        })  # fmt: skip
    columns = ["trial", *names, "status", "n_seeds", "fail", "level", "budget", "steps", "examples", "epochs"]
    columns += [name.removeprefix("final_") for name in finals] + ["rank"]
    return Table(
        "trials", columns, rows,
        f"All trials, failed ones too, at the end of their budget: {setting.equal}; means over seeds, of "
        f"which the best have more, ranked by {setting.metric}.",
        {"trial": "number in the order of the design", "rank": "1 is the best; none if the trial failed",
         "status": "ok, diverged (the loss is not finite, or far above its start) or error",
         "level": "levels of successive halving it was run at; 1 in other searches", "budget": "of its last run"},
    )  # fmt: skip


def _mean(values):
    return None if not values or any(v is None for v in values) else sum(values) / len(values)


def _finalists_table(setting, tried, finals, fresh):
    rows = []
    for role, one in finals.items():
        trial = tried[one.trial]
        edges = [d.name for d in setting.space.values() if d.at_edge(trial.values.get(d.name))]
        rows.append({
            "finalist": role, "trial": one.trial, **trial.values, "searched": setting.mean(trial.last),
            **columns("fresh", one.fresh), **columns("over", one.over), "verdict": one.verdict,
            "n_seeds": len(fresh[role]), "n_fail": one.fresh.failed, "edges": ", ".join(edges),
            "command": command(setting.work, trial.last[0]) if trial.last[0]["config"]["steps"] == setting.budget
            else None,
        })  # fmt: skip
    return Table(
        "finalists",
        ["finalist", "trial", *setting.space, "searched", "fresh", "fresh_lo", "fresh_hi", "over", "over_lo", "over_hi",
         "verdict", "n_seeds", "n_fail", "edges", "command"], rows,
        f"The best of the search and its median trial, again on fresh seeds with the whole budget, {setting.equal}.",
        {"searched": f"{setting.measured} in the search, mean over seeds: the best of many, which flatters it",
         "fresh": f"{setting.measured} on fresh seeds, mean",
         "over": "ratio to the winner's, or difference where not all are above 0, seed by seed",
         "verdict": "against the winner, by Student's t, all of them corrected together",
         "edges": "hyper-parameters whose value lies at the end of what was searched",
         "command": "trains it with the search's first seed"},
    )  # fmt: skip


def _importance_table(setting, groups, compared, matter, order):
    rows = []
    for name in order:
        found, rates = matter[name], [bad / n for _, n, bad, _ in _by_group(groups[name], compared) if n]
        rows.append({
            "name": name, "share": found.share, "ci_lo": found.low, "ci_hi": found.high, "chance": found.chance,
            "p": found.p, "groups": found.groups, "n": found.n, "fail_least": min(rates, default=math.nan),
            "fail_most": max(rates, default=math.nan),
        })  # fmt: skip
    return Table(
        "importance",
        ["name", "share", "ci_lo", "ci_hi", "chance", "p", "groups", "n", "fail_least", "fail_most"], rows,
        f"How much each hyper-parameter matters by itself: its share of the variance of {setting.compared} among "
        f"trials that succeeded{' at the first level' if setting.search == 'halving' else ''}.",
        {"name": "hyper-parameter", "share": "share of the variance between groups of its values (epsilon squared)",
         "chance": "what a hyper-parameter without effect exceeds in 1 of 20 cases",
         "p": "how likely one without effect has so large a share (permutations)",
         "groups": "groups of values: each choice, or parts of a range with about equally many trials",
         "n": "trials that succeeded and to which it applies",
         "fail_least": "share of trials that failed, in the group where it is least", "fail_most": "where it is most"},
    )  # fmt: skip


def _by_group(groups, compared):
    """(label, trials, failed, logarithms of the others) of each group."""
    group, labels = groups
    for i, label in enumerate(labels):
        found = [y for g, y in zip(group, compared) if g == i]
        yield label, len(found), sum(not math.isfinite(y) for y in found), _finite(found)


def _effects_table(setting, groups, compared, order):
    rows = []
    for name in order:
        for label, n, bad, good in _by_group(groups[name], compared):
            values = [setting.back(y) for y in good]
            middle = intervals.mean([*values, *[math.inf] * bad], "trials")
            rows.append({
                "name": name, "values": label, "n": n, "fail": bad, **columns("mean", middle),
                "best": min(values, default=math.nan),
            })  # fmt: skip
    return Table(
        "effects", ["name", "values", "n", "fail", "mean", "mean_lo", "mean_hi", "best"], rows,
        f"The {setting.measured} by groups of values of each hyper-parameter, over all values of the others.",
        {"n": "trials", "fail": "trials that failed", "mean": "geometric mean of those that did not, without an "
         "interval where some failed",
         "best": "the best of them"},
    )  # fmt: skip


def _pairs(setting, tried, searched, compared):
    """Rows of all pairs of hyper-parameters, those first that explain most beyond each alone."""
    coarse = {d.name: importance.bins(d, [t.values.get(d.name) for t in tried], 3)[0] for d in searched}
    rows = []
    for first, second in itertools.combinations(coarse, 2):
        both = importance.crossed(coarse[first], coarse[second])
        applies = [y if g is not None else math.inf for g, y in zip(both, compared)]
        found = importance.importance(both, compared)
        alone = [importance.importance(coarse[name], applies) for name in (first, second)]
        beyond = Estimate(math.nan)
        if all(math.isfinite(one.share) for one in (found, *alone)):
            error = float(np.nanstd(found.draws - sum(one.draws for one in alone), ddof=1))
            value = found.share - sum(one.share for one in alone)
            beyond = Estimate(value, error, found.n - found.groups, False, found.n, "trials")
        rows.append({
            "first": first, "second": second, "share": found.share, "ci_lo": found.low, "ci_hi": found.high,
            "chance": found.chance, "p": found.p, **columns("beyond", beyond),
            "groups": found.groups, "n": found.n,
        })  # fmt: skip
    return sorted((row for row in rows if math.isfinite(row["beyond"])), key=lambda row: -row["beyond"])


def _pairs_table(setting, rows):
    return Table(
        "pairs", ["first", "second", "share", "ci_lo", "ci_hi", "chance", "p",
          "beyond", "beyond_lo", "beyond_hi", "groups", "n"], rows,
        f"How much two hyper-parameters explain of the variance of {setting.compared} together, ranges in three "
        "parts, and how much of it lies beyond what each explains alone: their interaction. One of many pairs may "
        "stand out by luck.",
        {"share": "share of the variance between groups of pairs of values (epsilon squared)",
         "chance": "what a pair without effect exceeds in 1 of 20 cases",
         "beyond": "share less those of both alone, in the same groups; negative by chance only",
         "groups": "pairs of groups that have trials", "n": "trials that succeeded and to which both apply"},
    )  # fmt: skip


def _rungs_table(setting, levels, scores):
    rows = []
    for i, (level, found) in enumerate(zip(levels, scores)):
        later = scores[i + 1] if i + 1 < len(levels) else {}
        for k in sorted(found, key=lambda k: (found[k], k)):
            rows.append({"level": i + 1, "budget": designs.part(setting.budget, level.divisor), "trial": k,
                         "score": found[k], "promoted": k in later})  # fmt: skip
    return Table(
        "rungs", ["level", "budget", "trial", "score", "promoted"], rows,
        "Successive halving: each level's trials, the best first, and whether they went on to the next.",
        {"score": f"{setting.measured}; infinite if the trial failed"},
    )  # fmt: skip


def _methods(setting, tried, levels, report_seeds, eta):
    work, n = setting.work, len(setting.work.loaded.train_x)
    described = "; ".join(
        f"{d.name} {'|'.join(map(str, d.choices)) if d.choices else f'{d.scale}:{d.low:g}..{d.high:g}'}"
        for d in setting.space.values()
    )
    parts = ", ".join(f"{level.trials} with {designs.part(setting.budget, level.divisor)}" for level in levels)
    how = {
        "grid": "all of the choices, and of a range points at equal distances",
        "random": "independent draws", "quasi": "Halton's sequence, scrambled",
        "halving": f"Halton's sequence, scrambled; of each level the best 1/{eta} train anew with {eta} times the "
                   f"budget ({parts})",
    }[setting.search]  # fmt: skip
    momentum = " Momentum does not apply to adam and its like." * ("momentum" in setting.space)
    return (
        f"{work.name}, {n:,} training samples; {PLAIN[setting.search]}: {how}; {len(tried)} trials; budget "
        f"{setting.equal}; scored by {setting.metric} at its end, mean of seeds {', '.join(map(str, setting.seeds))}; "
        f"sampler {setting.sampler}, batches going on over the end of an epoch. Space: {described}.{momentum} The best "
        f"{designs.BEST} were confirmed with {designs.MORE_SEEDS} more seeds, which rank them; they and the median "
        f"trial were run again with seeds {', '.join(map(str, report_seeds))}; intervals are 95 %, by Student's t, of "
        f"logarithms where all values are above 0; the others are compared with the winner seed by seed, and judged "
        f"together by Holm's correction.\n\n"
        f"Importance: trials are grouped by the value of one hyper-parameter, whatever the others are, and the share "
        f"of the variance of {setting.compared} between the groups is 1 - (SSW/(n-k))/(SST/(n-1)), Kelley's "
        f"epsilon squared: on average 0 without effect. Intervals: Student's t on Fisher's z of "
        f"its root, with the scatter of {importance.RESAMPLES} resamples of the trials; chance: the 95 % quantile of "
        f"as many shuffled designs, and p the share of them that reach it. It is that of this space (a wider range "
        f"matters more), of trials that succeeded (failures are counted apart), and of each alone: what two do only "
        f"together is in the table of pairs, and what changes within a group is in no share."
    )


def _notes(setting, tried, finalists, fresh, compared, matter, all_effects):
    notes = []
    winner = tried[finalists["winner"]]
    for name in (d.name for d in setting.space.values() if d.at_edge(winner.values.get(d.name))):
        notes.append(f"The winner's {name}, {winner.values[name]}, is at the edge of what was searched; a better one "
                     "may lie beyond.")  # fmt: skip
    first = [row for trial in tried for row in trial.rows[0] if row["status"] != "ok"]
    if first:
        endings = ", ".join(f"{n} {status}" for status, n in sorted(Counter(row["status"] for row in first).items()))
        notes.append(f"{len(first)} of {len(tried) * len(setting.seeds)} runs of the search failed: {endings}; they "
                     "are in no mean and no share of the variance.")  # fmt: skip
    errors = Counter(row["error"] for row in first if row["status"] == "error")
    notes += [f"Error in {n} runs: {text}" for text, n in errors.most_common(3)]
    for role, values in fresh.items():
        if bad := sum(not math.isfinite(v) for v in values):
            notes.append(f"The {role} failed with {bad} of {len(values)} fresh seeds; its mean is that of the others.")
    best = _finite(fresh["winner"])
    if len(best) > 1:
        noise = np.std(np.log(best) if setting.positive else best, ddof=1)
        spread = np.std(_finite(compared), ddof=1) if len(_finite(compared)) > 1 else 0.0
        notes.append(f"The seed alone moves {setting.compared} of the winner by {noise:.2g} (standard deviation); "
                     f"that of the trials is {spread:.2g}.")  # fmt: skip
    if math.isfinite(all_effects):
        notes.append(f"All hyper-parameters together, their effects added, explain {100 * max(all_effects, 0.0):.0f} % "
                     "of the variance; the rest is interactions, the seed, and change within groups.")  # fmt: skip
    if weak := [name for name, found in matter.items() if math.isnan(found.share)]:
        notes.append(f"There are too few trials to say how much {', '.join(weak)} matters.")
    if len(setting.seeds) == 1 and len(tried) > designs.BEST:
        notes.append(f"Each trial but the best {designs.BEST} is one seed: its score is luck as well as merit.")
    if setting.metric.startswith("val"):
        notes.append("The search chose by the validation part that is reported here: a test set of its own is fairer.")
    if setting.search == "halving":
        notes.append("A schedule is planned over the budget of its level, and a trial that is slow at first is lost.")
    return notes


def command(work, row) -> str | None:
    """The `allgrad train` that does a row's run again; None if its data, model or loss have no name there."""
    config = row["config"]
    unnamed = not isinstance(work.data, str) or not isinstance(work.model, str) or config["objective"]
    kind, *_ = datasets.parse_spec(str(config["data"]))
    resplit = kind in datasets.TABLES and config["seed"]  # a study splits by seed 0, a run by its own
    if unnamed or config["label_noise"] or resplit:
        return None
    given = {"data": config["data"], "data_dir": work.data_dir, "model": config["model"]}
    names = "init", "dropout", "dtype", "optimizer", "lr", "momentum", "nesterov", "weight_decay", "l1", "schedule"
    given |= {name: config[name] for name in names}
    given |= {"warmup": config["warmup"], "global_batch": config["batch"], "steps": row["steps"]}
    given |= {"shuffle": runner.SAMPLERS[config["sampler"]], "boundary": "carry", "seed": config["seed"]}
    given |= {"shards": config["shards"] if config["shards"] > 1 else None}
    usual, words = completed({**defaults(), "optimizer": config["optimizer"]}), ["allgrad", "train"]
    for name, value in given.items():
        if value != usual[name] or name in ("data", "model", "optimizer", "lr", "global_batch"):
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return shlex.join(words)
