"""`allgrad demo`: two ranks and one come to the same weights, and their curves are drawn."""


def test_two_ranks_and_one_have_the_same_weights_and_curves(start, tmp_path):
    done = start("demo --out out", tmp_path)
    assert done.status == 0, done.err
    assert "the weights of the 2-rank run equal those of the 1-rank run, bit for bit: sha256 " in done.out
    assert "validation accuracy" in done.out and (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    again = start("demo --out out", tmp_path)
    assert again.status == 2 and again.told() == ["--out out exists: remove it, or give another directory"]
