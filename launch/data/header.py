"""Whether the first line of a CSV file names the columns or is a sample."""

import re
from typing import NamedTuple

import numpy as np

from allgrad.ddp.errors import ConfigurationError

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
WHOLE = r"^[+-]?\d+$"
TRUTH = r"^([Tt]rue|TRUE|[Ff]alse|FALSE)$"
LABELS = ("label", "target", "class", "y")
MISSING = r"(?i)^(|\?|na|n/a|#n/a|<na>|[+-]?nan|null|none)$"  # in a column of numbers
REAL = rf"{NUMBER}|^[+-]?([Ii]nf|INF|[Ii]nfinity|INFINITY)$"
ABSENT = re.compile(rf"{MISSING}|{REAL}|^\W+$")  # no name of a column, nor the text of a label
YEARS = range(1900, 2101)


class Kind(NamedTuple):
    """What a column holds below its first line: "numbers", "truth", "text", or nothing that is not "missing".

    decimals: whether each number is written with a point or an exponent. texts: all that occur in a column of text.
    """

    what: str
    decimals: bool
    texts: frozenset[str]


def has_header(path, first: list[str], rest: list[Kind], names=()) -> tuple[bool, str | None]:
    """Whether the fields of the first line are names, and a remark if that is no more than likely.

    A field that is text is a name where the column below it has none. Where the label is text too, a first line with
    the text of another line is a sample. What is missing or infinite tells nothing. Numbers are names where they count
    up from 0 or 1, as those of pandas do, or are years, and the columns below are decimals; where those are whole
    numbers too, nothing tells, and the user has to: ConfigurationError. names: some that a header may have.
    """
    numbers = [f for f in first if re.match(NUMBER, f)]
    text = [j for j, f in enumerate(first) if not ABSENT.match(f) and not re.match(TRUTH, f)]
    above = [j for j in text if rest[j].what != "text"]
    decimals = any(kind.decimals for kind, f in zip(rest, first) if re.match(NUMBER, f))
    line = ",".join(first[:6]) + ",..." * (len(first) > 6)
    doubt = ConfigurationError(
        f"{path}: its first line, {line}, may name the columns or be a sample: write ?header=yes or ?header=no after "
        f"the path"
    )
    as_names = f"the first line, {line}, is taken as names of the columns; ?header=no if it is a sample"
    if not text:
        if first[0] == "" and numbers == [str(j) for j in range(len(first) - 1)]:
            return True, as_names  # the index of a pandas table, and its columns
        if len(numbers) < len(first) or not _count_up(numbers) or all(kind.what == "missing" for kind in rest):
            return False, None
    elif above:
        known = any(first[j] in rest[j].texts for j in text)
        if not known and (not numbers or {*names} & {*first} or _count_up(numbers) or _in_order(numbers)):
            return True, None
        raise ConfigurationError(
            f"{path}: its first line has {first[above[0]]!r} in column {above[0] + 1}, where the lines below have no "
            f"text, and {'a label of other lines' if known else 'numbers'} in others: correct the field, or write "
            f"?header=yes after the path if the line names the columns"
        )
    elif any(first[j] in rest[j].texts for j in text):
        return False, None
    elif len(text) == len(first) or {*names} & {*first} or any(first[j].lower() in LABELS for j in text):
        return True, None
    elif numbers and not _count_up(numbers):
        return False, f"the first line, {line}, is taken as a sample; ?header=yes if it names the columns"
    if decimals:
        return True, as_names
    raise doubt


def _count_up(numbers):
    """Whether these may be names: 0, 1, 2, or 1, 2, 3, or years in order, or five whole numbers and more one apart."""
    if not all(re.match(r"^\d+$", text) and len(text) < 10 for text in numbers):
        return False
    steps, start = np.diff([int(text) for text in numbers]), int(numbers[0])
    if start in YEARS and int(numbers[-1]) in YEARS and (steps > 0).all():
        return True
    return bool((steps == 1).all() and (start in (0, 1) or len(numbers) >= 5))


def _in_order(numbers):
    """Whether these may be names such as wavelengths: three numbers or more that rise, or fall."""
    steps = np.diff([float(text) for text in numbers])
    return len(numbers) >= 3 and bool((steps > 0).all() or (steps < 0).all())
