"""What a study leaves to read: tables as CSV, figures, a short report.md, and report.html, one page that needs nothing.

Results are kept in the directory (`kept`), and the reports are those of all that it holds. The bytes of all files are a
function of the results and of the provenance that is passed in.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from allgrad.ddp.comm import speaks
from allgrad.ddp.files import replace
from allgrad.launch.study import cells, figures, page
from allgrad.launch.study.kept import FOLDER, Kept, folder_of, keep, read
from allgrad.launch.study.result import FAIL, INCONCLUSIVE, NONE, PASS, Result, Table

NO_FIGURES = "No figures: matplotlib draws them and is not here (pip install 'allgrad[study]')."
NO_PAGE = "No report.html: Jinja2 makes it and is not here (pip install 'allgrad[study]'); report.md says the same."
COLORS = {FAIL: "red", INCONCLUSIVE: "yellow", PASS: "green", NONE: "yellow"}


def write(
    results: Sequence[Result], out: Path, provenance: Mapping[str, Any] | None = None, title="", workload=""
) -> Path:
    """Add results to a directory: tables, figures and words of each, and report.md and report.html of all there.

    A result takes the place of an older one of its name, and ends the summary `all`, which no longer says what all of
    them say, unless it comes with a new one. Those of another workload than the first in the directory lie
    in a folder of their own, and have their own part of the page.

    provenance: what ran where: versions, host, commit, date. Returns the file to open: report.html, or report.md where
    Jinja2 is missing. Without matplotlib there are no figures; both are said in a sentence.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder = folder_of(out, workload)
    folder.mkdir(exist_ok=True)
    drawn = importlib.util.find_spec("matplotlib") is not None
    for result in results:
        result.save_tables(folder)
        for figure in result.figures * drawn:
            if figure.draw is not None:
                _draw(figure, folder / result.stem(figure))
        name = title or f"A study: {result.name}"
        keep(Kept(result, folder, workload, name, provenance or {}))
    if all(result.name != "all" for result in results):
        (folder / FOLDER / "all.json").unlink(missing_ok=True)
    return rebuild(out)


def _draw(figure, stem):
    """Write a figure's files; what is in the way of that costs the report this figure alone."""
    try:
        with figures.style():
            figures.save(figure.draw(), stem)
        figure.undrawn = ""
    except Exception as error:
        figure.undrawn = f"{type(error).__name__}: {error}".replace("\n", " ")
        for path in (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")):
            path.unlink(missing_ok=True)  # one of an older result


def rebuild(out: Path) -> Path:
    """Write report.md and report.html of the results that a directory holds; returns the one to open."""
    kept, remarks = read(out)
    if importlib.util.find_spec("matplotlib") is None:
        remarks.append(NO_FIGURES)
    if importlib.util.find_spec("jinja2") is None:
        replace(out / "report.md", _markdown(kept, [*remarks, NO_PAGE], out))
        return out / "report.md"
    replace(out / "report.md", _markdown(kept, remarks, out))
    replace(out / "report.html", page.render(kept, remarks))
    return out / "report.html"


# --- a terminal ------------------------------------------------------------------------------------------------------


def show(result: Result, out: Path | None = None):
    """Print the headline, the small table, the findings, a line a claim, what must be known, and where the files are.

    On the first rank only.
    """
    if not speaks():
        return
    lines = [(result.headline, "bold"), *((line, "bold") for line in result.advice.splitlines())]
    if result.summary is not None:
        lines += [("", ""), *((line, "") for line in aligned(result.summary)), ("", "")]
    lines += [(f"- {line}", "") for line in result.findings]
    if result.claims:
        lines.append((f"{cells.counts(result.verdicts)}", ""))
    for claim, verdict in cells.in_order(result.claims, result.verdicts):
        why = f"; {verdict.why}" * bool(verdict.why)
        said = f"{claim.claim}: {cells.measured(claim)}, accepted {cells.accepted(claim)} ({claim.source}){why}"
        lines.append((f"{verdict.word:<12}  {said}", COLORS[verdict.word]))
    lines += [(f"note: {note}", "") for note in result.notes]
    lines += [(undrawn, "yellow") for undrawn in map(page.undrawn, result.figures) if undrawn]
    if out is not None:
        files = [str(path) for name in ("report.html", "report.md") if (path := out / name).is_file()][:1]
        lines.append((f"files: {', '.join(files)}, tables and figures beside it", ""))
        lines += [(NO_PAGE, "")] * (importlib.util.find_spec("jinja2") is None)
    # Open MPI gives rank 0 a terminal even if its own output is a file.
    if not sys.stdout.isatty() or "OMPI_COMM_WORLD_RANK" in os.environ:
        return print("\n".join(line for line, _ in lines), flush=True)
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line, style in lines:
        console.print(Text(line, style), soft_wrap=True)


def aligned(table: Table) -> list[str]:
    """Lines of a table for a terminal: a head, the units, and a line a row."""
    columns, rows = cells.shown(table)
    units = [f"({column.unit})" * bool(column.unit) for column in columns]
    grid = [[column.head for column in columns], *([units] if any(units) else []), *(row.cells for row in rows)]
    widths = [max(map(len, column)) for column in zip(*grid)]
    return [
        "  ".join(
            cell.rjust(width) if column.numeric else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns)
        ).rstrip()
        for line in grid
    ]


# --- report.md -------------------------------------------------------------------------------------------------------


def _markdown(kept, remarks, out):
    lines = []
    for study in page.studies(kept):
        lines += [f"# {study.title}", "", f"**{study.lead.headline}**", ""]
        lines += [f"{line}\n" for line in study.lead.advice.splitlines()]
        if study.summary is not None:
            lines += [*_table(study.summary), ""]
        lines += [f"- {finding}" for finding in study.lead.findings]
        lines += ["", *(f"- {r.name}: {r.headline}" for r in study.results if r is not study.lead)]
        if chance := page.false_verdicts(study.kept):
            lines += ["", f"{chance} {page.VERDICT_MEANINGS}"]
        for one in study.kept:
            lines += _section(one, study, out)
    return "\n".join([*lines, *(f"\n{line}" for line in remarks), ""])


def _section(one, study, out):
    result = one.result
    lines = ["", f"## {result.name}", "", result.question, "", f"**{result.headline}**", ""]
    if result is not study.lead:
        lines += [f"- {finding}" for finding in result.findings]
    lines += [f"- {note}" for note in result.notes]
    pictures = [(figure, one.folder / f"{result.stem(figure)}.png") for figure in result.figures]
    lines += ["", *(f"![{_cell(f.caption)}]({path.relative_to(out)})" for f, path in pictures if path.is_file())]
    lines += [f"{undrawn}\n" for undrawn in map(page.undrawn, result.figures) if undrawn]
    if result.claims:
        lines += ["", f"{cells.counts(result.verdicts)}:", ""]
        lines += ["| verdict | claim | source | measured | accepted, and why | |", "|---|---|---|---|---|---|"]
    for claim, verdict in cells.in_order(result.claims, result.verdicts):
        bound = f"{cells.accepted(claim)}: {claim.bound}"
        words = verdict.word, claim.claim, claim.source, cells.measured(claim), bound, verdict.why
        lines.append(f"| {' | '.join(map(_cell, words))} |")
    return lines + ["", f"How to do it again: `{result.command}`"] * bool(result.command)


def _table(table):
    columns, rows = cells.shown(table)
    heads = [column.head + f" ({column.unit})" * bool(column.unit) for column in columns]
    grid = [heads, ["---:" if column.numeric else "---" for column in columns], *(row.cells for row in rows)]
    return [f"| {' | '.join(map(_cell, line))} |" for line in grid]


def _cell(text):
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
