"""benchmarks/world_sizes.py notices a difference, and a start that fails."""

import pytest

from benchmarks import world_sizes


@pytest.mark.parametrize(
    "odd, status, failing",
    [(None, 0, None), (("mlp", 8, "--zero"), 1, "| mlp | 8 |"), (("lenet5", 16, ""), 1, "| lenet5 | 16 |")],
)
def test_one_hash_that_differs_fails_all_rows_of_its_model_and_shards(odd, status, failing, monkeypatch, capsys):
    def started(launcher, ranks, steps, jobs):
        return {job: "other" if (job, ranks) == (odd, 3) else f"{job[:2]}" for job in jobs}

    monkeypatch.setattr(world_sizes, "started", started)
    assert world_sizes.main(["--ranks", "1,3", "--with", "--wire float32"]) == status
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 3 * 2 * 6
    for row in rows:
        assert row.endswith("| FAIL |" if failing and row.startswith(failing) else "| PASS |")


def test_ranks_that_fail_fail_the_matrix(monkeypatch, capsys):
    monkeypatch.setattr(world_sizes, "started", lambda *asked: {})
    assert world_sizes.main(["--ranks", "1", "--cases", "mlp", "--only", "--with=--zero"]) == 1
    assert capsys.readouterr().out.count("FAIL") == 2


@pytest.mark.parametrize("ranks, cut", [(1, "--accumulate 8"), (2, "--accumulate 4"), (8, "--accumulate 1")])
def test_shards_are_asked_for_as_accumulation(ranks, cut):
    flags = world_sizes.flags_of(("mlp", 8, "--accumulate"), ranks, 7)
    assert flags == world_sizes.flags_of(("mlp", 8, ""), ranks, 7).replace("--shards 8", cut)
    assert "--steps 7" in flags


def test_what_cannot_be_accumulated_is_left_out_and_fails_nothing(monkeypatch, capsys):
    assert world_sizes.flags_of(("mlp", 8, "--accumulate"), 3, 7) is None
    monkeypatch.setattr(world_sizes, "started", lambda launcher, ranks, steps, jobs: {
        job: "same" if world_sizes.flags_of(job, ranks, steps) else world_sizes.LEFT_OUT for job in jobs
    })  # fmt: skip
    assert world_sizes.main(["--ranks", "2,3", "--cases", "mlp", "--shards", "8", "--launchers", "mpirun"]) == 0
    assert "| mlp | 8 | --accumulate | same | - | PASS |" in capsys.readouterr().out
