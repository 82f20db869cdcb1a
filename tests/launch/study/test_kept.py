"""Results in files: nothing is lost, the newest counts, workloads are kept apart."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from allgrad.launch.study.intervals import Estimate
from allgrad.launch.study.kept import Kept, folder_of, keep, read
from allgrad.launch.study.result import Claim, Result, Table, judge
from tests.launch.study import samples


def same(a, b):
    """Equality in which nan is itself, so that rows with it can be compared."""
    return repr(a) == repr(b) if a != b else True


def kept(out, result, workload="digits, mlp:128", **more):
    folder = folder_of(out, workload)
    folder.mkdir(exist_ok=True)
    keep(Kept(result, folder, workload, **more))


@pytest.mark.parametrize("make", [samples.steps, samples.noise, samples.shuffle])
def test_a_result_comes_back_as_it_was(make, tmp_path):
    provenance = {"host": "a", "versions": {"numpy": "2.3"}, "type": "odd", "seeds": [1, 2]}
    kept(tmp_path, make(), title="A title", provenance=provenance)
    [one], lost = read(tmp_path)
    assert not lost and (one.title, one.workload, one.provenance) == ("A title", "digits, mlp:128", provenance)
    theirs = make()
    for figure in theirs.figures:
        figure.draw = None
    for table in [*theirs.tables, *([theirs.summary] if theirs.summary else [])]:
        table.rows = [{key: v.item() if isinstance(v, np.generic) else v for key, v in r.items()} for r in table.rows]
    assert same(one.result, theirs) and one.result.verdicts[:1] == theirs.verdicts[:1]
    assert [type(e) for claim in one.result.claims for e in claim.estimates] == [
        type(e) for claim in theirs.claims for e in claim.estimates
    ]


def test_what_rows_hold_comes_back_in_its_type(tmp_path):
    row = {"a": math.inf, "b": (1, (2.5, None)), "c": [True, "x"], "d": {4: 0.1}, "e": {"type": "Share"}}
    kept(tmp_path, Result("x", "?", "!", tables=[Table("t", [*row], [row | {"not shown": 1}])]))
    assert read(tmp_path)[0][0].result.tables[0].rows == [row]
    json.loads((tmp_path / "results" / "x.json").read_text(), parse_constant=pytest.fail)  # as the standard has it


@pytest.mark.parametrize(
    "array", [np.array([[1.5, np.nan], [np.inf, 2.0]]), np.arange(3), np.float32([0.1]), np.zeros(0)]
)
def test_arrays_in_rows_come_back_with_their_type(array, tmp_path):
    kept(tmp_path, Result("x", "?", "!", tables=[Table("t", ["losses"], [{"losses": array}])]))
    found = read(tmp_path)[0][0].result.tables[0].rows[0]["losses"]
    np.testing.assert_array_equal(found, array, strict=True)


def test_what_is_no_number_and_no_word_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a result holds numbers, words and lists of them, not set"):
        kept(tmp_path, Result("x", "?", "!", tables=[Table("t", ["a"], [{"a": {1}}])]))
    assert read(tmp_path) == ([], [])


def test_the_newest_of_a_name_wins_and_the_order_is_that_of_the_verbs(tmp_path):
    small = [Result(name, "?", "!") for name in ("own", "all")]
    for result in (samples.shuffle(), samples.noise(), samples.steps(), *small):
        kept(tmp_path, result)
    kept(tmp_path, replace(samples.noise(), headline="anew"))
    found, _ = read(tmp_path)
    assert [one.result.name for one in found] == ["all", "steps", "noise", "shuffle", "own"]
    assert found[2].result.headline == "anew"
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        f"{name}.json" for name in ("all", "noise", "own", "shuffle", "steps")
    ]


def test_another_workload_has_a_folder_of_its_own(tmp_path):
    for workload in ("digits, mlp:128", "text?a=1, lstm:32", "digits, mlp:128", "text/a=1, lstm 32"):
        kept(tmp_path, replace(samples.shuffle(), headline=workload), workload)
    assert [(one.folder, one.workload) for one in read(tmp_path)[0]] == [
        (tmp_path, "digits, mlp:128"),
        (tmp_path / "text-a-1-lstm-32", "text?a=1, lstm:32"),
        (tmp_path / "text-a-1-lstm-32-2", "text/a=1, lstm 32"),  # not the same, though the same letters
    ]
    assert all(one.result.headline == one.workload for one in read(tmp_path)[0])


def test_a_study_inside_a_study_is_none_of_its_workloads(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    kept(inside, samples.steps())
    assert [one.result.name for one in read(tmp_path)[0]] == ["steps"]
    (inside / "runs.jsonl").touch()
    assert read(tmp_path) == ([], [])


def test_a_file_of_another_version_is_not_taken_for_one_of_this(tmp_path):
    kept(tmp_path, samples.shuffle())
    path = tmp_path / "results" / "shuffle.json"
    path.write_text(path.read_text().replace('"format": 1,', '"format": 2,'))
    assert read(tmp_path)[0] == [] and len(read(tmp_path)[1]) == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 0}', '{"format": 1, "result": {"type": "Result"}}'])
def test_a_file_of_another_version_or_half_of_one_is_left_out_and_said(tmp_path, text):
    kept(tmp_path, samples.shuffle())
    (tmp_path / "results" / "steps.json").write_text(text)
    found, lost = read(tmp_path)
    assert [one.result.name for one in found] == ["shuffle"]
    assert lost == ["results/steps.json is of another version or damaged, and left out: do it again."]


def test_a_claim_on_an_estimate_of_a_kind_of_its_own_is_judged_alike_when_it_comes_back(tmp_path):
    @dataclass(frozen=True)
    class Odd(Estimate):
        def interval(self, level=0.95):
            return 2.0, 5.0

        def p_above(self, bound):
            return 0.001 if bound < 2.0 else 0.9

        def p_below(self, bound):
            return 0.999

    claim = Claim("it is so", "Somebody 2020", "as they say", [Odd(3.0, n=5)], least=1.0)
    kept(tmp_path, Result("x", "?", "!", claims=[claim]))
    found = read(tmp_path)[0][0].result
    assert found.verdicts == judge([claim]) and found.verdicts[0].word == "PASS"
    assert found.claims[0].worst.interval() == (2.0, 5.0) and found.claims[0].worst.value == 3.0
