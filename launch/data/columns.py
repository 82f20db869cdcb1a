"""Files of columns, read by pyarrow: CSV, Parquet and Arrow (Feather). Each column is numbers, or the label."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data.header import NUMBER, TRUTH, WHOLE, Kind, has_header

MISSING = r"(?i)^(|\?|na|n/a|#n/a|<na>|[+-]?nan|null|none)$"  # in a column of numbers
MISSING_LABELS = ("", "?", "NA", "N/A", "#N/A", "<NA>", "nan", "NaN", "null", "NULL")  # "none" and "na" may be classes
REAL = rf"{NUMBER}|^[+-]?([Ii]nf|INF|[Ii]nfinity|INFINITY)$"
DECIMAL_COMMA = r"^[+-]?\d+,\d+([eE][+-]?\d+)?$"
MAYBE_THOUSANDS = r"^[+-]?[1-9]\d{0,2},\d{3}$"
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
PANDAS_INDEX = r"^Unnamed: \d+$|^__index_level_\d+__$"
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


def read(path, kind: str, header=None, names=(), features=None) -> Frame:
    """The columns of a file of kind "csv:", "parquet:" or "arrow:".

    header: whether the first line of a CSV file is one: "yes", "no", or None for what its fields tell.
    names: some that are known to be in a header. features: how many columns a sample without a label has.
    """
    _pyarrow(path)
    try:
        frame = _csv(path, header, names, features) if kind == "csv:" else _arrow(path, kind)
    except OSError as error:
        reason = error.strerror or "it is damaged"
        raise ConfigurationError(f"{path} cannot be read ({reason}): give the path of a {kind[:-1]} file") from None
    for j, name in enumerate(frame.names) if frame.named else ():
        if name == "":
            raise ConfigurationError(
                f"{path}: column {j + 1} has no name in the header: name it, or delete it if it only numbers the "
                f"lines, as the index of a pandas table does (index=False)"
            )
        if re.match(PANDAS_INDEX, name):
            raise ConfigurationError(
                f"{path}: column {name} is the index of a pandas table, which only numbers the rows: delete it "
                f"(index=False), or give it another name"
            )
    return frame


def _pyarrow(path):
    """The module, or what to install."""
    try:
        import pyarrow
    except ImportError:
        raise ConfigurationError(
            f"{path}: CSV, Parquet and Arrow files are read by pyarrow, which is not installed: "
            f"pip install 'allgrad[data]', or give an NPZ file"
        ) from None
    return pyarrow


# --- Parquet and Arrow -----------------------------------------------------------------------------------------------


def _arrow(path, kind):
    pa = _pyarrow(path)
    try:
        if kind == "parquet:":
            from pyarrow import parquet

            with open(path, "rb") as file:
                table = parquet.read_table(file)
        else:
            table = _ipc(path)
    except pa.ArrowException as error:
        raise ConfigurationError(
            f"{path} is no whole {kind[:-1].capitalize()} file ({_first_line(error)}): write it anew"
        ) from None
    columns = [column.combine_chunks() for column in table.columns]
    types = pa.types
    for j, column in enumerate(columns):
        if types.is_dictionary(column.type):
            columns[j] = column = column.dictionary_decode()
        if types.is_decimal(column.type) or types.is_large_string(column.type) or types.is_string_view(column.type):
            columns[j] = column = column.cast(pa.string())
        if types.is_temporal(column.type):
            raise ConfigurationError(
                f"{path}: column {table.column_names[j]} holds dates or times ({column.type}): write it as numbers, "
                f"such as days since a fixed date, or leave it out"
            )
        known = types.is_string, types.is_integer, types.is_floating, types.is_boolean, types.is_null
        if not any(is_known(column.type) for is_known in known):
            raise ConfigurationError(
                f"{path}: column {table.column_names[j]} has type {column.type}: expected numbers, true and false, or "
                f"text"
            )
    if not table.num_rows or not columns:
        raise ConfigurationError(f"{path} has no samples: expected one a row")
    return Frame(path, list(table.column_names), columns, True, lambda i: f"row {i + 1}")


def _ipc(path):
    """A table of an Arrow file, a stream, or Feather's first version."""
    from pyarrow import feather, ipc

    with open(path, "rb") as file:
        start = file.read(6)
        file.seek(0)
        if start.startswith((b"ARROW1", b"FEA1")):
            return feather.read_table(file)
        return ipc.open_stream(file).read_all()


# --- CSV -------------------------------------------------------------------------------------------------------------


def _csv(path, header, names, features):
    pa = _pyarrow(path)
    from pyarrow import csv as reader

    content, before = _content(path)
    separator, first = _separator(path, content, before)
    content = content[len(before) :]
    if b'"' in content:
        _refuse_open_quotes(path, content, separator)
    width, wrong, blank = len(first), [], []

    def ragged(row):
        (wrong if row.text.strip() else blank).append(row)
        return "skip"

    try:
        table = reader.read_csv(
            io.BytesIO(content),
            reader.ReadOptions(
                use_threads=False, block_size=min(len(content) + 1, 2**30), autogenerate_column_names=True
            ),
            reader.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=ragged),
            reader.ConvertOptions(column_types={f"f{i}": pa.string() for i in range(width)}, strings_can_be_null=False),
        )
    except pa.ArrowException as error:
        raise ConfigurationError(f"{path} is not CSV in UTF-8 ({_first_line(error)}): save it as such") from None

    def line(record):
        return before.count(b"\n") + _line(content, record)

    if wrong:
        record = wrong[0].number - 1 - sum(row.number < wrong[0].number for row in blank)
        _refuse_ragged(
            path, line(record), wrong[0], len(wrong) == table.num_rows + len(wrong) - 1, SEPARATORS.get(separator)
        )
    columns = [_trimmed(column.combine_chunks()) for column in table.columns]
    if separator != ",":
        columns = _with_points(path, columns)
    if width == 1 and features != 1:
        raise ConfigurationError(
            f"{path} has one column: expected features and a label, separated by commas, semicolons, tabs or bars"
        )
    first = [column[0].as_py() for column in columns]
    rest = [column[1:] for column in columns]
    remarks = []
    if header is None:
        found, remark = has_header(path, first, [_kind(column) for column in rest], names)
        remarks += [remark] if remark else []
    else:
        found = header == "yes"
    if found and not len(rest[0]):
        raise ConfigurationError(f"{path} has a header and no samples: expected one sample a line below it")
    labels = first if found else [str(j + 1) for j in range(width)]
    return Frame(path, labels, rest if found else columns, found, lambda i: f"line {line(i + found)}", remarks)


def _content(path):
    """Bytes of the file, without a byte-order mark, ending in a line end; and Excel's line `sep=;` that begins them."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigurationError(f"{path} is a damaged gzip file ({error}): write it anew") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigurationError(
            f"{path} is not CSV in UTF-8: it is UTF-16, as of Excel's 'Unicode Text': save it as UTF-8"
        )
    content = content.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content:
        raise ConfigurationError(f"{path} is not CSV in UTF-8: it has a zero byte: is it another kind of file?")
    if not content.strip():
        raise ConfigurationError(f"{path} is empty: expected one sample a line, features and a label")
    content += b"" if content.endswith((b"\n", b"\r")) else b"\n"
    before = re.match(rb"(?:[ \t]*\r?\n)*\"?sep=.\"?[ \t]*\r?\n", content)
    return content, before.group() if before else b""


def _separator(path, content, before):
    """The separator, and the fields of the first line."""
    head = content[len(before) : len(before) + 2**22].decode("utf-8", "replace")
    limit = csv.field_size_limit(len(head) + 1)
    try:
        rows = {s: [*islice(_split(head, s), 20)] for s in SEPARATORS}
        if before:
            separator = before.decode().split("sep=")[1][0]
            rows[separator] = [*islice(_split(head, separator), 20)]
        else:
            # Where two kinds occur in most lines, as in 0,5;1,5;a, it is the one that leaves more numbers.
            usual = {s: sum(len(row) > 1 for row in found) * 2 > len(found) for s, found in rows.items()}
            usual = [s for s, often in usual.items() if often] or [","]
            separator = max(usual, key=lambda s: _share_of_numbers(rows[s], s))
    finally:
        csv.field_size_limit(limit)
    if not rows[separator]:
        raise ConfigurationError(f"{path} is empty: expected one sample a line, features and a label")
    return separator, rows[separator][0]


def _split(text, separator):
    """The rows of a text that are not blank, as far as Python's reader comes."""
    try:
        yield from (
            row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if "".join(row).strip()
        )
    except csv.Error:
        return


def _share_of_numbers(rows, separator):
    fields = [text.strip() for row in rows for text in row]
    comma = separator != ","
    return np.mean([bool(re.match(NUMBER, f) or (comma and re.match(DECIMAL_COMMA, f))) for f in fields])


def _refuse_open_quotes(path, content, separator):
    """Raise ConfigurationError for text after a closing quote, or an open one: pyarrow takes both into the field."""
    limit, reader = csv.field_size_limit(len(content)), None
    try:
        text = io.TextIOWrapper(io.BytesIO(content), "utf-8", newline="")
        reader = csv.reader(text, delimiter=separator, skipinitialspace=True, strict=True)
        for _ in reader:
            pass
    except (csv.Error, UnicodeDecodeError) as error:
        line = reader.line_num if reader else 0
        raise ConfigurationError(
            f"{path} is not CSV in UTF-8 below line {line} ({error}): save it as such, each quote in a field doubled"
        ) from None
    finally:
        csv.field_size_limit(limit)


def _refuse_ragged(path, line, row, every, separator):
    seen = (
        f"{path}, line {line}: found {row.actual_columns} fields, expected {row.expected_columns} as in the first line"
    )
    if every:
        raise ConfigurationError(f"{seen}: give each column a name in the header, and each sample all its fields")
    raise ConfigurationError(f"{seen}, separated by {separator}: correct or delete the line")


def _line(content, record):
    """The number, from 1, of the line where a record begins: blank lines are none, and quoted fields may be several."""
    found, quoted = -1, False
    for number, line in enumerate(re.split(rb"\r\n|\r|\n", content), 1):
        if not quoted and line.strip():
            found += 1
            if found == record:
                return number
        quoted ^= line.count(b'"') % 2 == 1
    return number


def _trimmed(column):
    """Without the spaces around each field; quotes that follow a space are quotes too."""
    from pyarrow import compute

    column = compute.replace_substring_regex(column, r'^\s+"([^"]*)"\s*$', r"\1")
    return compute.utf8_trim_whitespace(column)


def _with_points(path, columns):
    """The columns with their decimal commas as points, as in files whose fields are not separated by commas."""
    from pyarrow import compute

    with_comma = [compute.match_substring_regex(column, DECIMAL_COMMA) for column in columns]
    some = [column.filter(found) for column, found in zip(columns, with_comma)]
    first = next((j for j, found in enumerate(some) if len(found)), None)
    if first is None:
        return columns
    unsure = all(
        compute.all(compute.match_substring_regex(found, MAYBE_THOUSANDS)).as_py() for found in some if len(found)
    )
    point = r"^[+-]?\d*\.\d+([eE][+-]?\d+)?$"
    if unsure or any(compute.any(compute.match_substring_regex(column, point)).as_py() for column in columns):
        raise ConfigurationError(
            f"{path}: column {first + 1} has {some[first][0].as_py()!r}, whose comma may be a decimal comma or part "
            f"thousands: write decimals with a point, and leave out what parts thousands"
        )
    return [
        compute.if_else(found, compute.replace_substring(column, ",", "."), column)
        for column, found in zip(columns, with_comma)
    ]


def _kind(column):
    """What the texts of a column are, as `has_header` needs it."""
    from pyarrow import compute

    def every(pattern, some):
        return compute.all(compute.match_substring_regex(some, pattern)).as_py()

    some = column.filter(compute.invert(compute.match_substring_regex(column, MISSING)))
    if not len(some):
        return Kind("missing", False, frozenset())
    if every(REAL, some):
        whole = compute.any(compute.match_substring_regex(some, WHOLE)).as_py()
        return Kind("numbers", not whole, frozenset())
    if every(TRUTH, some):
        return Kind("truth", False, frozenset())
    return Kind("text", False, frozenset(compute.unique(some).to_pylist()))


# --- numbers and labels ----------------------------------------------------------------------------------------------


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
        return _parsed(frame, j, _trimmed(column))
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
    import pyarrow as pa
    from pyarrow import compute

    column = compute.fill_null(column, "")
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
        raise _no_number(frame, int(bad[0]), j, words, 2 * len(bad) > len(some))
    found = compute.if_else(missing, pa.scalar(None, pa.string()), column).cast(pa.float64())
    found = np.asarray(found.to_numpy(zero_copy_only=False), np.float64).copy()
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


def _no_number(frame, i, j, words, mostly):
    """The error of a text where a number was expected: the first of the words, which `mostly` fill the column."""
    seen = words[0]
    if DATE.match(seen):
        advice = "a date or a time is written as a number, such as days since a fixed date"
    elif re.match(r"^[$€£]?\s*[+-]?\d[\d.,_' ]*\s*\D{0,3}$", seen):
        advice = "write the number alone, with a decimal point, without a unit and without what parts thousands"
    elif all(re.match(r"(?i)^(yes|no|y|n|t|f|true|false|on|off)$", word) for word in words):
        advice = "write 1 for yes and 0 for no"
    elif mostly:
        advice = (
            "if the column is the label, name it by ?label=; else write its words as numbers (a column of 0 and 1 for "
            "each word, as pandas.get_dummies does) or leave it out"
        )
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
    column = compute.fill_null(_trimmed(column), "")
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
    for dtype in (np.int64, np.uint64):
        if np.iinfo(dtype).min <= min(values) and max(values) <= np.iinfo(dtype).max:
            return np.array(values, dtype)
    i = int(np.argmax(np.abs(np.array(values, float))))
    raise ConfigurationError(f"{frame.at(i, j)}: found {texts[i]}, expected a label of at most 64 bits: shorten it")


def _first_line(error):
    return str(error).splitlines()[0].removeprefix("CSV parse error: ")
