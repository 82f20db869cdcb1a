"""What a study leaves to read: tables as CSV, figures, a short report.md, and report.html, one page that needs nothing.

The bytes of all of them are a function of the results and of the provenance that is passed in.
"""

import base64
import html
import importlib.util
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allgrad.ddp.comm import speaks
from allgrad.launch.study import figures
from allgrad.launch.study.page import STYLE
from allgrad.launch.study.result import FAIL, INCONCLUSIVE, PASS, Check, Result, Table

VERDICTS = FAIL, INCONCLUSIVE, PASS  # in the order of reading
LONG = 12  # rows, from which on a table of the page is folded
FLAGS = "at_edge", "n_fail", "fail"  # columns that mark a row which must not be read over
LEGEND = (
    "Measured values have 95 % intervals. PASS: the whole interval lies in what is accepted; FAIL: outside, the "
    "phenomenon is not reproduced here; INCONCLUSIVE: across its edge, and how many seeds would decide."
)
NO_FIGURES = "No figures: matplotlib draws them and is not here (pip install 'allgrad[study]')."
MEANINGS = {
    "B": "global batch size (examples a step)",
    "b": "batch size of a rank (examples)",
    "W": "ranks",
    "k": "batch size over that of the base",
    "lr": "learning rate",
    "S": "steps to the target, geometric mean over seeds",
    "S_ideal": "steps if k times the batch took 1/k of the steps",
    "E": "examples to the target, B S",
    "eff": "efficiency of this batch size: fewest examples of all batch sizes tried over E",
    "epochs": "passes over the training samples to the target",
    "slope": "d ln S / d ln B from the batch size before; -1 is perfect scaling",
    "region": "perfect: slope below -0.9; flat: above -0.1; diminishing: between",
    "S_min": "steps to the target in the limit of a large batch",
    "B_crit": "critical batch size: there a run takes twice S_min and twice the fewest examples",
    "B_simple": "noise scale: trace of the gradient's covariance over its squared norm (examples)",
    "B_noise": "noise scale weighted by the Hessian (examples)",
    "ci_lo": "95 % interval, from",
    "ci_hi": "95 % interval, to",
    "n_seeds": "seeds",
    "n_fail": "seeds that failed",
    "fail": "seeds that failed",
    "at_edge": "the best learning rate is the first or last that was tried",
    "n_trials": "configurations tried by the tuner",
    "nlr": "learning rates tried by the tuner",
    "rmse_log": "root mean square of the fit's residuals in ln S",
    "t_step": "seconds a step",
}


def write(results: Sequence[Result], out: Path, provenance: Mapping[str, Any] | None = None, title="") -> Path:
    """Write NAME.csv, NAME.png, NAME.svg of all results, report.md and report.html into a directory; returns the page.

    provenance: what ran where: versions, host, commit, date. Without matplotlib there are no figures, and a sentence.
    """
    out.mkdir(parents=True, exist_ok=True)
    for result in results:
        result.save_tables(out)
    if drawn := importlib.util.find_spec("matplotlib") is not None:
        for result in results:
            for figure in result.figures:
                with figures.style():
                    figures.save(figure.draw(), out / result.stem(figure))
    title = title or ("A study: " + ", ".join(result.name for result in results))
    (out / "report.md").write_text(_markdown(results, title, drawn), encoding="utf-8")
    page = out / "report.html"
    page.write_text(_page(results, out, provenance or {}, title, drawn), encoding="utf-8")
    return page


def show(result: Result, out: Path | None = None):
    """Print the headline, a line a check, what must be known, and where the files are; on the first rank only."""
    if not speaks():
        return
    lines = [(result.headline, "bold")]
    for check in _in_order(result.checks):
        seen = f"{measured(check)}, accepted {accepted(check)}{_undecided(check, '; ')}"
        lines.append((f"{check.verdict:<12}  {check.claim}: {seen}", _colour(check.verdict)))
    lines += [(f"note: {note}", "") for note in result.notes]
    lines += [(result.advice, "bold")] * bool(result.advice)
    if out is not None:
        files = ["report.html", *(f"{result.stem(table)}.csv" for table in result.tables)]
        lines.append(("files: " + ", ".join(str(out / file) for file in files), ""))
    # Open MPI gives rank 0 a terminal even if its own output is a file.
    if not sys.stdout.isatty() or "OMPI_COMM_WORLD_RANK" in os.environ:
        return print("\n".join(line for line, _ in lines), flush=True)
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line, style in lines:
        console.print(Text(line, style), soft_wrap=True)


def number(value) -> str:
    """A cell as a person reads it: four digits, thousands apart, words as they are, a dash for nothing."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= 1e9 or 0 < abs(value) < 1e-4:
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return number(round(value)) if abs(value) >= 1000 else f"{value:.4g}"


def measured(check: Check) -> str:
    """The value with its interval, rounded to two digits of the interval's width, but on its side of every limit."""
    numbers = [check.value, check.low, check.high]
    limits = [limit for limit in (check.least, check.most) if math.isfinite(limit)]
    if math.isnan(check.value):
        return "undefined"
    if not all(map(math.isfinite, numbers)):
        return number(check.value) + (f" [{number(check.low)}, {number(check.high)}]" if check.seeds else "")
    spread = (check.high - check.low) / 2 or abs(check.value) / 10
    digits = max(0, 1 - math.floor(math.log10(spread))) if spread else 0
    sides = [[(x > limit) - (x < limit) for limit in limits] for x in numbers]
    while [[(r > t) - (r < t) for t in limits] for r in (round(x, digits) for x in numbers)] != sides and digits < 15:
        digits += 1
    value, low, high = (f"{x:,.{digits}f}" for x in numbers)
    return value if check.low == check.high else f"{value} [{low}, {high}]"


def accepted(check: Check) -> str:
    """The accepted interval in words."""
    least, most = math.isfinite(check.least), math.isfinite(check.most)
    if least and most:
        return f"{number(check.least)} to {number(check.most)}"
    return f"at least {number(check.least)}" if least else f"at most {number(check.most)}" if most else "any"


def _undecided(check, before=""):
    if check.verdict != INCONCLUSIVE:
        return ""
    had = f"undecided with {check.seeds} {check.seed_kind}" if check.seeds else "undecided"
    if not check.seeds and check.low < check.high:
        had += "; its spread is known over blocks of one run only"
    return before + had + (f", about {needed:,} would decide" if (needed := check.seeds_needed) else "")


def _in_order(checks):
    return sorted(checks, key=lambda check: VERDICTS.index(check.verdict))


def _all_checks(results):
    pairs = [(result, check) for result in results for check in result.checks]
    return sorted(pairs, key=lambda pair: VERDICTS.index(pair[1].verdict))


def _colour(verdict):
    return {FAIL: "red", INCONCLUSIVE: "yellow", PASS: "green"}[verdict]


def _counts(checks):
    """ "12 checks: 1 FAIL, 2 INCONCLUSIVE, 9 PASS"."""
    checks = list(checks)
    counts = {verdict: sum(check.verdict == verdict for check in checks) for verdict in VERDICTS}
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return f"{len(checks)} check{'s' * (len(checks) != 1)}" + f": {listed}" * bool(listed)


def _markdown(results, title, drawn):
    def cell(text):
        return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")

    lines = [f"# {title}", "", *(f"**{line}**\n" for result in results for line in result.advice.splitlines())]
    lines += [f"- {result.name}: {result.headline}" for result in results]
    lines += ["", f"{_counts(check for _, check in _all_checks(results))}. {LEGEND}", ""]
    lines += ["| verdict | experiment | check | measured | accepted | |", "|---|---|---|---|---|---|"]
    for result, check in _all_checks(results):
        words = check.verdict, result.name, check.claim, measured(check), accepted(check), _undecided(check)
        lines.append(f"| {' | '.join(map(cell, words))} |")
    for result in results:
        lines += ["", f"## {result.name}", "", *(f"- {note}" for note in result.notes)]
        if drawn:
            lines += ["", *(f"![{cell(f.caption)}]({result.stem(f)}.png)" for f in result.figures)]
        lines += ["", f"How to reproduce it: `{result.command}`"] * bool(result.command)
    return "\n".join([*lines, *([] if drawn else ["", NO_FIGURES]), ""])


def _page(results, out, provenance, title, drawn):
    pairs = _all_checks(results)
    advice = "\n".join(f"<p>{_text(line)}</p>" for result in results for line in result.advice.splitlines())
    answers = "\n".join(
        f'<li><a href="#{_id(result.name)}">{_text(result.name)}</a> {_worst(result)} {_text(result.headline)}</li>'
        for result in results
    )
    rows = "\n".join(_check_row(result, check) for result, check in pairs)
    head = "".join(f"<th>{word}</th>" for word in ("verdict", "experiment", "check", "measured", "accepted"))
    ran = "".join(f"<dt>{_text(key)}</dt><dd>{_text(_flat(value))}</dd>" for key, value in provenance.items())
    parts = [
        f"<header><h1>{_text(title)}</h1></header>",
        f'<section class="answer"><h2>The answer</h2>{advice}<ul>\n{answers}\n</ul></section>',
        f"<section><h2>Checks against the literature</h2><p>{_counts(check for _, check in pairs)}. {LEGEND}</p>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div></section>'
        * bool(pairs),
        f"<p>{_text(NO_FIGURES)}</p>" * (not drawn),
        *(_experiment(result, out, drawn) for result in results),
        f"<section><h2>Provenance</h2><dl>{ran}</dl></section>" * bool(ran),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _check_row(result, check):
    doubt = f'<br><span class="file">{_text(_undecided(check))}</span>' * (check.verdict == INCONCLUSIVE)
    numbers = "".join(f'<td class="w">{_text(words)}</td>' for words in (measured(check), accepted(check)))
    named = f'<td class="w">{_text(result.name)}</td><td>{_text(check.claim)}{doubt}</td>'
    return f"<tr><td>{_badge(check.verdict)}</td>{named}{numbers}</tr>"


def _experiment(result, out, drawn):
    pictures = "\n".join(_picture(figure, out / f"{result.stem(figure)}.svg") for figure in result.figures * drawn)
    notes = "".join(f"<li>{_text(note)}</li>" for note in result.notes)
    methods = "".join(f"<p>{_text(part)}</p>" for part in result.methods.split("\n\n") if part.strip())
    parts = [
        f"<h2>{_text(result.name)}</h2>",
        f'<p class="question">{_text(result.question)}</p>',
        f"<p><strong>{_text(result.headline)}</strong></p>",
        pictures,
        f"<h3>What must be known</h3><ul>{notes}</ul>" * bool(notes),
        *(_table(table, f"{result.stem(table)}.csv") for table in result.tables),
        f"<h3>Methods</h3>{methods}" * bool(methods),
        f"<h3>How to reproduce it</h3><pre><code>{_text(result.command)}</code></pre>" * bool(result.command),
    ]
    return f'<section id="{_id(result.name)}">' + "\n".join(part for part in parts if part) + "</section>"


def _picture(figure, path):
    """A figure half as large again as in print, if there is room: its own width stands at the head of the file."""
    image = path.read_bytes()
    width = re.search(rb'width="([0-9.]+)pt"', image)
    size = f' width="{round(float(width[1]) / 72 * 96 * 1.5)}"' if width else ""
    source = f"data:image/svg+xml;base64,{base64.b64encode(image).decode()}"
    words = f'{_text(figure.caption)} <span class="file">{_text(path.name)}</span>'
    return f'<figure><img src="{source}" alt="{_text(figure.caption)}"{size}><figcaption>{words}</figcaption></figure>'


def _table(table: Table, file):
    numeric = {c for c in table.columns if any(isinstance(row.get(c), int | float | np.number) for row in table.rows)}

    def cells(tag, words):
        kinds = (' class="n"' if column in numeric else "" for column in table.columns)
        return "".join(f"<{tag}{kind}>{_text(word)}</{tag}>" for kind, word in zip(kinds, words))

    flagged = [any(row.get(flag) for flag in FLAGS) for row in table.rows]
    opening = ["<tr class='flag'>" if flag else "<tr>" for flag in flagged]
    rows = "\n".join(
        f"{tr}{cells('td', (number(row.get(column)) for column in table.columns))}</tr>"
        for tr, row in zip(opening, table.rows)
    )
    head = cells("th", table.columns)
    meanings = {**MEANINGS, **table.meanings}
    known = [(column, meanings[column]) for column in table.columns if column in meanings]
    words = "".join(f"<dt>{_text(column)}</dt><dd>{_text(meaning)}</dd>" for column, meaning in known)
    count = f"{len(table.rows)} row{'s' * (len(table.rows) != 1)}"
    marked = f", {sum(flagged)} marked: a failure, or a best value at the edge of its grid" * any(flagged)
    return (
        f"<details{' open' * (len(table.rows) < LONG)}><summary>{_text(table.caption or table.name)} "
        f'<span class="file">{_text(file)}: {count}{marked}</span></summary>'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>'
        + f"<dl>{words}</dl>" * bool(words)
        + "</details>"
    )


def _worst(result):
    """The worst verdict, and how many checks have it; nothing if there are no checks."""
    verdicts = [check.verdict for check in _in_order(result.checks)]
    worst = verdicts[:1]
    return "".join(_badge(v, f"{verdicts.count(v)} of {len(verdicts)} " if v != PASS else "") for v in worst)


def _badge(verdict, before=""):
    return f'<span class="badge {verdict.lower()}">{before}{verdict}</span>'


def _text(value):
    return html.escape(str(value))


def _id(name):
    return "study-" + "".join(letter if letter.isalnum() else "-" for letter in name)


def _flat(value):
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
