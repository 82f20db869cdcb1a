"""Parquet and Arrow (Feather) files."""

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data.columns import Frame, first_line, pyarrow_for


def read(path, kind) -> Frame:
    """The columns of a file of kind "parquet:" or "arrow:", which may be a stream or Feather."""
    pa = pyarrow_for(path)
    try:
        if kind == "parquet:":
            from pyarrow import parquet

            with open(path, "rb") as file:
                table = parquet.ParquetFile(file).read()
        else:
            table = _ipc(path)
    except pa.ArrowException as error:
        raise ConfigurationError(
            f"{path} is no whole {kind[:-1].capitalize()} file ({first_line(error)}): write it anew"
        ) from None
    for name in (table.schema.pandas_metadata or {}).get("index_columns", ()):
        if name in table.column_names:
            raise ConfigurationError(
                f"{path}: column {name} is the index of a pandas table: write the file without it (index=False), or "
                f"after reset_index() if it is a feature or the label"
            )
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
