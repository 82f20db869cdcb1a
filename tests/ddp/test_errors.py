"""The errors whose text is for the user, and how it is told."""

from allgrad.ddp.errors import counted, tell


def test_counts_are_words():
    assert [counted(n, "shard") for n in (0, 1, 2, 1437)] == ["0 shards", "1 shard", "2 shards", "1,437 shards"]


def test_what_is_told_is_one_write_on_stderr(monkeypatch, capsys):
    writes = []
    monkeypatch.setattr("sys.stderr.write", writes.append)
    tell("first\nsecond")
    assert writes == ["first\nsecond\n"] and not capsys.readouterr().out
