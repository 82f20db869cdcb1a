"""Tables: every spelling of the same table, its parts, what labels mean, what is missing, and every refusal."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from allgrad.launch.data import load, tables
from tests.launch.data.refusals import refuses
from tests.launch.data.written import FIRST, KINDS, LAST, NAMED, NAMED_LAST, SAMPLES, csv_file, table

SAME = {  # all of these are the same table
    "no header": table(LAST),
    "header": table(LAST, ["a", "b", "kind"]),
    "class names": table(NAMED_LAST, ["a", "b", "kind"]),
    "class names without a header": table(NAMED_LAST),
    "label first": table(FIRST, ["Label", "a", "b"]),
    "y in the middle": table([[a, k, b] for (a, b), k in zip(SAMPLES, KINDS)], ["a", "Y", "b"]),
    "numbers as column names": table(NAMED_LAST, [0, 1, "CLASS"]),
    "numbers as column names, other label": table(NAMED_LAST, [0, 1, "kind"]),
    "arbitrary integers": table([[*x, [-40, 7, 1000][k]] for x, k in zip(SAMPLES, KINDS)]),
    "integers with a point": table([[*x, f"{k}.0"] for x, k in zip(SAMPLES, KINDS)]),
    "blank lines": " \n\n" + table(LAST, ["a", "b", "kind"], end="\n \n") + "\n",
    "spaces": table(NAMED_LAST, ["a", " b ", "target "], separator=" , "),
    "quotes": table([[f'"{f}"' for f in row] for row in NAMED_LAST], ['"a"', '"b,c"', '"kind"']),
    "line ends of Windows and a byte order mark": "\ufeff" + table(LAST, ["a", "b", "kind"], end="\r\n"),
    "no line end": table(LAST)[:-1],
    "semicolons": table(LAST, ["a", "b", "kind"], separator=";"),
    "decimal commas": table([[a, str(b).replace(".", ","), k] for (a, b), k in zip(SAMPLES, KINDS)], separator=";"),
    "tabs": table(NAMED_LAST, ["a", "b", "kind"], separator="\t"),
    "bars": table(NAMED_LAST, separator="|"),
    "Excel's first line": "sep=;\r\n" + table(LAST, ["a", "b", "kind"], separator=";"),
    "gzip": gzip.compress(table(LAST).encode()),
    "semicolons in the labels": table([[*x, f"{name};"] for *x, name in NAMED_LAST], ["a", "b", "kind"]),
    "commas and line ends in the labels": table([[*x, f'"{name},\n""x"""'] for *x, name in NAMED_LAST]),
    "labels beyond 2**53": table([[*x, 2**53 + k] for *x, k in LAST]),
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_csv_spellings_give_the_same_data(tmp_path, text):
    data = load(f"csv:{csv_file(tmp_path, text)}")
    assert (data.name, data.features, data.classes) == ("table.csv", (2,), 3)
    assert (data.train_x.dtype, data.train_y.dtype, len(data.train_y), len(data.val_y)) == (np.float32, np.int64, 16, 4)
    assert data.sha256 == load(f"csv:{csv_file(tmp_path, SAME['no header'], 'other.csv')}").sha256


def test_csv_columns_are_standardised_by_the_training_part(tmp_path):
    data = load(str(csv_file(tmp_path, table(LAST))), seed=3)
    order = tables.random.permutation(20, 3, "split")
    by_class = sorted(order, key=lambda i: KINDS[i])
    held = sorted(by_class[2::5])
    train = [i for i in range(20) if i not in held]
    x = np.array(SAMPLES, float)
    mean, std = x[train].mean(axis=0), x[train].std(axis=0)
    np.testing.assert_array_equal(data.train_x, ((x[train] - mean) / std).astype(np.float32))
    np.testing.assert_array_equal(data.val_x, ((x[held] - mean) / std).astype(np.float32))
    np.testing.assert_array_equal(data.train_y, np.array(KINDS)[train])
    np.testing.assert_array_equal(data.val_y, np.array(KINDS)[held])


def test_a_constant_column_becomes_zeros(tmp_path):
    data = load(str(csv_file(tmp_path, table([[0.1, i, i % 2] for i in range(30)]))))
    assert np.abs(data.train_x[:, 0]).max() < 1e-6 and np.abs(data.val_x[:, 0]).max() < 1e-6


@pytest.mark.parametrize("size", [1e-100, 1e-160, 1e-200, 1e-300])
def test_features_whose_squares_underflow_are_standardised(tmp_path, size):
    """In units of the size the same table, but for the rounding of its decimals."""
    found, expected = (
        load(str(csv_file(tmp_path, table([[a, b * unit, k] for (a, b), k in zip(SAMPLES, KINDS)]), name)))
        for unit, name in ((size, "small.csv"), (1.0, "one.csv"))
    )
    np.testing.assert_allclose(found.train_x, expected.train_x, rtol=1e-6, atol=1e-6)
    assert found.table["std"][1] == pytest.approx(expected.table["std"][1] * size, rel=1e-12, abs=0)


def test_decimal_commas_and_text_without_a_header_are_separated_by_semicolons(tmp_path):
    comma, point = (table([[f"{i}{mark}5", "uv"[i % 2]] for i in range(20)], separator=";") for mark in ",.")
    assert load(str(csv_file(tmp_path, comma))).sha256 == load(str(csv_file(tmp_path, point, "point.csv"))).sha256


def test_labels_that_are_one_number_in_two_spellings_are_told(tmp_path):
    path = csv_file(tmp_path, table([[i, ["01", "1", "02"][i % 3]] for i in range(30)], ["a", "code"]))
    data = load(str(path))
    assert data.classes == 2 and data.remarks[0] == "label code: 01 and 1 are the same number, 1"


def test_numbers_that_are_not_integers_are_a_regression_target(tmp_path):
    prices = [i / 4 for i in range(20)]
    data = load(f"csv:{csv_file(tmp_path, table([[*x, p] for x, p in zip(SAMPLES, prices)]))}")
    assert (data.classes, data.outputs, data.train_y.dtype, data.train_y.shape) == (None, 1, np.float32, (16, 1))
    mean, std = data.target_scale
    assert data.table["target"] == {"mean": mean.tolist(), "std": std.tolist()}
    np.testing.assert_allclose([data.train_y.mean(dtype=float), data.train_y.std(dtype=float)], [0, 1], atol=1e-6)
    found = np.concatenate([data.train_y, data.val_y])[:, 0] * std + mean
    np.testing.assert_allclose(np.sort(found), prices, atol=1e-6)


def test_the_label_column_can_be_named(tmp_path):
    path = csv_file(tmp_path, table([[i, k, f"{i}.5"] for i, k in enumerate(KINDS)], ["i", "kind", "y"]))
    assert load(f"csv:{path}").classes is None
    assert load(f"csv:{path}?label=kind").classes == 3
    assert load(f"{path}?label=kind").sha256 == load(f"csv:{path}?label=kind").sha256
    headless = csv_file(tmp_path, table([[k, *x] for x, k in zip(SAMPLES, KINDS)]), "headless.csv")
    assert load(f"csv:{headless}?label=1").sha256 == load(str(csv_file(tmp_path, SAME["no header"]))).sha256


@pytest.mark.parametrize("seed", range(3))
def test_the_split_is_stratified_complete_and_chosen_by_the_seed(tmp_path, seed):
    labels = ["a"] * 50 + ["b"] * 23 + ["c"] * 4 + ["d"]
    path = csv_file(tmp_path, table([[i, label] for i, label in enumerate(labels)], ["i", "label"]))
    data, again, other = load(str(path), seed=seed), load(str(path), seed=seed), load(str(path), seed=seed + 1)
    assert data.sha256 == again.sha256 != other.sha256
    counts, total = np.bincount(data.val_y, minlength=4), np.array([50, 23, 4, 1])
    assert (counts >= total // 5).all() and (counts <= -(-total // 5)).all()
    assert counts[3] == 0 and counts.sum() == 15
    assert (np.bincount(data.train_y) + counts == total).all()


@pytest.mark.parametrize("samples, held", [(2, 1), (3, 1), (4, 1), (7, 1), (8, 2), (10, 2), (100, 20)])
def test_a_fifth_is_held_out_and_at_least_one(tmp_path, samples, held):
    data = load(str(csv_file(tmp_path, table([[i, i + 0.5] for i in range(samples)]))))
    assert (len(data.train_y), len(data.val_y)) == (samples - held, held)


ROWS = "a,b,kind\n1,2,0\n3,4,1\n5,6,0\n7,8,1\n"


BAD_CSV = {  # content, option, what the error says
    "empty": ("", "", "is empty"),
    "only blank lines": ("\n \n", "", "is empty"),
    "only a header": ("a,b,label\n", "", "header and no samples"),
    "one column": ("1\n2\n", "", "one column", "separated by commas"),
    "spaces": ("a b c\n1 2 0\n", "", "one column", "separated by commas, semicolons, tabs or bars"),
    "one sample": ("1,0.5\n", "", "one sample", "at least two"),
    "one class": ("1,0\n2,0\n", "", "every label is 0"),
    "identifiers as labels": ("1,10\n2,11\n3,12\n", "", "no label of 3 occurs twice"),
    "text in a feature": (ROWS + "9,ten,0\n", "", "line 6, column b", "'ten'", "a number"),
    "missing feature": (ROWS + "9,,0\n", "", "line 6, column b", "found nothing", "a number"),
    "missing feature in the first line": ("1,,0\n2,3,0\n4,5,1\n", "", "line 1, column 2", "found nothing"),
    "NaN in a feature": (ROWS + "\nnan,1,0\n", "", "line 7, column a", "'nan'", "finite"),
    "infinity in a feature": (ROWS + "9,-inf,0\n", "", "line 6, column b", "'-inf'", "finite"),
    "NaN in the labels": (ROWS + "9,1,nan\n", "", "line 6, column kind", "'nan'", "a label", "?missing=drop"),
    "missing label": (ROWS + "9,1,\n", "", "line 6, column kind", "found nothing", "a label"),
    "text among numbers": (ROWS + "9,1,cat\n", "", "line 6, column kind", "'cat'", "a number as in line 2"),
    "number among text": ("a,b\n1,x\n2,x\n3,4\n", "", "line 4, column b", "'4'", "text as in line 2"),
    "ragged, short": (ROWS + "9,1\n", "", "line 6", "2 fields", "expected 3"),
    "ragged, long": (ROWS + "9,1,0,0\n", "", "line 6", "4 fields", "expected 3"),
    "two label columns": ("y,a,class\n1,2,0\n", "", "2 columns named y, class", "?label=NAME"),
    "unknown label": (ROWS, "?label=price", "no column named 'price'", "a, b, kind"),
    "empty label": (ROWS, "?label=", "no column named ''", "a, b, kind"),
    "a name twice": ("a,b,a\n1,2,0\n", "?label=a", "two columns named a, 1 and 3", "rename one"),
    "header again": ("a,b,kind\n1,2,u\n3,4,v\n\na,b,kind\n5,6,u\n", "", "line 5 repeats the first line: delete it"),
    "numbered header again": ("0,1,kind\n1,2,u\n0,1,kind\n", "?header=yes", "line 3 repeats the first line"),
    "header that is said to be none": (
        ROWS.replace("b", "y"),
        "?header=no",
        "line 1, column 1",
        "'a'",
        "write ?header=yes",
    ),
    "a y among numbers": ("a,b,kind\n1,2,0\ny,3,1\n4,5,0\n", "", "line 3, column a", "correct the field or delete"),
    "comment": ("# from, the, archive\nf,g,kind\n1,2,0\n3,4,1\n5,6,0\n", "", "'f'", "correct the field or delete"),
    "index of a pandas table": (",a,label\n0,2,0\n1,3,1\n", "", "column 1 has no name", "index=False"),
    "open quote": (ROWS + '9,"1,0\n', "", "not CSV in UTF-8 at line 6"),
    "not UTF-8": (b"a,b\n1,\xff\n", "", "not CSV in UTF-8"),
    "text after a quote": (
        'a,b\n1,"x \\"y\\""\n',
        "",
        "not CSV in UTF-8 at line 2",
        "each quote in a field doubled",
    ),
    "another spelling of UTF": ("a,b\n1,2\n".encode("utf-16"), "", "UTF-16", "UTF-8"),
    "not text": ("a,b\n1,\0\n", "", "zero byte"),
    "broken gzip": (gzip.compress(ROWS.encode())[:-9], "", "damaged gzip file"),
    "every line longer than the header": ("a,b\n1,2,0\n3,4,1\n", "", "line 2", "give each column a name"),
    "a field of a column b\nc": ('"b\nc",d\n1,x\n\n2,"x\ny"\nz,x\n2,x\n', "", "line 7, column 'b\\nc'", "'z'"),
    "label by number 0": (ROWS, "?label=0", "no column named '0'", "counted from 1"),
    "label beyond the columns": (ROWS, "?label=-4", "no column named '-4'"),
    "named index of pandas": ("Unnamed: 0,a,y\n0,1,0\n", "", "Unnamed: 0", "index of a pandas table"),
    "dates": ("day,y\n2020-01-01,0\n2020-01-02,1\n", "", "line 2, column day", "days since a fixed date"),
    "dates as labels": ("a,day\n1,2020-01-01\n2,2020-01-02\n", "", "column day", "days since a fixed date"),
    "words": ("a,b,y\nred,1,0\nblue,2,1\n", "", "line 2, column a", "'red'", "?label=", "get_dummies"),
    "yes and no": ("a,y\nyes,0\nno,1\n", "", "column a", "write 1 for yes and 0 for no"),
    "thousands": ('a,y\n"1,000",0\n"2,000",1\n', "", "'1,000'", "without what parts thousands"),
    "units": ("a,y\n5%,0\n6%,1\n", "", "'5%'", "without a unit"),
    "commas that may part thousands": ("a;y\n1,000;0\n2,000;1\n", "", "'1,000'", "may be a decimal comma"),
    "points that part thousands": ("f;y\n1.000,5;u\n2.000,5;v\n", "", "'1.000,5'", "leave out what parts thousands"),
    "points that part thousands, no header": ("1.000,5;u\n2.000,5;v\n", "", "'1.000,5'", "leave out what parts"),
    "decimal commas between commas": ("a,b,y\n0,5,1,u\n1,5,2,v\n", "", "line 2", "4 fields", "decimal commas"),
    "a decimal comma between commas": ("a,b,y\n1,1,u\n1,5,2,v\n2,2,u\n", "", "line 3", "4 fields", "decimal commas"),
    "another separator than it says": ("sep=;\n" + ROWS, "", "begins with sep=;", "most have commas"),
    "decimal commas and points": ("a;b;y\n1,5;2.5;0\n", "", "may be a decimal comma"),
    "beyond 2**53": (ROWS + f"{2**53 + 1},1,0\n", "", "line 6, column a", "9007199254740993", "float64 rounds"),
    "regression beyond 2**53": (f"1,{2**53 + 1}\n2,1\n", "?task=regression", "line 1, column 2", "float64 rounds"),
    "label beyond 64 bits": (f"1,{2**64}\n2,1\n", "", "line 1, column 2", "at most 64 bits"),
    "long label": (f"a,b\n1,{'x' * 10**6}\n2,y\n", "", "line 2, column b", "1,000,000 characters", "xxx...'"),
    "nothing in a column": (
        "a,b,y\n1,,0\n2,,1\n3,,0\n4,,1\n",
        "?missing=mean",
        "column b",
        "no value in the training part",
    ),
    "nothing whole": ("a,b,y\n1,,0\n,2,1\n", "?missing=drop", "?missing=drop leaves none"),
    "regression of words": ("1,a\n2,b\n3,a\n", "?task=regression", "'a'", "needs numbers"),
    "classes of fractions": ("1,0.5\n2,0.25\n", "?task=classification", "has 0.5", "whole numbers or words"),
    "constant target": ("5,2\n2,2\n", "?task=regression", "every label is 2"),
    "unknown task": (ROWS, "?task=ranking", "?task=ranking", "classification or regression"),
    "unknown option": (ROWS, "?target=kind", "?target= is none of ?label=, ?task="),
    "option twice": (ROWS, "?label=a&label=b", "given twice"),
    "beyond float32": (ROWS + "1e308,1,0\n-1e308,1,1\n", "", "too large for float32"),
    "target beyond float32": ("1,0.5\n2,1e300\n3,2\n", "", "too large for float32"),
    "below float64": ("a,y\n" + "1e-320,0\n2e-320,1\n" * 5, "", "column a differ by too little for float64"),
    "target below float64": ("1,1e-320\n2,2e-320\n3,0.0\n", "?task=regression", "rescale the label"),
}


@pytest.mark.parametrize("text, option, fragments", [(t, o, m) for t, o, *m in BAD_CSV.values()], ids=BAD_CSV)
def test_bad_csv_is_refused(tmp_path, text, option, fragments):
    path = csv_file(tmp_path, text)
    refuses(f"csv:{path}{option}", str(path), *fragments)


def spelt(tmp_path, x, y, kind):
    """The same table as a file of each kind."""
    columns = {f"c{j}": x[:, j] for j in range(x.shape[1])} | {"odd": y % 2 == 1, "y": y}
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        rows = [
            [repr(v) if isinstance(v, float) else v for v in row]
            for row in zip(*map(list, map(np.ndarray.tolist, columns.values())))
        ]
        path.write_text(table(rows, columns))
    elif kind == "npz":
        np.savez(path, x=np.asfortranarray(np.column_stack([x, y % 2 == 1])), y=y)
    elif kind == "parquet":
        pq.write_table(pa.table(columns), path)
    elif kind == "feather":
        feather.write_feather(pa.table(columns), path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, pa.table(columns).schema) as stream:
            stream.write_table(pa.table(columns))
    return path


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_table_has_the_same_bits_in_files_of_every_kind(tmp_path, task):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3000, 3)) * [1, 1e3, 1e-3] + [0, 1e5, 7], rng.integers(0, 30, 3000)
    found = {
        kind: load(f"{spelt(tmp_path, x, y, kind)}?task={task}")
        for kind in ("csv", "npz", "parquet", "feather", "arrow")
    }
    assert len({data.sha256 for data in found.values()}) == 1
    data = found["parquet"]
    assert data.table["columns"] == found["csv"].table["columns"] == ["c0", "c1", "c2", "odd"]
    assert data.classes == (30 if task == "classification" else None) and data.table == found["csv"].table


@pytest.mark.parametrize("y, task, classes, remark", [
    (np.arange(60) % 20, None, 20, "20 different whole numbers in 60 samples, taken as classes; ?task=regression"),
    (np.arange(60) % 21, None, None, "21 different whole numbers in 60 samples, taken as quantities"),
    (np.arange(105) % 21, None, 21, "taken as classes"),
    (np.arange(60) % 30 * 1000, "classification", 30, None),
    (np.arange(60) % 2, "regression", None, None),
    (np.arange(60) / 8, None, None, None),
    (np.arange(60) % 3 == 1, None, 2, None),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_whole_numbers_are_classes_or_quantities_and_the_run_says_which(tmp_path, y, task, classes, remark, kind):
    path = tmp_path / f"t.{kind}"
    x = np.random.default_rng(0).normal(size=len(y))
    if kind == "npz":
        np.savez(path, x=x, y=y)
    elif kind == "csv":
        path.write_text(table(zip(x, y), ["x", "y"]))
    else:
        pq.write_table(pa.table({"x": x, "y": y}), path)
    data = load(f"{path}?task={task}" if task else str(path))
    assert data.classes == classes and data.table["label"] == "y"
    assert [remark in said for said in data.remarks] == ([True] if remark else [])
    assert data.table["labels"] == (
        None if classes is None else [str(v) if y.dtype == bool else v for v in np.unique(y).tolist()]
    )


def test_targets_of_a_run_from_before_they_were_standardised_are_as_they_were(tmp_path):
    path = str(csv_file(tmp_path, table([[*x, i / 4] for i, x in enumerate(SAMPLES)])))
    now = load(path)
    form = {**now.form(), "table": {key: value for key, value in now.table.items() if key != "target"}}
    before = load(path, form=form)
    assert "target" not in before.table and load(path, form=now.form()).sha256 == now.sha256 != before.sha256
    np.testing.assert_array_equal(np.sort(np.concatenate([before.train_y, before.val_y])[:, 0]), np.arange(20) / 4)


@pytest.mark.parametrize("nothing", ["", "NA", "nan", "NaN", "null", "?", "N/A"])
def test_what_is_missing_becomes_the_training_mean_or_its_row_is_left_out(tmp_path, nothing):
    gone = (3, 8)
    rows = [[*x, k] for x, k in zip(SAMPLES, NAMED)]
    for i in gone:
        rows[i][1] = nothing
    path = csv_file(tmp_path, table(rows, ["a", "b", "kind"]))
    refuses(path, "line 5, column b", "?missing=mean", "?missing=drop")
    whole = load(str(csv_file(tmp_path, table(NAMED_LAST, ["a", "b", "kind"]), "whole.csv")))
    filled = load(f"{path}?missing=mean")
    assert filled.remarks == ("2 missing values in 2 samples set to the training mean of the column",)
    held = (whole.val_x[:, 0, None] == whole.val_x[:, 0]).any(1)
    assert held.all() and len(filled.val_x) == len(whole.val_x)
    b = np.array(SAMPLES, float)[:, 1]
    here = np.round(filled.train_x[:, 0] * filled.table["std"][0] + filled.table["mean"][0]).astype(int)  # a counts
    present = [i for i in here if i not in gone]
    assert filled.table["mean"][1] == pytest.approx(b[present].mean(), rel=1e-12)
    assert (filled.train_x[np.isin(here, gone), 1] == 0).all() and filled.train_x[:, 1].mean() == pytest.approx(
        0, abs=1e-6
    )
    dropped = load(f"{path}?missing=drop")
    left = csv_file(tmp_path, table([row for i, row in enumerate(rows) if i not in gone]), "left.csv")
    assert dropped.sha256 == load(str(left)).sha256 and dropped.remarks == (
        "2 samples of 20 left out for missing values",
    )


def test_a_missing_label_is_refused_or_left_out(tmp_path):
    rows = [[*x, "" if i == 5 else k] for i, (*x, k) in enumerate(NAMED_LAST)]
    path = csv_file(tmp_path, table(rows, ["a", "b", "kind"]))
    for option in ("", "?missing=mean"):
        refuses(f"{path}{option}", "line 7, column kind", "found nothing", "?missing=drop")
    left = csv_file(tmp_path, table(rows[:5] + rows[6:]), "left.csv")
    assert load(f"{path}?missing=drop").sha256 == load(str(left)).sha256


@pytest.mark.parametrize("first, second", [("True", "False"), ("true", "false"), ("TRUE", "FALSE")])
def test_true_and_false_are_one_and_zero_as_a_feature_and_names_as_a_label(tmp_path, first, second):
    words = [first if k else second for k in KINDS]
    bits = csv_file(tmp_path, table([[i, int(k > 0), k] for i, k in enumerate(KINDS)]), "bits.csv")
    path = csv_file(tmp_path, table([[i, word, k] for i, (word, k) in enumerate(zip(words, KINDS))], ["i", "b", "k"]))
    assert load(str(path)).sha256 == load(str(bits)).sha256
    data = load(f"{path}?label=b")
    assert data.table["labels"] == ["False", "True"] and data.classes == 2


@pytest.mark.parametrize("option", ["?label=kind", "?label=2", "?label=-2"])
def test_the_label_column_by_name_and_by_number(tmp_path, option):
    path = csv_file(tmp_path, table([[a, k, b] for (a, b), k in zip(SAMPLES, NAMED)], ["a", "kind", "b"]))
    data = load(f"{path}{option}")
    assert data.table["columns"] == ["a", "b"] and data.table["label"] == "kind"
    assert data.sha256 == load(str(csv_file(tmp_path, SAME["no header"], "other.csv"))).sha256


def test_a_label_that_comes_first_in_a_file_without_a_header(tmp_path):
    path = csv_file(tmp_path, table(FIRST))
    assert load(f"{path}?label=1").sha256 == load(str(csv_file(tmp_path, SAME["no header"], "o.csv"))).sha256
    refuses(path, "line 1, column 1", "'ant'", "?label=")


@pytest.mark.parametrize("spec", ["csv:{}", "npz:{}", "{}.csv", "{}.npz", "{}.parquet", "{}.feather"])
def test_missing_files_and_folders_are_refused(tmp_path, spec):
    refuses(spec.format(tmp_path / "absent"), "absent", "cannot be read (No such file or directory)")
    (tmp_path / "folder").mkdir()
    kind = {"feather": "arrow"}.get(spec.split(".")[-1], spec.split(".")[-1]) if spec[0] == "{" else spec[:3]
    a = "an arrow" if kind == "arrow" else f"a {kind}"
    refuses(f"{kind}:{tmp_path / 'folder'}", "cannot be read (Is a directory)", a if kind != "npz" else "NPZ")
