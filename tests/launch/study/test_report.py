"""What a study leaves to read, of results whose numbers were once measured on the digits: no run is needed."""

import html
import re
from dataclasses import replace

import pytest

from allgrad.launch.study import report
from allgrad.launch.study.result import Claim, Result
from tests.launch.study import samples

PROVENANCE = {"host": "a <laptop>", "versions": {"numpy": "2.3", "Python": "3.11"}, "seeds": [1, 2]}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report") / "study"
    written = report.write([samples.steps(), samples.noise()], directory, PROVENANCE, "Batch size on digits", "digits")
    assert written == directory / "report.html"
    return directory


def test_each_table_and_figure_has_its_files(out):
    names = {path.name for path in out.iterdir()}
    assert names == {
        "report.html", "report.md", "results", "steps.csv", "steps_fit.csv", "steps_summary.csv", "steps.png",
        "steps.svg", "steps_pareto.png", "steps_pareto.svg", "noise.png", "noise.svg",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.glob("*.png"))


def test_an_experiment_that_is_added_joins_the_report_and_replaces_none(out, tmp_path):
    for result in (samples.noise(), samples.steps()):
        report.write([result], tmp_path, PROVENANCE, "Batch size on digits", "digits")
    same = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert same == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_the_summary_of_all_experiments_leads_and_ends_when_one_is_done_again(tmp_path):
    summary = Result("all", "Which batch?", "About 100.", advice="Take 100.\nMore is not known.")
    steps = replace(samples.steps(), advice="Take 100.\nOr 64.", figures=samples.noise().figures)
    text = report.write([summary, steps], tmp_path).read_text()
    assert text.index("About 100.") < text.index("<svg") and text.count("Take 100.") == 1 == text.count("Or 64.")
    text = report.write([steps], tmp_path).read_text()
    assert "About 100." not in text and text.index("Take 100.") < text.index("<svg")


def test_the_same_results_give_the_same_bytes_whatever_the_settings_of_matplotlib(tmp_path):
    import matplotlib

    def files(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}

    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "svg.hashsalt": None, "text.color": "red"}):
        report.write([samples.steps()], tmp_path / "a", PROVENANCE)
    report.write([samples.steps()], tmp_path / "b", PROVENANCE)
    first, second = files(tmp_path / "a"), files(tmp_path / "b")
    assert len(first) == 10 and [name for name in first if first[name] != second[name]] == []


def test_the_short_report_has_the_answer_verdicts_and_files_that_exist(out):
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text.startswith(f"# Batch size on digits\n\n**{samples.steps().headline}**\n\nThe largest useful")
    assert "| SGD | cheapest | 16 | 96.2, no interval |" in text and "- noise: Predicted 141 to 240" in text
    verdicts = re.findall(r"^\| (FAIL|INCONCLUSIVE|PASS|NO VERDICT) \|", text, re.MULTILINE)
    assert verdicts == ["FAIL", "INCONCLUSIVE", "PASS", "PASS", "NO VERDICT", "PASS"]
    assert "in at most 1 of 20 experiments is any of its verdicts wrong by chance. In the 2 experiments here" in text
    pictures = re.findall(r"\]\((.*?)\)", text)
    assert len(pictures) == 3 and all((out / file).exists() for file in pictures)


def test_bars_in_a_claim_do_not_break_the_table_of_the_short_report(tmp_path):
    report.write([Result("x", "?", "!", [Claim("E[|g|]", "a", "b", [samples.estimate(1.0, 0.01)], 0.5)])], tmp_path)
    row = next(line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| PASS"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


def test_a_figure_that_cannot_be_drawn_costs_nothing_else(tmp_path, capsys):
    def fail():
        raise OverflowError("cannot convert float infinity to integer")

    report.write([samples.steps()], tmp_path)
    result = samples.steps()
    result.figures[1] = replace(result.figures[1], draw=fail)
    text = report.write([result], tmp_path).read_text()
    said = "The figure pareto could not be drawn (OverflowError: cannot convert float infinity to integer)."
    report.show(result, tmp_path)
    assert [text.count(said), (tmp_path / "report.md").read_text().count(said)] == [1, 1]
    assert capsys.readouterr().out.count(said) == 1
    assert (tmp_path / "steps.svg").exists() and "<svg" in text
    assert not (tmp_path / "steps_pareto.svg").exists() and not (tmp_path / "steps_pareto.png").exists()
    assert said not in report.write([samples.steps()], tmp_path).read_text()


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_what_is_there_without_an_extra_and_in_one_sentence_what_is_not(missing, tmp_path, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else find(name))
    opened = report.write([samples.steps()], tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    tables = {"report.md", "results", "steps.csv", "steps_fit.csv", "steps_summary.csv"}
    text = (tmp_path / "report.md").read_text()
    assert "The largest useful batch is about 100 examples." in text
    if missing == "matplotlib":
        assert names == tables | {"report.html"} and opened == tmp_path / "report.html"
        assert html.unescape(opened.read_text()).count(report.NO_FIGURES) == 1 == text.count(report.NO_FIGURES)
        assert "![" not in text and "<svg" not in opened.read_text()
    else:
        assert names > tables and "report.html" not in names and opened == tmp_path / "report.md"
        assert text.count(report.NO_PAGE) == 1
        report.show(samples.steps(), tmp_path)
        said = capsys.readouterr().out
        assert str(tmp_path / "report.md") in said and said.count(report.NO_PAGE) == 1


def test_the_terminal_shows_the_answer_the_small_table_findings_claims_notes_and_files(out, capsys, monkeypatch):
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK", "SLURM_PROCID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    result = samples.steps()
    report.show(result, out)
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert "\x1b" not in said and lines[:3] == [result.headline, *result.advice.splitlines()]
    assert lines[4:8] == [
        "optimizer     choice       batch B            steps S",
        "                        (examples)",
        "SGD           cheapest          16  96.2, no interval",
        "SGD           fastest          512  15.8, no interval",
    ]
    claims = lines.index("5 claims of the literature: 1 FAIL, 1 INCONCLUSIVE, 2 PASS, 1 NO VERDICT")
    assert lines[claims - 2 : claims] == [f"- {finding}" for finding in result.findings]
    assert [line.split("  ")[0] for line in lines[claims + 1 : claims + 6]] == [
        "FAIL", "INCONCLUSIVE", "PASS", "PASS", "NO VERDICT",
    ]  # fmt: skip
    assert "critical batch size above 300: 103 [90, 119] (5 seeds), accepted at least 300 (nobody)" in lines[claims + 1]
    assert lines[claims + 6 : -1] == [f"note: {note}" for note in result.notes]
    assert lines[-1] == f"files: {out / 'report.html'}, tables and figures beside it"
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    report.show(result, out)
    assert capsys.readouterr().out == ""
