"""The examples: run as their docstrings say, they print the same on any number of ranks, and what they print is so."""

import ast
import functools
import os
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from launch import launchers

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = {"digits_mlp": 59, "xor": 119, "learning_rate": 119, "batch_size": 119}  # lines
QUICK = {"char_transformer": "--steps 4", "char_lstm": "--steps 4", "resnet_search": "--trials 4 --epochs 1"}
LONGEST |= dict.fromkeys(QUICK, 119)


def commands(name):
    """What the docstring tells the reader to type."""
    docstring = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8")), clean=False)
    return [line.strip() for line in docstring.splitlines() if line.startswith("    ")]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A function that runs a command in a folder that has only the examples in it, once, and returns its output."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "examples").symlink_to(EXAMPLES)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as in an activated environment
    variables = launchers.command("mpirun", 2, [])[1]
    environment = {**os.environ, **variables, "PATH": path, "PYTHONPATH": str(EXAMPLES.parent)}

    @functools.cache
    def start(command):
        done = subprocess.run(
            shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr, done.stderr
        return done.stdout

    start.folder = folder
    return start


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == LONGEST.keys()


@pytest.mark.parametrize("name", LONGEST)
def test_an_example_is_short_and_begins_with_its_commands(name):
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= LONGEST[name]
    alone = f"python examples/{name}.py"
    torchrun = [f"torchrun --standalone --nproc-per-node 2 examples/{name}.py"] if name == "digits_mlp" else []
    assert commands(name) == [alone, f"mpirun -n 2 {alone}", *torchrun]


@pytest.mark.parametrize("name", ["digits_mlp", "xor", "learning_rate"])
def test_all_its_commands_print_the_same(name, started):
    alone, *others = commands(name)
    for command in others:
        assert started(command) == started(alone), command


def test_digits_mlp_learns(started):
    text = started(commands("digits_mlp")[0])
    losses = [float(loss) for loss in re.findall(r"training loss (\S+) nats", text)]
    assert len(losses) == 5 and losses == sorted(losses, reverse=True)
    assert float(re.search(r"validation accuracy (\S+)", text)[1]) > 0.95
    assert re.search(r"weights sha256 [0-9a-f]{64}\n$", text)


def test_xor_by_hand_agrees_with_the_graph_and_is_learned(started):
    text = started(commands("xor")[0])
    by_hand, in_graph = re.search(r"d loss / d w: (\S+) by hand, (\S+) in the graph", text).groups()
    assert float(by_hand) == pytest.approx(float(in_graph), abs=2e-6) and float(by_hand) != 0
    column = re.search(r"^ +node .*(?=d result / d node)", text, re.MULTILINE).end() - text.index("    node")
    steps = re.findall(r"(-?\d\.\d{4})  (#\d)", text)  # the product so far, and the node that has it
    assert [node for _, node in steps] == ["#7", "#6", "#3", "#2", "#0"]
    for product, node in steps:
        line = re.search(rf"^{node} .*$", text, re.MULTILINE)[0]
        first = re.search(r"-?\d+\.\d*", line[column:])[0]
        assert float(first) == pytest.approx(float(product), abs=2e-4)
    answers = re.findall(r"(\d) xor (\d) is (\d), the network says (\S+)", text)
    assert len(answers) == 4
    for a, b, target, answer in answers:
        assert int(a) ^ int(b) == int(target) and abs(float(answer) - int(target)) < 0.1


@pytest.mark.parametrize("name", ["learning_rate", "batch_size"])
def test_a_figure_is_drawn_for_half_a_page(name, started):
    sentence, where = started(commands(name)[0]).splitlines()
    assert sentence.startswith("After ") and sentence.endswith(".") and "nan" not in sentence
    assert where == f"figure: runs/{name}.png"
    figure = (started.folder / "runs" / f"{name}.png").read_bytes()
    assert figure.startswith(b"\x89PNG\r\n\x1a\n") and len(figure) > 20_000
    width, height = struct.unpack(">II", figure[16:24])
    assert width == 1050 and 700 < height < 1500  # 3.5 inches at 300 dots an inch


def test_the_learning_rates_show_what_the_example_is_for(started):
    text = started(commands("learning_rate")[0])
    assert "lowest at rate 1," in text and "diverged: 10 after" in text
    too_small, slow = (float(re.search(rf"(\S+) at {rate},", text)[1]) for rate in ("0.01", "0.1"))
    best, guessing = float(re.search(r"with (\S+) nats", text)[1]), float(re.search(r"(\S+) for guessing", text)[1])
    assert best < slow / 10 < too_small / 100 and too_small < guessing


def test_the_batch_sizes_show_what_the_example_is_for(started):
    """A rate in proportion keeps the loss of an epoch, the same rate that of a step, until the batch is too large."""
    text = started(commands("batch_size")[0])
    base = float(re.search(r"is (\S+) nats at batch", text)[1])
    triples = re.findall(r"(\S+), (\S+), (\S+) (?:with|after)", text)
    scaled, same, early = ([float(loss) for loss in triple] for triple in triples)
    assert scaled[:2] == pytest.approx([base, base], rel=0.2) and scaled[2] > 10 * base
    assert same == pytest.approx(early, rel=0.1) and min(same) > 5 * base


def short(name):
    """Its first command, with less to do."""
    return f"{commands(name)[0]} {QUICK[name]}"


@pytest.mark.parametrize("name", QUICK)
def test_larger_networks_print_and_draw_the_same_on_two_ranks(name, started):
    text = started(short(name))
    assert text.endswith(f"\nfigure: runs/{name}.png\n") and "nan" not in text
    shared = started(f"mpirun -n 2 {short(name)} --out shared/{name}.png")
    assert shared == text.replace("figure: runs", "figure: shared")
    figure, same = [(started.folder / folder / f"{name}.png").read_bytes() for folder in ("runs", "shared")]
    assert figure == same and figure.startswith(b"\x89PNG\r\n\x1a\n") and len(figure) > 20_000


@pytest.mark.parametrize("name", ["char_transformer", "char_lstm"])
def test_a_network_that_has_begun_to_learn_needs_fewer_bits_and_writes_from_its_start(name, started):
    text = started(short(name))
    losses = [float(loss) for loss in re.findall(r"validation (\S+) bits", text)]
    assert len(losses) == 4 and losses[0] < 6.6 and losses[-1] < losses[0] - 0.1  # log2(97) for guessing
    last, unigram, bigram = map(float, re.search(r"takes (\S+) bits; .* takes (\S+), a bigram (\S+)\. ", text).groups())
    assert last == pytest.approx(losses[-1], abs=0.006) and 2 < bigram < unigram - 0.5 < 5
    assert len(re.search(r"^--- written .* ---\n(def .*)\n---$", text, re.MULTILINE | re.DOTALL)[1]) == 204
    assert re.search(r"^weights sha256 [0-9a-f]{16}$", text, re.MULTILINE)


# What an example has computed beside the training, against what the model itself computes.
ATTENTION = """
codes = np.array([text.vocabulary.index(character) for character in PIECE])
weights, seen, attend = attention(codes), [], model.blocks[-1].self_attn
model.blocks[-1].self_attn = lambda x, *rest: seen.append((x, attend(x, *rest))) or seen[-1][1]
model(codes[None])
x, y = (each.data[0] for each in seen[0])
values = x @ attend.in_proj_weight.data[2 * WIDTH :].T + attend.in_proj_bias.data[2 * WIDTH :]
mixed = np.concatenate([w @ v for w, v in zip(weights, np.split(values, HEADS, 1))], 1)
assert np.allclose(mixed @ attend.out_proj.weight.data.T + attend.out_proj.bias.data, y, atol=1e-5)
assert np.allclose(weights.sum(2), 1) and not np.triu(weights, 1).any()
"""
CELLS = """
codes = np.array([text.vocabulary.index(character) for character in PIECE])
_, (_, c) = model.lstm(model.embedding(codes[None]))
assert np.allclose(cells(codes[None])[0, -1], c.data[0, 0], atol=1e-5)
assert counts("") == (0, 0, 0) and counts("(a\\n") == (0, 0, 0)
assert counts("x = [\\n    f(1, (2)") == (12, 4, 1)
"""


@pytest.mark.parametrize("name, check", [("char_transformer", ATTENTION), ("char_lstm", CELLS)])
def test_what_is_drawn_of_a_network_is_what_it_computes(name, check, tmp_path):
    code = f"import runpy, sys; globals().update(runpy.run_path(sys.argv[0], run_name='__main__'))\n{check}"
    start = f"import sys; sys.argv[0] = {str(EXAMPLES / name)!r} + '.py'\n"
    command = [sys.executable, "-c", start + code, "--steps", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_search_ranks_its_trials_and_reports_the_first(started):
    text = started(short("resnet_search"))
    rows = [
        tuple(map(float, row)) for row in re.findall(r"^ *(\S+) +(\d+) +(\d+) +(\S+) % +(\S+) %$", text, re.MULTILINE)
    ]
    assert len(rows) == 4 and [row[3] for row in rows] == sorted((row[3] for row in rows), reverse=True)
    assert all(1e-3 < rate < 10 and batch in (16, 64, 256) and width in (4, 8, 16) for rate, batch, width, *_ in rows)
    assert f"about {rows[0][3]:.2f} % of the validation images and {rows[0][4]:.2f} % of the test images" in text
    median = (rows[1][3] + rows[2][3]) / 2
    assert float(re.search(r"median trial about (\S+) %", text)[1]) == pytest.approx(median, abs=0.011)
