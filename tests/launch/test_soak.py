"""The benchmark that kills and stops ranks, a few times; and whether it would notice what it is there to find."""

import json

import pytest

from benchmarks import soak


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soak")
    return folder, soak.soak(3, 5, folder, ("mpirun",))


def test_kills_leave_the_weights_and_the_metrics_of_an_undisturbed_run(killed):
    folder, rows = killed
    assert [row["kill"] for row in rows] == [1, 2, 3] and any(row["killed"] for row in rows)
    assert {row["status"] for row in rows if row["killed"]} == {137}
    assert json.loads((folder / "killed" / "summary.json").read_text())["resumed_at"]


def test_a_stop_loses_no_step(tmp_path):
    rows = soak.stop(3, 1, tmp_path, ("mpirun", "alone"))
    assert all(row["stopped"] and row["status"] == 143 for row in rows)
    assert {row["launcher"] for row in rows} == {"mpirun", "alone"}


DAMAGES = {
    "a gap": (lambda lines: lines[:5] + lines[6:], "metrics.jsonl has 119 lines, and 120"),
    "a repeated line": (lambda lines: [*lines[:5], *lines[4:]], "metrics.jsonl has 121 lines"),
    "one lost, one repeated": (lambda lines: [*lines[:5], lines[4], *lines[6:]], "step 5 has seen"),
    "a torn line": (lambda lines: [*lines[:-1], lines[-1][:-1]], "metrics.jsonl has 119 lines"),
    "another loss": (lambda lines: [lines[0].replace('"loss": ', '"loss": 1'), *lines[1:]], "undisturbed run has"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found(name, killed, tmp_path, monkeypatch):
    change, message = DAMAGES[name]
    (tmp_path / "out").mkdir()
    for file in ("metrics.jsonl", "summary.json"):
        (tmp_path / "out" / file).write_bytes((killed[0] / "killed" / file).read_bytes())
    monkeypatch.setattr(soak.subprocess, "run", lambda *args, **kwargs: None)  # the undisturbed run is there
    soak.compare([], tmp_path / "out", killed[0] / "undisturbed")
    metrics = tmp_path / "out" / "metrics.jsonl"
    metrics.write_text("".join(change(metrics.read_text().splitlines(keepends=True))))
    with pytest.raises(soak.Failed, match=message):
        soak.compare([], tmp_path / "out", killed[0] / "undisturbed")
