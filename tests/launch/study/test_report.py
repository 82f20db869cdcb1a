"""The report of a study, of results whose numbers were once measured on the digits: no run is needed."""

import base64
import html
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from allgrad.launch.study import figures, report
from allgrad.launch.study.result import Check, Figure, Result, Table

SIZES = [2**k for k in range(2, 11)]
STEPS = {  # to a training loss of 0.05
    "SGD": [375, 191, 96.2, 48.8, 33.0, 21.3, 17.5, 15.8, 15.0],
    "momentum 0.9": [410, 210, 115, 65.7, 38.3, 25.6, 17.8, 13.0, 12.3],
    "Adam": [394, 202, 103, 49.6, 31.4, 19.9, 13.6, 10.5, 9.7],
}
RATES = {
    "SGD": [0.085, 0.17, 0.339, 0.679, 0.96, 1.36, 1.92, 1.92, 1.92],
    "momentum 0.9": [0.0085, 0.017, 0.034, 0.068, 0.136, 0.272, 0.384, 0.768, 1.09],
    "Adam": [0.004, 0.0057, 0.008, 0.0113, 0.0226, 0.032, 0.032, 0.045, 0.045],
}
FIT = {"SGD": (13.0, 103.0), "momentum 0.9": (10.6, 155.0), "Adam": (8.0, 187.0)}  # S_min, B_crit
RULES = {  # steps by rule from a base of 4; None where most seeds failed
    "ideal": [197, 99, 49, 25, 12, 6, 3, 2],
    "none": [326, 321, 319, 320, 321, 323, 324, 326],
    "sqrt": [237, 163, 112, 81, 56, 40, 27, 18],
    "linear": [197, 98, 52, 29, None, None, None, None],
    "linear, warm-up": [226, 116, 62, 36, None, None, None, None],
    "AdaScale": [200, 107, 68, 46, 37, 30, 25, 22],
}


def rows():
    for optimizer, steps in STEPS.items():
        for B, S, lr in zip(SIZES, steps, RATES[optimizer]):
            yield {
                "optimizer": optimizer,
                "B": B,
                "lr": lr,
                "S": S,
                "ci_lo": S * 0.93,
                "ci_hi": S * 1.08,
                "E": S * B,
                "epochs": S * B / 1437,
                "slope": None if B == 4 else -0.97,
                "region": "perfect" if B <= 32 else "diminishing",
                "n_fail": int(B == 512),
                "at_edge": optimizer == "SGD" and B == 1024,
            }


def draw_steps():
    figure, axes = figures.new()
    sizes = np.geomspace(4, 1024, 60)
    for i, (optimizer, steps) in enumerate(STEPS.items()):
        least, critical = FIT[optimizer]
        fit = least * (1 + critical / sizes)
        figures.line_with_interval(axes, sizes, fit, fit * 0.95, fit * 1.05, i)
        bars = np.array(steps)
        figures.points_with_interval(axes, SIZES, steps, bars * 0.93, bars * 1.08, i, optimizer)
    axes.set(xlabel="batch size (examples)", ylabel="steps to training loss 0.05")
    figures.batches(axes.xaxis)
    figures.logarithmic(axes.yaxis)
    figures.guide(axes, -1, (4, 280), "slope -1: half the steps at twice the batch", at=0.5, below=True)
    figures.legend(figure, 3)
    return figure


def draw_pareto_and_rates():
    figure, (left, right) = figures.new(1, 2, figures.PAGE)
    for i, (optimizer, steps) in enumerate(STEPS.items()):
        examples = np.array(steps) * SIZES
        figures.points_with_interval(left, steps, examples, i=i, label=optimizer, join=True)
        at_edge = [optimizer == "SGD" and B == 1024 for B in SIZES]
        figures.points_with_interval(right, SIZES, RATES[optimizer], i=i, hollow=at_edge, join=True)
    left.set(xlabel="steps to target", ylabel="examples to target")
    right.set(xlabel="batch size (examples)", ylabel="best learning rate")
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        figures.logarithmic(axis)
    figures.batches(right.xaxis)
    figures.guide(right, 1, (8, 0.27), "slope 1", at=0.8)
    figures.guide(right, 0.5, (8, 0.0045), "slope ½", below=True)
    figures.failed(right, [512, 1024], 0)
    figures.legend(figure, 3)
    return figure


def draw_rules():
    figure, axes = figures.new()
    for i, (rule, steps) in enumerate(RULES.items()):
        figures.points_with_interval(axes, SIZES[1:], steps, i=i, label=rule, join=True)
    axes.set(xlabel="batch size (examples)", ylabel="steps to training loss 0.05")
    figures.batches(axes.xaxis)
    figures.logarithmic(axes.yaxis)
    for row, i in enumerate((3, 4)):
        figures.failed(axes, [B for B, S in zip(SIZES[1:], RULES[list(RULES)[i]]) if S is None], i, row)
    figures.legend(figure, 3)
    return figure


def draw_noise():
    figure, axes = figures.new()
    steps = [1, 2, 4, 8, 12, 20, 30, 40, 60, 96]
    noise = np.array([22, 25, 31, 44, 60, 90, 140, 200, 280, 440])
    figures.line_with_interval(axes, steps, noise, noise * 0.7, noise * 1.4, 0, "B_simple, B = 16")
    figures.line_with_interval(axes, steps, noise * 0.6, i=1, label="B_noise, B = 16")
    axes.set(xlabel="step", ylabel="noise scale (examples)")
    figures.logarithmic(axes.xaxis)
    figures.logarithmic(axes.yaxis)
    figures.band(axes, 97, 110, "measured critical batch size")
    figures.legend(figure)
    return figure


def results():
    steps = Result(
        "steps",
        "How many steps does the target take, and at which batch size does a larger batch stop to help?",
        "S falls as 1/B up to B = 32; the critical batch size is 103 [97, 110] for SGD & 155 [146, 165] with momentum.",
        [
            Check("critical batch size, SGD", 103.2, 97.1, 110.4, 70, 150, 8),
            Check("critical batch size, momentum over SGD", 1.32, 1.13, 1.51, 1.2, math.inf, 8),
            Check("slope from 512 to 1024 <flat>", -0.31, -0.36, -0.27, -0.25, math.inf, 8),
            Check("rmse of the fit in log S", 0.0661, 0.0661, 0.0661, most=0.12),
            Check("seeds that reached 97 %", math.nan, math.nan, math.nan, 1),
        ],
        [
            Table("steps", list(next(rows())), list(rows()), "Steps to target at the best learning rate"),
            Table(
                "fit",
                ["optimizer", "S_min", "B_crit"],
                [{"optimizer": o, "S_min": s, "B_crit": b} for o, (s, b) in FIT.items()],
                "The hyperbola",
            ),
        ],
        [
            Figure("steps", "Steps to target; bars and bands are 95 % intervals over 8 seeds.", draw_steps),
            Figure(
                "pareto",
                "(a) Examples against steps. (b) Best learning rate; hollow: edge of the grid.",
                draw_pareto_and_rates,
            ),
        ],
        methods="Digits, 1437 to train & 360 to validate, split seed 0; MLP 64-128-10, ReLU, He.\n\nSampler: epoch.",
        notes=["At B = 512 one of 8 seeds failed with SGD.", "A smallest S of 13 steps is coarse."],
        command="allgrad study steps --preset quick --data digits --model mlp:128",
        advice="The largest useful batch is about 100 examples: up to it, twice the batch halves the steps.",
    )
    rules = Result(
        "lr-rules",
        "Which rule keeps the steps falling when the batch grows?",
        "Linear tracks the ideal to k = 16 and fails at k = 32; the square root never fails.",
        [Check("linear over ideal, k = 8", 1.06, 1.01, 1.12, most=1.2, seeds=5)],
        figures=[Figure("rules", "Steps by rule; crosses above: a majority of the seeds failed.", draw_rules)],
        command="allgrad study lr-rules --preset quick",
    )
    noise = Result(
        "noise",
        "Does the noise of the gradient predict the critical batch size?",
        "Predicted 141 to 240, measured 103 [97, 110]: within 3.",
        [Check("B_simple over B_crit", 1.37, 1.01, 1.75, 1 / 3, 3, 3)],
        figures=[Figure("noise", "The noise scale over a run.", draw_noise)],
        advice="The noise of the gradient says why: beyond that, its average has no noise left to remove.",
    )
    return [steps, rules, noise]


PROVENANCE = {"host": "a <laptop>", "versions": {"numpy": "2.3", "Python": "3.11"}, "seeds": [1, 2]}
VOID = {"meta", "img", "br"}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report") / "study"
    assert report.write(results(), directory, PROVENANCE) == directory / "report.html"
    return directory


@pytest.fixture(scope="module")
def page(out):
    return (out / "report.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Tags that are balanced, attributes, and the words between."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_and_needs_nothing_else(page):
    assert page.startswith("<!DOCTYPE html>\n") and "<script" not in page
    reader = Reader(page)
    targets = [value for _, name, value in reader.attributes if name in ("src", "href")]
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(targets) == 3 + 4 and all(target.startswith(("data:image/svg+xml;base64,", "#")) for target in targets)
    assert len({*ids}) == len(ids) and {target[1:] for target in targets if target[0] == "#"} == {*ids}
    assert not re.search(r"https?:|url\(|@import", page)


def test_the_page_says_all_that_the_results_say(page):
    words = "".join(Reader(page).words)
    for result in results():
        said = [result.question, result.headline, result.command, result.advice, *result.notes]
        said += [check.claim for check in result.checks] + [figure.caption for figure in result.figures]
        said += [table.caption for table in result.tables] + result.methods.split("\n\n")
        assert [sentence for sentence in said if sentence not in words] == []
    assert "a <laptop>" in words and "numpy 2.3, Python 3.11" in words and "1, 2" in words


def test_the_answer_comes_first_then_the_checks_failures_first(page):
    advice, headline, table = (page.index(words) for words in ("The largest useful", "S falls as 1/B", "<table>"))
    assert advice < headline < table
    rows = page[table : page.index("</table>")]
    assert re.findall(r'badge (\w+)"', rows) == ["fail"] * 2 + ["inconclusive"] + ["pass"] * 4
    assert (
        "7 checks: 2 FAIL, 1 INCONCLUSIVE, 4 PASS" in page
        and page.count("2 of 5 FAIL") == 1
        and "undecided with 8 report seeds, about 21 would decide" in rows
    )


def test_long_tables_are_folded_and_say_what_must_not_be_read_over(page):
    long, short = re.findall(r"<details( open)?><summary>([^<]*)", page)
    assert long == ("", "Steps to target at the best learning rate ") and short == (" open", "The hyperbola ")
    assert "steps.csv: 27 rows, 4 marked" in page and page.count("<tr class='flag'>") == 4


def test_numbers_of_numpy_are_plain_in_a_table():
    row = {
        "lr": np.float64(0.1),
        "B": np.int64(4),
        "seen": np.bool_(True),
        "S": np.float64("nan"),
        "b": np.float32(0.5),
    }
    assert Table("t", [*row], [row]).csv() == "lr,B,seen,S,b\n0.1,4,True,,0.5\n"


def test_pictures_are_drawn_once_and_shown_in_the_page(out, page):
    pictures = [base64.b64decode(text) for text in re.findall(r'base64,([^"]+)"', page)]
    stems = ["steps", "steps_pareto", "lr-rules", "noise"]
    assert pictures == [(out / f"{stem}.svg").read_bytes() for stem in stems]
    assert all(b"<svg" in picture and b"<text" not in picture for picture in pictures)  # letters are outlines
    assert all((out / f"{stem}.png").read_bytes().startswith(b"\x89PNG") for stem in stems)


def test_the_same_results_give_the_same_bytes_whatever_the_settings_of_matplotlib(out, tmp_path):
    import matplotlib

    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "svg.hashsalt": None, "text.color": "red"}):
        report.write(results()[1:2], tmp_path / "a", PROVENANCE)
    report.write(results()[1:2], tmp_path / "b", PROVENANCE)
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert {*files} == {"lr-rules.png", "lr-rules.svg", "report.html", "report.md"}
    assert [name for name, content in files.items() if content != (tmp_path / "b" / name).read_bytes()] == []
    assert files["lr-rules.svg"] == (out / "lr-rules.svg").read_bytes()


def test_the_short_report_has_verdicts_and_files_that_exist(out):
    text = (out / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([A-Z]+) \|", text, re.MULTILINE) == ["FAIL"] * 2 + ["INCONCLUSIVE"] + ["PASS"] * 4
    assert all((out / file).exists() for file in re.findall(r"\]\((.*?)\)", text))


def test_bars_in_a_claim_do_not_break_the_table_of_the_short_report(tmp_path):
    report.write([Result("x", "?", "!", [Check("E[|g|]", 1.0, 1.0, 1.0)])], tmp_path)
    row = next(line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| PASS"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


def test_without_matplotlib_everything_but_the_figures(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    page = report.write(results(), tmp_path).read_text(encoding="utf-8")
    Reader(page)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.html",
        "report.md",
        "steps.csv",
        "steps_fit.csv",
    ]
    assert report.NO_FIGURES in html.unescape(page) and report.NO_FIGURES in (tmp_path / "report.md").read_text()


def test_an_experiment_that_says_little_is_a_page_as_well(tmp_path):
    Reader(report.write([Result("empty", "?", "nothing ran")], tmp_path).read_text())


def test_the_terminal_shows_the_headline_verdicts_notes_and_files(out, capsys, monkeypatch):
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK", "SLURM_PROCID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    result = results()[0]
    report.show(result, out)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == result.headline and "\x1b" not in "".join(lines)
    assert [line.split()[0] for line in lines[1:6]] == ["FAIL", "FAIL", "INCONCLUSIVE", "PASS", "PASS"]
    assert lines[4].split("  ")[-1] == "critical batch size, SGD: 103.2 [97.1, 110.4], accepted 70 to 150"
    assert all(f"note: {note}" in lines for note in result.notes) and lines[-2] == result.advice
    files = lines[-1].removeprefix("files: ").split(", ")
    assert files == [str(out / name) for name in ("report.html", "steps.csv", "steps_fit.csv")]
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    report.show(result, out)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.nan, "-"),
        (math.inf, "∞"),
        (True, "yes"),
        (1437, "1437"),
        (21750, "21,750"),
        (21750.4, "21,750"),
        (0.33941125, "0.3394"),
        (0.085, "0.085"),
        (48.8312, "48.83"),
        (0.0, "0"),
        (-0.31, "-0.31"),
        (1.234e-7, "1.23e-7"),
        ("sgd", "sgd"),
        (np.float64(0.5), "0.5"),
        (np.int64(12345), "12,345"),
        (np.bool_(False), "no"),
    ],
)
def test_numbers_are_rounded_as_a_person_reads_them(value, text):
    assert report.number(value) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((105.31, 94.12, 119.7), "105 [94, 120]"),
        ((0.39021, 0.3765, 0.4021), "0.390 [0.377, 0.402]"),
        ((103.0, 69.96, 140.0, 70.0, 150.0), "103.00 [69.96, 140.00]"),  # and not from 70 on
        ((13.0, 13.0, 13.0, 10.0, 17.0), "13.0"),
        ((0.0, 0.0, 0.0), "0"),
        ((12100.0, 11000.0, 13300.0), "12,100 [11,000, 13,300]"),
        ((math.nan, 1.0, 2.0), "undefined"),
        ((5.0, 4.0, math.inf), "5 [4, ∞]"),
    ],
)
def test_a_measured_value_is_rounded_to_its_interval_and_stays_on_its_side(numbers, text):
    assert report.measured(Check("", *numbers, seeds=5)) == text


@pytest.mark.parametrize(
    ("limits", "text"),
    [((70.0, 150.0), "70 to 150"), ((1.2, math.inf), "at least 1.2"), ((-math.inf, 0.12), "at most 0.12"), ((), "any")],
)
def test_what_is_accepted_is_said_in_words(limits, text):
    assert report.accepted(Check("", 1.0, 1.0, 1.0, *limits)) == text


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (Check("", 1.0, 0.5, 2.0, 0.8, seeds=5), "undecided with 5 report seeds, about 71 would decide"),
        (Check("", 1.0, 0.5, 2.0, 1.0, seeds=4, seed_kind="probed runs"), "undecided with 4 probed runs"),
        (Check("", 1.0, 0.5, 2.0, 0.8), "undecided; its spread is known over blocks of one run only"),
        (Check("", math.inf, math.inf, math.inf, 0.8), "undecided"),
        (Check("", 1.0, 0.9, 2.0, 0.8), ""),
    ],
)
def test_what_leaves_a_check_undecided_is_said(check, text):
    assert report._undecided(check) == text
