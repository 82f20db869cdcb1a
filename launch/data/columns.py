"""The columns of a file, as pyarrow has them: each as numbers, or as labels."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data.header import MISSING, REAL, TRUTH, WHOLE

MISSING_LABELS = ("", "?", "NA", "N/A", "#N/A", "<NA>", "nan", "NaN", "null", "NULL")  # "none" and "na" may be classes
EXACT = 2**53  # whole numbers up to this size are exact in float64
LONGEST_LABEL = 1000  # characters
DATE = re.compile(r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}.*)?$|^\d{1,2}:\d{2}(:\d{2}.*)?$")


@dataclass
class Frame:
    """The columns of a file: pyarrow's arrays of one length; texts of a CSV file are parsed by `numbers` and `labels`.

    names: one a column; counted from "1" if the file names none, and `named` is False.
    place(i): where sample i is: "line 7" of a text file, "row 5" (from 1) of others.
    """

    path: object
    names: list[str]
    columns: list
    named: bool
    place: Callable[[int], str]
    remarks: list[str] = field(default_factory=list)

    def at(self, i, j) -> str:
        name = self.names[j] if self.names[j].isprintable() else repr(self.names[j])
        return f"{self.path}, {self.place(i)}, column {name}"

    def seen(self, i, j) -> str:
        value = self.columns[j][int(i)].as_py()
        return f"{self.at(i, j)}: found {shown('' if value is None else value)}"


def pyarrow_for(path):
    """The module, or what to install."""
    try:
        import pyarrow
    except ImportError:
        raise ConfigurationError(
            f"{path}: CSV, Parquet and Arrow files are read by pyarrow, which is not installed: "
            f"pip install 'allgrad[data]', or give an NPZ file"
        ) from None
    return pyarrow


def first_line(error):
    return str(error).splitlines()[0].partition(". ")[0].removeprefix("CSV parse error: ")


def trimmed(column):
    """Texts without the spaces around them; quotes that follow a space are quotes too."""
    from pyarrow import compute

    if compute.any(compute.match_substring(column, '"')).as_py():
        column = compute.replace_substring_regex(column, r'^\s+"([^"]*)"\s*$', r"\1")
    return compute.utf8_trim_whitespace(column)


def numbers(frame: Frame, j: int) -> np.ndarray:
    """Column j as float64 (N,), nan where a value is missing; true and false are 1 and 0.

    Raises ConfigurationError for text, and for whole numbers that float64 cannot hold.
    """
    import pyarrow as pa
    from pyarrow import compute

    column = frame.columns[j]
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if pa.types.is_string(column.type):
        return _parsed(frame, j, trimmed(column))
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    whole = pa.types.is_integer(column.type)
    values = np.asarray(compute.fill_null(column, 0) if whole else column.to_numpy(zero_copy_only=False))
    found = values.astype(np.float64)
    if whole and column.type.bit_width == 64:
        for i in np.flatnonzero(np.abs(found) >= EXACT):
            if int(values[i]) != int(found[i]):
                raise _too_long(frame, i, j, values[i])
    if column.null_count:
        found[np.asarray(column.is_null())] = np.nan
    return found


def _parsed(frame, j, column):
    from pyarrow import compute

    column = compute.fill_null(column, "")
    found = as_numbers(column)
    if found is not None:
        return _exact(frame, j, column, found)
    missing = compute.match_substring_regex(column, MISSING)
    some = column.filter(compute.invert(missing))
    if len(some) and compute.all(compute.match_substring_regex(some, TRUTH)).as_py():
        found = np.asarray(compute.equal(compute.utf8_lower(column), "true")).astype(np.float64)
        found[np.asarray(missing)] = np.nan
        return found
    good = compute.or_(missing, compute.match_substring_regex(column, REAL))
    if not compute.all(good).as_py():
        bad = np.flatnonzero(~np.asarray(good))
        words = compute.unique(column.filter(compute.invert(good))).to_pylist()
        raise _no_number(frame, bad, j, words, len(some))
    found = np.full(len(column), np.nan)
    found[~np.asarray(missing)] = as_numbers(some)
    return _exact(frame, j, column, found)


def as_numbers(column) -> np.ndarray | None:
    """Texts as float64 (N,), None if one of them is no number; "nan" and "inf" are."""
    import pyarrow as pa

    try:
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None


def _exact(frame, j, column, found):
    for i in np.flatnonzero((np.abs(found) >= EXACT) & np.isfinite(found)):
        text = column[int(i)].as_py()
        if re.match(WHOLE, text) and int(text) != int(found[i]):
            raise _too_long(frame, i, j, text)
    return found


def _too_long(frame, i, j, seen):
    return ConfigurationError(
        f"{frame.at(i, j)}: found {seen}, a whole number beyond 2**53, which float64 rounds: subtract a constant from "
        f"the column, or leave it out if it only names the samples"
    )


def _no_number(frame, bad, j, words, present):
    """The error of texts where numbers were expected, in the samples `bad`; the column has so many fields present."""
    seen, i = words[0], int(bad[0])
    if DATE.match(seen):
        advice = "a date or a time is written as a number, such as days since a fixed date"
    elif re.match(r"^[$€£]?\s*[+-]?\d[\d.,_' ]*\s*\D{0,3}$", seen):
        advice = "write the number alone, with a decimal point, without a unit and without what parts thousands"
    elif (len(words) > 1 or len(bad) == present) and all(
        re.match(r"(?i)^(yes|no|y|n|t|f|true|false|on|off)$", word) for word in words
    ):
        advice = "write 1 for yes and 0 for no"
    elif 2 * len(bad) > present:
        advice = (
            "if the column is the label, name it by ?label=; else write its words as numbers (a column of 0 and 1 for "
            "each word, as pandas.get_dummies does) or leave it out"
        )
    elif i == 0 and not frame.named:
        advice = "write ?header=yes after the path if the line names the columns, else correct the field"
    else:
        advice = "correct the field or delete the line"
    return ConfigurationError(f"{frame.at(i, j)}: found {shown(seen)}, expected a number: {advice}")


def shown(value) -> str:
    """A value in quotes, shortened."""
    text = str(value)
    return "nothing" if not text else repr(text if len(text) <= 60 else f"{text[:57]}...")


def labels(frame: Frame, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Column j as labels (N,), and which of them are missing (N,).

    Whole numbers as int64 (uint64 if they need it), other numbers as float64, true and false as the texts "True" and
    "False", all else as text. Raises ConfigurationError if numbers and text are mixed.
    """
    import pyarrow as pa
    from pyarrow import compute

    column = frame.columns[j]
    if pa.types.is_null(column.type):
        return np.zeros(len(column)), np.ones(len(column), bool)
    if pa.types.is_boolean(column.type):
        return np.where(compute.fill_null(column, False), "True", "False"), np.asarray(column.is_null())
    if pa.types.is_integer(column.type):
        return np.asarray(compute.fill_null(column, 0)), np.asarray(column.is_null())
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False).astype(np.float64)
        return values, np.isnan(values)
    column = compute.fill_null(trimmed(column), "")
    missing = np.asarray(compute.is_in(column, pa.array(MISSING_LABELS)))
    texts = column.to_numpy(zero_copy_only=False)
    if missing.all():
        return np.zeros(len(column)), missing
    numeric = np.asarray(compute.match_substring_regex(column, REAL))
    present = np.flatnonzero(~missing)
    for i in present[numeric[present] != numeric[present[0]]][:1]:
        kind = "a number" if numeric[present[0]] else "text"
        raise ConfigurationError(
            f"{frame.at(i, j)}: found {shown(texts[i])}, expected {kind} as in {frame.place(present[0])}: correct the "
            f"field or delete the line"
        )
    if numeric[present[0]]:
        whole = np.asarray(compute.match_substring_regex(column, WHOLE))[present].all()
        return _numeric_labels(frame, j, np.where(missing, "0", texts), whole), missing
    for i in present[[len(texts[i]) > LONGEST_LABEL for i in present]][:1]:
        raise ConfigurationError(
            f"{frame.at(i, j)}: found {shown(texts[i])}, {len(texts[i]):,} characters, expected a label of at most "
            f"{LONGEST_LABEL:,}: name the column of the label by ?label="
        )
    if all(DATE.match(texts[i]) for i in present):
        raise ConfigurationError(
            f"{frame.at(present[0], j)}: found {shown(texts[present[0]])}, a date or a time, expected a label: name "
            f"another column by ?label=, or write it as a number, such as days since a fixed date"
        )
    found = np.array(["" if gone else text for gone, text in zip(missing, texts)])
    if all(re.match(TRUTH, text) for text in np.unique(found[present])):
        found = np.char.capitalize(found)
    return found, missing


def _numeric_labels(frame, j, texts, whole):
    if not whole:
        return texts.astype(np.float64)
    values = [int(text) for text in texts]
    spelt = {}
    for text, value in zip(texts, values):
        if spelt.setdefault(value, text) != text:
            frame.remarks.append(f"label {frame.names[j]}: {spelt[value]} and {text} are the same number, {value}")
            break
    for dtype in (np.int64, np.uint64):
        if np.iinfo(dtype).min <= min(values) and max(values) <= np.iinfo(dtype).max:
            return np.array(values, dtype)
    i = int(np.argmax(np.abs(np.array(values, float))))
    raise ConfigurationError(f"{frame.at(i, j)}: found {texts[i]}, expected a label of at most 64 bits: shorten it")
