"""Whether the first line of a CSV file names the columns: no sample is lost, and no name becomes one."""

import pytest

from allgrad.launch.data import load
from tests.launch.data.refusals import refuses
from tests.launch.data.written import csv_file

DECIMALS = "".join(f"{i}.25,{i * 2}.5,{i % 3}\n" for i in range(12))
WHOLE = "".join(f"{i},{i * 2},{i % 3}\n" for i in range(12))
WORDS = "".join(f"{i}.25,{i * 2}.5,{'abc'[i % 3]}\n" for i in range(12))
FIRST = "".join(f"{'abc'[i % 3]},{i}.25,{i * 2}.5\n" for i in range(12))


@pytest.mark.parametrize("line, rest, named, said", [
    ("a,b,kind", DECIMALS, True, ""),
    ("0,1,2", DECIMALS, True, "?header=no"),
    ("1,2,3", DECIMALS, True, "?header=no"),
    ("2019,2020,2021", DECIMALS, True, "?header=no"),
    ("1990,2000,2010", DECIMALS, True, "?header=no"),
    ("0,1,kind", DECIMALS, True, ""),
    ("0,1,kind", WHOLE, True, ""),
    ("0,1,class", WORDS, True, ""),
    ("0,1,kind", WORDS, True, "?header=no"),
    ("RI,Na,K", DECIMALS, True, ""),
    ("NA,x,y", DECIMALS, True, ""),
    ("350.5,351.25,352,kind", "".join(f"1.5,{i}.5,2.5,{i % 2}\n" for i in range(12)), True, ""),
    ("5.1,3.5,0", DECIMALS, False, ""),
    ("2,1,0", DECIMALS, False, ""),
    ("5.1,3.5,a", WORDS, False, ""),
    ("5.1,3.5,rare", WORDS, False, "?header=yes"),
    ("5,3,rare", WORDS, False, "?header=yes"),
    ("2.5,1.5,none", WORDS.replace(",a", ",some"), False, ""),
    ("a,5.1,3.5", FIRST, False, ""),
    ("rare,5.1,3.5", FIRST, False, "?header=yes"),
])  # fmt: skip
def test_what_tells_names_from_samples(tmp_path, line, rest, named, said):
    path, option = csv_file(tmp_path, f"{line}\n{rest}"), "&label=1" if rest == FIRST else ""
    data = load(f"{path}?task={'regression' if rest in (DECIMALS, WHOLE) else 'classification'}{option}")
    assert len(data.train_x) + len(data.val_x) == (12 if named else 13)
    assert (data.table["columns"] is not None) == named
    remarks = [remark for remark in data.remarks if "header" in remark]
    assert [said in remark and line in remark for remark in remarks] == [True] * bool(said)


@pytest.mark.parametrize(
    "line, rest", [("0,1,2", WHOLE), ("2019,2020,2021", WHOLE), ("1,2,rare", WORDS.replace(".", ""))]
)
def test_where_nothing_tells_the_user_has_to(tmp_path, line, rest):
    path = csv_file(tmp_path, f"{line}\n{rest}")
    refuses(path, line, "?header=yes or ?header=no")
    names, none = (load(f"{path}?header={word}") for word in ("yes", "no"))
    assert names.table["columns"] == line.split(",")[:2] and none.table["columns"] is None
    assert [len(data.train_x) + len(data.val_x) for data in (names, none)] == [12, 13]


def test_a_word_among_the_numbers_of_the_first_line_is_a_name_or_a_mistake(tmp_path):
    path = csv_file(tmp_path, f"1,ten,0\n{WHOLE}")
    refuses(path, "'ten' in column 2", "correct the field", "?header=yes")
    assert load(f"{path}?header=yes").table["columns"] == ["1", "ten"]


@pytest.mark.parametrize("nothing", ["nan", "NaN", "null", "None", "", "NA", "n/a", "?", "-", "inf", "-Infinity"])
@pytest.mark.parametrize("line, rest", [
    ("{0},{0},a", WORDS), ("{0},,a", WORDS), ("{0},2,0.5", DECIMALS), ("{0},{0},0", WHOLE), ("{0},{0},1.5", DECIMALS),
])  # fmt: skip
def test_a_first_line_where_something_is_missing_is_a_sample(tmp_path, nothing, line, rest):
    path = csv_file(tmp_path, f"{line.format(nothing)}\n{rest}")
    path = f"{path}?task={'classification' if rest == WORDS else 'regression'}"
    refuses(path, "line 1, column 1", nothing or "found nothing")
    if nothing not in ("-", "inf", "-Infinity"):
        data = load(f"{path}&missing=drop")
        assert data.table["columns"] is None and data.remarks[0] == "1 sample of 13 left out for missing values"


def test_a_mistake_beside_a_label_of_other_lines_is_no_header(tmp_path):
    path = csv_file(tmp_path, f"x,y,a\n{WORDS}")
    refuses(path, "'x' in column 1", "a label of other lines", "correct the field", "?header=yes")
