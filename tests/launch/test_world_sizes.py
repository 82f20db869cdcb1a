"""benchmarks/world_sizes.py notices a difference, and a start that fails."""

import pytest

from benchmarks import world_sizes


@pytest.mark.parametrize(
    "odd, status, failing",
    [(None, 0, ""), ("mlp | 8 | --zero", 1, "| mlp | 8 |"), ("lenet5 | 16 | plain", 1, "| lenet5 | 16 |")],
)
def test_one_hash_that_differs_fails_all_rows_of_its_model_and_shards(odd, status, failing, monkeypatch, capsys):
    def started(launcher, ranks, jobs):
        assert all("--steps 7" in flags and flags.startswith("--") for flags in jobs.values())
        return {job: job.rpartition(" | ")[0] if (job, ranks) != (odd, 3) else "other" for job in jobs}

    monkeypatch.setattr(world_sizes, "started", started)
    assert world_sizes.main(["--ranks", "1,3", "--steps", "7", "--with", "--wire float32"]) == status
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 3 * 2 * 3
    for row in rows:
        assert row.endswith("| FAIL |" if failing and row.startswith(failing) else "| PASS |")


def test_ranks_that_fail_fail_the_matrix(monkeypatch, capsys):
    monkeypatch.setattr(world_sizes, "started", lambda launcher, ranks, jobs: {})
    assert world_sizes.main(["--ranks", "1", "--cases", "mlp", "--only", "--with=--zero"]) == 1
    assert capsys.readouterr().out.count("FAIL") == 2
