"""Files that are there as a whole or not at all."""

import os

import pytest

from allgrad.ddp.files import replace


def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "summary.json"
    for text in ("first", "zweiter: ü"):
        replace(path, text)
        assert path.read_text(encoding="utf-8") == text and os.listdir(tmp_path) == ["summary.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    replace(path, "old")
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        replace(path, "new")
    assert path.read_text() == "old"
