"""report.html: what a person meets first, what is folded, and that the page needs nothing else."""

import re
from html.parser import HTMLParser

import pytest

from allgrad.launch.study import page, report
from allgrad.launch.study.kept import read
from allgrad.launch.study.result import Claim, Result, Table
from tests.launch.study import samples

PROVENANCE = {"host": "a <laptop>", "versions": {"numpy": "2.3", "Python": "3.11"}, "seeds": [1, 2], "command": "no"}
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Tags that are balanced, their attributes, the words between, and which of them are folded."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.seen = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)
            if "details" not in self.open or "summary" in self.open:
                self.seen.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    @property
    def unfolded(self):
        return " ".join("".join(self.seen).split())

    def all(self, tag, **having):
        return [one for name, one in self.tags if name == tag and having.items() <= one.items()]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A directory to which experiments were added one by one."""
    directory = tmp_path_factory.mktemp("page") / "study"
    for result in (samples.shuffle(), samples.noise(), samples.steps()):
        report.write([result], directory, PROVENANCE, f"Study {result.name} on digits", "digits, mlp:128")
    return directory


@pytest.fixture(scope="module")
def source(out):
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(source):
    return Reader(source)


def test_the_page_is_whole_and_needs_nothing_else(source, html):
    assert source.startswith("<!DOCTYPE html>\n") and "<script" not in source
    assert not re.search(r"https?:|@import|src=|url\((?!#)", source)
    ids = [one["id"] for _, one in html.tags if "id" in one]
    targets = [one[name] for _, one in html.tags for name in ("href", "xlink:href") if name in one]
    targets += [f"#{name}" for name in re.findall(r"url\(#([^)]+)\)", source)]
    targets += [f"#{one['aria-labelledby']}" for _, one in html.tags if "aria-labelledby" in one]
    assert len({*ids}) == len(ids) and {target[0] for target in targets} == {"#"}
    assert {target[1:] for target in targets} <= {*ids}
    assert html.all("a") and html.all("use")


def test_the_page_says_all_that_the_results_say(html):
    for result in (samples.steps(), samples.noise(), samples.shuffle()):
        said = [result.question, result.headline, result.command, *result.advice.splitlines(), *result.notes]
        said += [words for claim in result.claims for words in (claim.claim, claim.source, claim.bound)]
        said += [*result.findings, *(figure.caption for figure in result.figures)]
        said += [table.caption for table in result.tables] + result.methods.split("\n\n")
        assert [sentence for sentence in said if sentence not in html.text] == []
    assert "a <laptop>" in html.text and "numpy 2.3, Python 3.11" in html.text and "1, 2" in html.text


def test_the_answer_comes_first_then_one_figure_one_table_findings_and_links(source):
    body = source[source.index("<main>") :]
    places = [
        body.index(words)
        for words in ("<h1>Study steps on digits</h1>", "S falls as 1/B", "The largest useful", "<svg",
                      "Steps to target;",
                      "Two batches to choose from", "<table", "At B = 1024 Adam", ">Experiments<", ">noise</a>",
                      "What must be known")
    ]  # fmt: skip
    assert places == sorted(places)
    first = body[: body.index(">Experiments<")]
    assert first.count("<svg") == 1 and first.count("<table") == 1
    assert body.count("S falls as 1/B") == 1 and body.count("Steps to target;") == 1  # and nothing twice


def test_claims_are_folded_counted_and_each_has_its_source_bound_number_and_reason(html):
    counted = "5 claims of the literature: 1 FAIL, 1 INCONCLUSIVE, 2 PASS, 1 NO VERDICT"
    assert counted in html.unfolded and "Shallue et al. 2019, section 4.1" not in html.unfolded
    assert re.search(
        r"FAIL critical batch size above 300 source ?nobody accepted ?at least 300, because: 300 measured ?"
        r"103 \[90, 119\] \(5 seeds\) why ?p = [\de.-]+, corrected for 5 claims",
        html.text,
    )
    assert "NO VERDICT no gain | beyond 512" in html.text
    assert "1 of 3 seeds failed, and the others decide nothing" in html.text


def test_how_many_false_verdicts_to_expect_is_said(html, tmp_path):
    assert "in at most 1 of 20 experiments is any of its verdicts wrong by chance." in html.unfolded
    assert "In the 2 experiments here that have verdicts, the chance of any wrong one is at most 10 %." in html.unfolded
    one = samples.noise()
    report.write([one], tmp_path)
    assert page.false_verdicts(read(tmp_path)[0]) == page.HOLM
    one.claims = [Claim("two seeds", "nobody", "none", [samples.estimate(1.0, 0.1, n=2)], 0.5)]
    report.write([one], tmp_path)
    assert page.false_verdicts(read(tmp_path)[0]) == ""


def test_tables_are_folded_have_units_and_say_what_must_not_be_read_over(source, html):
    assert "steps.csv: 27 rows, 4 marked: a failure, or a best value at the edge of its grid" in html.unfolded
    assert source.count('<tr class="flag">') == 4
    assert "batch B (examples)" in html.text and "375 [349, 405]" in html.text
    assert all(one["scope"] in ("row", "col") for one in html.all("th"))
    assert html.all("th", title="global batch size")
    cells = html.all("td", **{"data-label": "batch B (examples)"})
    assert len(cells) == 27 + 6  # a label for each where heads are hidden
    assert len(html.all("td", **{"class": "title"})) == 6  # the words of `choice` need none


def test_figures_take_the_colours_of_the_page(out, source, html):
    *svgs, letters = re.findall(r"<svg.*?</svg>", source, re.DOTALL)
    shapes = re.findall(r'<path id="([^"]+)"', letters)
    assert len(shapes) > 30 and all(source.count(f'id="{shape}"') == 1 for shape in shapes)
    assert len(svgs) == 3 and len(html.all("svg", role="img")) == 3
    assert not [color for svg in svgs for color in re.findall(r"#[0-9a-fA-F]{6}\b", svg)]
    used = {name for svg in svgs for name in re.findall(r"var\(--([\w-]+)", svg)}
    assert {"figure", "ink", "line", "series-0", "series-1", "series-2"} <= used
    style = (page.TEMPLATES / "style.css").read_text()
    light, dark, paper = style.index(":root"), style.index("prefers-color-scheme: dark"), style.index("@media print")
    for name in used - {"figure"}:
        places = [match.start() for match in re.finditer(rf"--{name}: #", style)]
        assert len(places) == 3 and light < places[0] < dark < places[1] < paper < places[2], name
    assert all(not "".join(Reader(svg).words).strip() for svg in svgs)  # letters are outlines, and comments are gone
    assert [one["class"] for one in html.all("svg")] == ["picture", "picture wide", "picture", "unseen"]


def test_a_long_table_is_shown_in_part(tmp_path):
    table = Table("long", ["B"], [{"B": k} for k in range(9000, 9300)], "Long")
    html = Reader(report.write([Result("x", "?", "!", tables=[table])], tmp_path).read_text())
    assert "The first 100 rows; x.csv has all." in html.text and "9099" in html.text and "9100" not in html.text
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 301


def test_an_experiment_that_says_little_is_a_page_as_well(tmp_path):
    html = Reader(report.write([Result("empty", "?", "nothing ran")], tmp_path).read_text())
    assert html.text.count("nothing ran") == 1 and "Experiments" not in html.text


def test_workloads_are_kept_apart_and_named(tmp_path):
    report.write([samples.noise(), samples.shuffle()], tmp_path, title="On digits", workload="digits, mlp:128")
    other = samples.noise()
    other.headline = "On text it is 36."
    report.write([other], tmp_path, title="On text", workload="text, lstm:32")
    source = (tmp_path / "report.html").read_text()
    html = Reader(source)
    assert "This directory holds 2 workloads, which are kept apart: digits, mlp:128, text, lstm:32" in html.text
    first, second = source.index("<h1>On digits</h1>"), source.index("<h1>On text</h1>")
    assert first < source.index("Predicted 141 to 240") < second < source.index("On text it is 36.")
    assert source.count("Predicted 141 to 240") == 1 == source.count("On text it is 36.")
    ids = [one["id"] for _, one in html.tags if "id" in one]
    assert len({*ids}) == len(ids)
    assert (tmp_path / "text-lstm-32" / "noise.svg").is_file() and (tmp_path / "noise.svg").is_file()


def test_a_file_that_cannot_be_read_is_said_on_the_page(tmp_path):
    report.write([samples.shuffle()], tmp_path)
    (tmp_path / "results" / "steps.json").write_text("{")
    html = Reader(report.rebuild(tmp_path).read_text())
    assert "results/steps.json is of another version or damaged, and left out" in html.unfolded
