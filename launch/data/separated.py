"""CSV files: their separator, quotes, header and decimal commas. pyarrow splits them into fields."""

import csv
import gzip
import io
import re
import zlib
from itertools import islice

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data.columns import Frame, as_numbers, first_line, pyarrow_for, trimmed
from allgrad.launch.data.header import ABSENT, MISSING, NUMBER, TRUTH, WHOLE, Kind, has_header

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
DECIMAL_COMMA = r"^[+-]?\d+,\d+([eE][+-]?\d+)?$"
MAYBE_THOUSANDS = r"^[+-]?[1-9]\d{0,2},\d{3}$"
BOTH = r"^[+-]?\d{1,3}(\.\d{3})+,\d+$"  # thousands parted by points, and a decimal comma


def read(path, header=None, names=(), features=None) -> Frame:
    """The columns of a CSV file in UTF-8, which may be gzipped: fields separated by one of SEPARATORS, quoted by ".

    header: whether the first line names the columns: "yes", "no", or None for what its fields tell. names: some that a
    header may have. features: how many columns a sample without a label has. Decimal commas are read where commas do
    not separate. Raises ConfigurationError.
    """
    pa = pyarrow_for(path)
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
        raise ConfigurationError(f"{path} is not CSV in UTF-8 ({first_line(error)}): save it as such") from None

    def line(record):
        return before.count(b"\n") + _line(content, record)

    if wrong:
        record = wrong[0].number - 1 - sum(row.number < wrong[0].number for row in blank)
        _refuse_ragged(
            path, line(record), wrong[0], len(wrong) == table.num_rows + len(wrong) - 1,
            SEPARATORS.get(separator, repr(separator)),
        )  # fmt: skip
    columns = [trimmed(column.combine_chunks()) for column in table.columns]
    if separator != ",":
        columns = _with_points(path, columns)
    if width == 1 and features != 1:
        raise ConfigurationError(
            f"{path} has one column: expected features and a label, separated by commas, semicolons, tabs or bars"
        )
    first = [column[0].as_py() for column in columns]
    rest = [column[1:] for column in columns]
    remarks, repeats = [], _repeats(first, rest, header)
    if repeats is not None:
        raise ConfigurationError(f"{path}, line {line(1 + repeats)} repeats the first line: delete it")
    if header is None:
        found, remark = has_header(path, first, [*map(_kind, rest, first)], names)
        remarks += [remark] if remark else []
    else:
        found = header == "yes"
    if found and not len(rest[0]):
        raise ConfigurationError(f"{path} has a header and no samples: expected one sample a line below it")
    labels = first if found else [str(j + 1) for j in range(width)]
    return Frame(path, labels, rest if found else columns, found, lambda i: f"line {line(i + found)}", remarks)


def _content(path):
    """Bytes of the file, without a byte-order mark, and its first lines if they are blank or Excel's `sep=;`."""
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
    before = re.match(rb"(?:[ \t]*\r?\n)*(?:\"?sep=.\"?[ \t]*\r?\n)?", content)
    return content, before.group() if before else b""


def _separator(path, content, before):
    """The separator, and the fields of the first line."""
    head = content[len(before) : len(before) + 2**22].decode("utf-8", "replace")
    limit = csv.field_size_limit(len(head) + 1)
    try:
        rows = {s: [*islice(_split(head, s), 20)] for s in SEPARATORS}
        usual = {s: sum(len(row) > 1 for row in found) * 2 > len(found) for s, found in rows.items()}
        usual = [s for s, often in usual.items() if often]
        if b"sep=" in before:
            separator = before.decode().split("sep=")[1][0]
            rows[separator] = [*islice(_split(head, separator), 20)]
            if usual and all(len(row) == 1 for row in rows[separator]):
                raise ConfigurationError(
                    f"{path} begins with sep={separator}, and no line below has that separator, but most have "
                    f"{SEPARATORS[usual[0]]}: delete or correct sep={separator}"
                )
        else:
            # Where two kinds occur in most lines, as in 0,5;1,5;a, it is the one that gives all lines as many fields,
            # and of those the one that leaves more numbers; commas, which may be decimal commas, come last.
            separator = max(
                usual or [","],
                key=lambda s: (len({*map(len, rows[s])}) == 1, _share_of_numbers(rows[s], s), s != ","),
            )
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
    return np.mean([bool(re.match(NUMBER, f) or (comma and re.match(f"{DECIMAL_COMMA}|{BOTH}", f))) for f in fields])


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
            f"{path} is not CSV in UTF-8 at line {line} ({error}): save it as such, each quote in a field doubled"
        ) from None
    finally:
        csv.field_size_limit(limit)


def _refuse_ragged(path, line, row, every, separator):
    seen = (
        f"{path}, line {line}: found {row.actual_columns} fields, expected {row.expected_columns} as in the first line"
    )
    advice = "correct or delete the line"
    if every:
        advice = "give each column a name in the header, and each sample all its fields"
    longer = row.actual_columns > row.expected_columns and not row.text.rstrip().endswith(",")
    if separator == "commas" and longer and re.search(r"\d,\d", row.text):
        advice += ", or, if numbers have decimal commas, write them with points"
    raise ConfigurationError(f"{seen}, separated by {separator}: {advice}")


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


def _with_points(path, columns):
    """The columns with their decimal commas as points, as in files whose fields are not separated by commas."""
    from pyarrow import compute

    for j, column in enumerate(columns):
        both = column.filter(compute.match_substring_regex(column, BOTH))
        if len(both):
            raise ConfigurationError(
                f"{path}: column {j + 1} has {both[0].as_py()!r}: write decimals with a point, and leave out what "
                f"parts thousands"
            )
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


def _repeats(first, rest, header):
    """The index of the first sample that is the header again, as where two files were put together; None if none is.

    A sample has text in its label alone, and a line of the same numbers may be one.
    """
    from pyarrow import compute

    text = [f for f in first if not ABSENT.match(f) and not re.match(TRUTH, f)]
    if len(text) < (1 if header == "yes" else 2):
        return None
    same = compute.equal(rest[0], first[0])
    for column, name in zip(rest[1:], first[1:]):
        if not compute.any(same).as_py():
            return None
        same = compute.and_(same, compute.equal(column, name))
    found = compute.index(same, True).as_py()
    return None if found < 0 else found


def _kind(column, first):
    """What the texts of a column are, as `has_header` needs it; `first` is the field above them."""
    from pyarrow import compute

    def every(pattern, some):
        return compute.all(compute.match_substring_regex(some, pattern)).as_py()

    values = as_numbers(column)
    if values is None or np.isnan(values).all():
        column = column.filter(compute.invert(compute.match_substring_regex(column, MISSING)))
        values = as_numbers(column)
    if not len(column):
        return Kind("missing", False, frozenset())
    if values is not None:
        decimals = (
            bool(re.match(NUMBER, first)) and not compute.any(compute.match_substring_regex(column, WHOLE)).as_py()
        )
        return Kind("numbers", decimals, frozenset())
    if every(TRUTH, column):
        return Kind("truth", False, frozenset())
    return Kind("text", False, frozenset(compute.unique(column).to_pylist()))
