"""Files that pyarrow reads: types of columns, what is refused, and that pyarrow is named where it is not installed."""

import datetime
import decimal
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from allgrad.launch.data import load
from tests.launch.data.refusals import refuses
from tests.launch.data.written import csv_file, npz_file

N = 20
VALUES = [i * 7 % 11 for i in range(N)]


def written(tmp_path, column, y=None):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": column, "y": y or [i % 2 for i in range(N)]}), path)
    return path


@pytest.mark.parametrize("column", [
    *(pa.array(VALUES, t) for t in (pa.int8(), pa.uint8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64())),
    pa.array(np.array(VALUES, np.float16)),
    pa.array(VALUES, pa.int32()).dictionary_encode(),
    pa.array(map(decimal.Decimal, VALUES), pa.decimal128(9, 2)),
    pa.array(map(str, VALUES)),
    pa.array(map(str, VALUES), pa.large_string()),
], ids=lambda column: str(column.type))  # fmt: skip
def test_numbers_of_every_type_are_the_same_feature(tmp_path, column):
    expected = load(str(npz_file(tmp_path, x=VALUES, y=[i % 2 for i in range(N)])))
    assert load(str(written(tmp_path, column))).sha256 == expected.sha256


@pytest.mark.parametrize("labels", [
    pa.array([i % 3 - 1 for i in range(N)], pa.int16()),
    pa.array([f"{i % 3 - 1}.0" for i in range(N)]),
    pa.array(["cab"[(i + 1) % 3] for i in range(N)]).dictionary_encode(),
    pa.array([2**63 + i % 3 for i in range(N)], pa.uint64()),
], ids=str)  # fmt: skip
def test_labels_of_every_type_are_classes_in_sorted_order(tmp_path, labels):
    data = load(str(written(tmp_path, VALUES, labels)))
    names = sorted({*labels.to_pylist()}, key=lambda v: v if isinstance(v, int) else v.removesuffix(".0"))
    if labels.type == pa.string():
        names = [-1, 0, 1]
    assert data.table["labels"] == names and data.classes == 3
    found = np.bincount(np.concatenate([data.train_y, data.val_y]))
    values = labels.to_pylist() if labels.type != pa.string() else [int(float(v)) for v in labels.to_pylist()]
    assert found.tolist() == [values.count(name) for name in names]


def test_null_and_nan_are_missing(tmp_path):
    path = written(tmp_path, [None, float("nan"), *map(float, VALUES[2:])])
    refuses(path, "row 1, column a", "found nothing", "?missing=mean")
    assert load(f"{path}?missing=mean").remarks[0].startswith("2 missing values in 2 samples")
    flags = written(tmp_path, pa.array([None, *[i % 3 == 0 for i in range(1, N)]]))
    refuses(flags, "row 1, column a")
    assert load(f"{flags}?missing=drop").remarks[0] == "1 sample of 20 left out for missing values"


@pytest.mark.parametrize("column, fragments", [
    ([datetime.date(2020, 1, 1)] * N, ("column a holds dates or times (date32", "days since a fixed date")),
    ([datetime.datetime(2020, 1, 1)] * N, ("column a holds dates or times (timestamp",)),
    ([[1.0]] * N, ("column a has type list",)),
    ([b"x"] * N, ("column a has type binary",)),
    (["x"] * N, ("row 1, column a", "'x'", "get_dummies")),
    ([2**53 + 1] * N, ("row 1, column a", "9007199254740993", "float64 rounds")),
    ([float("inf")] * N, ("row 1, column a", "'inf'", "a finite number")),
    (pa.nulls(N), ("row 1, column a", "found nothing")),
], ids=lambda value: "")  # fmt: skip
def test_other_types_are_named(tmp_path, column, fragments):
    refuses(written(tmp_path, column), "t.parquet", *fragments)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"PAR1" * 9, b"ARROW1" * 9])
def test_files_of_another_kind_are_refused(tmp_path, kind, content):
    path = tmp_path / "t"
    path.write_bytes(content)
    refuses(f"{kind}:{path}", str(path), "is no whole", "write it anew")


def test_a_table_without_rows_or_with_one_column_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": pa.array([], pa.float64()), "y": pa.array([], pa.int64())}), path)
    refuses(path, "has no samples")
    pq.write_table(pa.table({"a": VALUES}), path)
    refuses(path, "has one column, a")
    pq.write_table(pa.table({"a": VALUES, "__index_level_0__": VALUES, "y": VALUES}), path)
    refuses(path, "__index_level_0__ is the index of a pandas table")


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_an_index_of_pandas_and_names_that_are_missing_or_twice_are_refused(tmp_path, kind):
    def refused(names, *fragments, index=()):
        meta = {b"pandas": json.dumps({"index_columns": [*index]}).encode()}
        data = pa.Table.from_arrays([pa.array(VALUES, pa.float64())] * len(names), names).replace_schema_metadata(meta)
        path = tmp_path / f"t.{kind}"
        (pq.write_table if kind == "parquet" else feather.write_feather)(data, str(path))
        refuses(path, *fragments)

    refused(["a", "b", "id"], "column id is the index of a pandas table", "reset_index()", index=["id"])
    refused(["a", "day", "id"], "column day is the index", index=[{"kind": "range"}, "day", "id"])
    refused(["a", "b", "a"], "two columns named a, 1 and 3")
    refused(["a", "", "y"], "column 2 has no name: name it")


def test_fields_may_be_long(tmp_path):
    text = "x" * 200_000
    path = csv_file(tmp_path, f"a,b,kind\n1,2,u\n2,{text},v\n3,4,u\n5,6,v\n")
    refuses(path, "line 3, column b", "xxx...'", "correct the field")


@pytest.mark.parametrize("ending", ["csv", "parquet", "feather"])
def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch, ending):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuses(tmp_path / f"t.{ending}", f"t.{ending}", "pyarrow, which is not installed", "pip install 'allgrad[data]'")
    assert load(str(npz_file(tmp_path, x=VALUES, y=[i % 2 for i in range(N)]))).classes == 2
