"""Tables of text."""

from allgrad.autograd.tools.table import table


def test_columns_have_one_width_and_lines_no_spaces_behind():
    rows = [("name", "kind", "number"), ("a", "longer", "1"), ("bc", "", "1,234")]
    assert table(rows, 2).split("\n") == [
        "name  kind    number",
        "a     longer       1",
        "bc             1,234",
    ]
    assert table([("a", "b"), ("cc", "")], 2).split("\n") == ["a   b", "cc"]
