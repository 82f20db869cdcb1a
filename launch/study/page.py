"""report.html: one page that needs nothing else, made of templates/page.html.j2 and the figures' files.

What it says it has from results; it begins with the answer, and folds what only some will read.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import cells, figures
from allgrad.launch.study.kept import Kept
from allgrad.launch.study.result import ALPHA, NONE, Figure

TEMPLATES = Path(__file__).with_name("templates")
HOLM = (
    "Verdicts of one experiment are corrected together (Holm 1979): in at most "
    f"1 of {round(1 / ALPHA)} experiments is any of its verdicts wrong by chance."
)
VERDICT_MEANINGS = (
    "PASS: the numbers lie inside what is accepted, beyond chance. FAIL: outside, beyond chance: what the source says "
    "is not so here. INCONCLUSIVE: that cannot be told. NO VERDICT: too few seeds, or some that failed. Intervals are "
    "95 % intervals of each number by itself."
)
AROUND = r"<\?xml.*?\?>|<!--.*?-->|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<style.*?</style>"  # what a page needs not
MOST = 100  # rows of a table that the page shows: its file has all
INK = {  # colours of a figure: the variable of the style sheet that takes their place on the page
    "#ffffff": "figure", figures.INK: "ink", figures.GREY: "soft", figures.GRID: "line",
    **{color: f"series-{i}" for i, color in enumerate(figures.COLORS)},
}  # fmt: skip


def render(kept: Sequence[Kept], remarks: Sequence[str] = ()) -> str:
    """The page of all results; remarks: what is missing and why, a sentence each."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ModuleNotFoundError:
        raise ConfigurationError("Jinja2 makes report.html and is not here: pip install 'allgrad[study]'") from None
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"shown": cells.shown, "with_brackets": cells.with_brackets, "id": _id}
    environment.globals |= {
        "accepted": cells.accepted, "counts": cells.counts, "in_order": cells.in_order, "measured": cells.measured,
        "picture": Pictures(), "MOST": MOST, "HOLM": HOLM, "VERDICT_MEANINGS": VERDICT_MEANINGS, "isnan": math.isnan,
        "false_verdicts": false_verdicts, "undrawn": undrawn,
    }  # fmt: skip
    template, style = environment.get_template("page.html.j2"), (TEMPLATES / "style.css").read_text(encoding="utf-8")
    text = template.render(studies=studies(kept), remarks=remarks, style=style).lstrip()
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


class Study:
    """The experiments on one workload: one of them leads."""

    def __init__(self, kept: Sequence[Kept]):
        self.kept = kept
        self.results = [one.result for one in kept]
        self.workload, self.title = kept[0].workload, kept[0].title
        self.lead = self.results[0]
        self.pictured = next((one for one in kept if one.result.figures), None)
        self.figure = self.pictured.result.figures[0] if self.pictured else None
        self.summary = next((r.summary for r in self.results if r.summary is not None), None)
        self.provenance = _provenance(kept)


def studies(kept: Sequence[Kept]) -> list[Study]:
    """Results by workload, in the order in which they are given."""
    return [Study([*group]) for _, group in groupby(kept, key=lambda one: one.folder)]


def false_verdicts(kept: Sequence[Kept]) -> str:
    """How likely a wrong verdict is, in one experiment and in all these (Bonferroni); "" without verdicts."""
    judged = sum(any(v.word != NONE for v in one.result.verdicts) for one in kept)
    if judged < 2:
        return HOLM * judged
    chance = f"{min(1.0, ALPHA * judged):.0%}".replace("%", " %")
    return (
        f"{HOLM} In the {judged} experiments here that have verdicts, the chance of any wrong one is at most {chance}."
    )


def undrawn(figure: Figure) -> str:
    """What stands in the place of a figure that could not be drawn; "" if it could."""
    return f"The figure {figure.name} could not be drawn ({figure.undrawn})." * bool(figure.undrawn)


class Pictures:
    """Figures' SVGs to stand in one page: colours by its style sheet, names that are nobody else's, letters once."""

    def __init__(self):
        self.letters: dict[str, str] = {}  # of all figures so far: their shapes, by name

    def __call__(self, kept: Kept, figure: Figure) -> str:
        """The figure's SVG; "" if it has not been drawn."""
        stem = kept.result.stem(figure)
        path = kept.folder / f"{stem}.svg"
        if not path.is_file():
            return ""
        own = _id(f"{kept.apart} {stem}")
        svg = re.sub(AROUND, "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        svg = re.sub(r'<path id="([A-Za-z][\w-]*-[0-9a-f]+)" (d=.*?)/>', self._letter, svg, flags=re.DOTALL)
        used = {*re.findall(r'href="#([^"]+)"', svg), *re.findall(r"url\(#([^)]+)\)", svg)} - self.letters.keys()
        svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{own}-{m[1]}"' if m[1] in used else "", svg)
        svg = re.sub(r'(?:xlink:)?href="#([^"]+)"', lambda m: f'href="#{self._named(m[1], own)}"', svg)
        svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{own}-\1)", svg)
        svg = re.sub(r"#[0-9a-fA-F]{6}\b", lambda m: _color(m[0]), svg)
        svg = re.sub(r"(?:scale|matrix)\([^)]*\)|-?\d+\.\d{3,}", _shorter, svg)
        svg = re.sub(r"\s*<defs>\s*</defs>", "", svg)
        wide = re.search(r'width="([0-9.]+)pt"', svg)
        kind = " wide" if wide and float(wide[1]) / 72 > 1.2 * figures.COLUMN else ""
        head = f'<svg class="picture{kind}" role="img" aria-labelledby="{own}" viewBox='
        svg = re.sub(r"<svg [^>]*?viewBox=", head, svg, count=1)
        svg = re.sub(r' (?:xmlns|version)="[^"]*"', "", svg)
        return re.sub(r"\s*\n\s*", "\n", svg).replace("; ", ";").strip()

    def _letter(self, match):
        self.letters.setdefault(match[1], re.sub(r"\s*\n\s*", " ", f'<path id="l{len(self.letters)}" {match[2]}/>'))
        return ""

    def _named(self, name, own):
        return self.letters[name].split('"')[1] if name in self.letters else f"{own}-{name}"

    def shared(self) -> str:
        """What all figures so far have in common, to stand in the page once."""
        shapes = "\n".join(self.letters.values())
        return f'<svg class="unseen" aria-hidden="true"><defs>\n{shapes}\n</defs></svg>' * bool(shapes)


def _color(seen):
    name = INK.get(seen.lower()) or INK.get(seen.upper())
    return f"var(--{name})" if name else seen


def _shorter(match):
    """A length to a hundredth of a point; factors as they are."""
    seen = match[0]
    return seen if seen[-1] == ")" else f"{float(seen):.2f}".rstrip("0").rstrip(".")


def _id(name):
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name).strip("-")


def _provenance(kept):
    """Names of experiments, and where they ran: those that ran at the same place are said together."""
    where = {}
    for one in kept:
        words = tuple((key, _flat(value)) for key, value in one.provenance.items() if key != "command")
        where.setdefault(words, []).append(one.result.name)
    return [(", ".join(names), dict(words)) for words, names in where.items()]


def _flat(value: Any) -> str:
    """A value of the provenance as words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
