"""What the trials of a search say: tables and sentences, and the command that trains the best of them."""

import itertools
import math
import shlex
from collections import Counter

import numpy as np

from allgrad.launch import data as datasets
from allgrad.launch.options import completed, defaults
from allgrad.launch.study import fit, runner
from allgrad.launch.study.experiments.tune import designs, drawing, importance
from allgrad.launch.study.result import Check, Result, Table

PLAIN = {"quasi": "quasi-random search", "random": "random search", "grid": "grid search",
         "halving": "successive halving"}  # fmt: skip


def summarize(setting, tried, levels, scores, finalists, report_seeds, eta) -> Result:
    space, searched = setting.space, [d for d in setting.space.values() if not d.fixed]
    found = [scores[0][k] for k in range(len(tried))]
    setting.positive = min(found) > 0.0
    compared = [math.log(score) if setting.positive and math.isfinite(score) else score for score in found]
    groups = {d.name: importance.bins(d, [trial.values.get(d.name) for trial in tried]) for d in searched}
    matter = {name: importance.importance(group, compared) for name, (group, _) in groups.items()}
    order = sorted(matter, key=lambda name: -np.nan_to_num(matter[name].share, nan=-1.0))
    pairs = _pairs(setting, tried, searched, compared)
    all_effects = importance.additive_share([group for group, _ in groups.values()], compared)
    fresh = {role: [setting.value(row) for row in tried[k].fresh] for role, k in finalists.items()}
    tables = [
        _trials_table(setting, tried), _finalists_table(setting, tried, finalists, fresh),
        _importance_table(setting, groups, compared, matter, order), _effects_table(setting, groups, compared, order),
        _pairs_table(setting, pairs),
    ]  # fmt: skip
    if len(levels) > 1:
        tables.append(_rungs_table(setting, levels, scores))
    checks = [
        _better(setting, fresh, role)
        for role in ("median trial", "runner-up") if role.split()[0] in fresh
    ]  # fmt: skip
    best = "runner-up" if any("runner-up" in c.claim and c.verdict == "FAIL" for c in checks) else "winner"
    line = command(setting.work, tried[finalists[best]].last[0])
    result = Result(
        "tune", f"Which hyper-parameters lead to the least {setting.measured} under an equal budget, and which matter?",
        _headline(setting, tried, levels, finalists, fresh, checks, matter, order, pairs), checks, tables,
        drawing.pictures(setting, tried, levels, scores, finalists, groups, compared, matter, order),
    )  # fmt: skip
    result.methods = _methods(setting, tried, levels, report_seeds, eta)
    result.notes = _notes(setting, tried, finalists, fresh, compared, matter, all_effects)
    spread = f"{_number(fit.gmean(_finite(fresh[best])))}"
    result.advice = f"Train with {_words(space, tried[finalists[best]])}" + (
        f": {line} (over fresh seeds, {setting.measured} {spread})" if line else f" ({setting.measured} {spread})"
    )
    return result


def _finite(values):
    return [v for v in values if math.isfinite(v)]


def _number(value):
    return "-" if not math.isfinite(value) else f"{value:.3g}"


def _words(space, trial):
    """What was searched, with the values of a trial."""
    named = {d.name: trial.values.get(d.name) for d in space.values() if not d.fixed}
    return ", ".join(f"{name} {v:.3g}" if isinstance(v, float) else f"{name} {v}" for name, v in named.items()
                     if v is not None)  # fmt: skip


def _better(setting, fresh, role):
    """The claim that the winner's mean over seeds is below another's, by their ratio or, of any sign, difference."""
    claim = f"the winner is better than the {role} on fresh seeds"
    ours, theirs = _finite(fresh["winner"]), _finite(fresh[role.split()[0]])
    if not (ours and theirs):
        value = 0.0 if ours else math.nan  # nan fails
        return Check(f"{claim} (ratio of the {setting.measured})", value, value, value, most=1.0)
    seeds = min(len(ours), len(theirs))
    if min(*ours, *theirs) > 0.0:
        return Check(f"{claim} (ratio of the {setting.measured})", *fit.ratio(ours, theirs), most=1.0, seeds=seeds)
    drawn = np.random.default_rng(0).integers(2**31, size=(2, fit.RESAMPLES, max(len(ours), len(theirs))))
    means = [np.array(v)[k[:, : len(v)] % len(v)].mean(axis=1) for v, k in zip((ours, theirs), drawn)]
    value = np.mean(ours) - np.mean(theirs)
    claim = f"{claim} (difference of the {setting.measured})"
    return Check(claim, float(value), *fit.interval(means[0] - means[1]), most=0.0, seeds=seeds)


def _interval(values):
    low, high = fit.mean_interval(values)
    return f"{_number(fit.gmean(_finite(values)))} [{_number(low)}, {_number(high)}]"


def _headline(setting, tried, levels, finalists, fresh, checks, matter, order, pairs):
    winner = tried[finalists["winner"]]
    budget = "up to " * (len(levels) > 1) + setting.equal
    said = (
        f"Of {len(tried)} trials ({PLAIN[setting.search]}, {budget}), the best has {_words(setting.space, winner)} "
        f"and comes to {setting.measured} {_interval(fresh['winner'])} on {len(fresh['winner'])} fresh seeds"
    )
    if "runner-up" in fresh:
        verdict = next(c.verdict for c in checks if "runner-up" in c.claim)
        words = {
            "PASS": "it is better than",
            "FAIL": "but fresh seeds prefer",
            "INCONCLUSIVE": "not to be told apart from",
        }
        said += f"; {words[verdict]} the runner-up ({_words(setting.space, tried[finalists['runner-up']])}: "
        said += f"{_interval(fresh['runner-up'])})"
    known = [name for name in order if matter[name].share > matter[name].chance]
    shares = ", ".join(
        f"{name} {100 * matter[name].share:.0f} % [{100 * matter[name].low:.0f}, {100 * matter[name].high:.0f}]"
        for name in known[:3]
    )
    said += f". Of the variance of {setting.compared}, alone: {shares}." if known else (
        ". No hyper-parameter alone explains more of the variance than chance would."
    )  # fmt: skip
    if pairs and pairs[0]["share"] > pairs[0]["chance"] and pairs[0]["beyond"] > 0.1:
        said += (" Together, {first} and {second} explain {0:.0f} % [{1:.0f}, {2:.0f}]: choose them together.").format(
            *(100 * pairs[0][key] for key in ("share", "ci_lo", "ci_hi")), **pairs[0]
        )
    failed = sum(not math.isfinite(setting.mean(trial.rows[0])) for trial in tried)
    return said + (f" {failed} trials failed." if failed else "")


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


def _finalists_table(setting, tried, finalists, fresh):
    rows = []
    for role, k in finalists.items():
        low, high = fit.mean_interval(fresh[role])
        edges = [d.name for d in setting.space.values() if d.at_edge(tried[k].values.get(d.name))]
        rows.append({
            "finalist": role, "trial": k, **tried[k].values, "searched": setting.mean(tried[k].last),
            "fresh": fit.gmean(_finite(fresh[role])), "ci_lo": low, "ci_hi": high, "n_seeds": len(fresh[role]),
            "n_fail": sum(not math.isfinite(v) for v in fresh[role]), "at_edge": ", ".join(edges),
            "command": command(setting.work, tried[k].last[0]) if tried[k].last[0]["config"]["steps"] == setting.budget
            else None,
        })  # fmt: skip
    return Table(
        "finalists",
        ["finalist", "trial", *setting.space, "searched", "fresh", "ci_lo", "ci_hi", "n_seeds", "n_fail", "at_edge",
         "command"], rows,
        f"The best two trials and the median one, again on fresh seeds with the whole budget, {setting.equal}.",
        {"searched": f"{setting.measured} in the search, mean over seeds: the best of many, which flatters it",
         "fresh": f"{setting.measured} on fresh seeds, geometric mean",
         "at_edge": "hyper-parameters whose value lies at the end of what was searched",
         "command": "trains it with the search's first seed"},
    )  # fmt: skip


def _importance_table(setting, groups, compared, matter, order):
    rows = []
    for name in order:
        found, rates = matter[name], [bad / n for _, n, bad, _ in _by_group(groups[name], compared) if n]
        rows.append({
            "name": name, "share": found.share, "ci_lo": found.low, "ci_hi": found.high, "chance": found.chance,
            "groups": found.groups, "n": found.n, "fail_least": min(rates, default=math.nan),
            "fail_most": max(rates, default=math.nan),
        })  # fmt: skip
    return Table(
        "importance",
        ["name", "share", "ci_lo", "ci_hi", "chance", "groups", "n", "fail_least", "fail_most"], rows,
        f"How much each hyper-parameter matters by itself: its share of the variance of {setting.compared} among "
        f"trials that succeeded{' at the first level' if setting.search == 'halving' else ''}.",
        {"name": "hyper-parameter", "share": "share of the variance between groups of its values (epsilon squared)",
         "chance": "what a hyper-parameter without effect exceeds in 1 of 20 cases",
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
            values = [math.exp(y) for y in good]
            low, high = fit.mean_interval(values)
            rows.append({
                "name": name, "values": label, "n": n, "fail": bad, "mean": fit.gmean(values), "ci_lo": low,
                "ci_hi": high, "best": min(values, default=math.nan),
            })  # fmt: skip
    return Table(
        "effects", ["name", "values", "n", "fail", "mean", "ci_lo", "ci_hi", "best"], rows,
        f"The {setting.measured} by groups of values of each hyper-parameter, over all values of the others.",
        {"n": "trials", "fail": "trials that failed", "mean": "geometric mean of those that did not",
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
        alone = [importance.importance(coarse[name], applies, n=2).share for name in (first, second)]
        rows.append({
            "first": first, "second": second, "share": found.share, "ci_lo": found.low, "ci_hi": found.high,
            "chance": found.chance, "beyond": found.share - sum(alone), "groups": found.groups, "n": found.n,
        })  # fmt: skip
    return sorted((row for row in rows if math.isfinite(row["beyond"])), key=lambda row: -row["beyond"])


def _pairs_table(setting, rows):
    return Table(
        "pairs", ["first", "second", "share", "ci_lo", "ci_hi", "chance", "beyond", "groups", "n"], rows,
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
        f"{designs.BEST} were confirmed with {designs.MORE_SEEDS} more seeds, which rank them; the best two and the "
        f"median trial were run again with seeds {', '.join(map(str, report_seeds))}; intervals are 95 %, "
        f"by {fit.RESAMPLES} resamples of the seeds.\n\n"
        f"Importance: trials are grouped by the value of one hyper-parameter, whatever the others are, and the share "
        f"of the variance of {setting.compared} between the groups is 1 - (SSW/(n-k))/(SST/(n-1)), Kelley's "
        f"epsilon squared: on average 0 without effect. Intervals: {fit.RESAMPLES} resamples of the trials, moved by "
        f"their mean excess; chance: the 95 % quantile of shuffled values. It is that of this space (a wider range "
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
