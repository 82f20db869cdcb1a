"""The examples: run as their docstrings say, they print the same on any number of ranks, and what they print is so."""

import ast
import functools
import math
import os
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from allgrad.launch import launchers
from allgrad.launch.data import idx

EXAMPLES = Path(__file__).parents[2] / "examples"
SHARED = "universal_approximation", "initialisation", "gradient_free", "restarts"  # ranks share out whole runs
QUICK = {  # options with which an example is done in a few seconds, and still shows what it is for
    "gan": "--steps 200",
    "hypernetwork": "--steps 600",
    "autoencoder": "--epochs 10",
    "lenet5": "--epochs 5",
    "grad_cam": "--epochs 6",
}
LARGER = {"char_transformer": "--steps 4", "char_lstm": "--steps 4", "resnet_search": "--trials 4 --epochs 1"}
SHORT = "xor", "learning_rate", "batch_size", *SHARED, *QUICK, *LARGER
LONGEST = {"digits_mlp": 59, "scaling_study": 39, **dict.fromkeys(SHORT, 119)}  # lines


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
            shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr, done.stderr
        return done.stdout

    start.folder = folder
    return start


def quickly(name, started, without="nothing"):
    """What an example prints when run alone, with its quick options if it has any; less the lines that begin so."""
    text = started(" ".join([commands(name)[0], *QUICK.get(name, "").split()]))
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(without))


def numbers(pattern, text):
    """The numbers that the groups of a pattern stand for; percentages as they are printed."""
    return [float(group) for group in re.search(pattern, text, re.DOTALL).groups()]


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


def test_a_scaling_study_is_that_of_any_number_of_ranks(started):
    alone, on_ranks = commands("scaling_study")
    text = started(alone)
    steps = [float(found) for found in re.findall(r"^batch +\d+: +(\S+) steps", text, re.MULTILINE)]
    assert len(steps) == 5 and steps[0] > 2.0 * steps[2] > 2.0 * steps[4]
    assert re.match(r"Critical batch size .*: sgd \d+ \[\d+, \d+\]", text)
    rows = started.folder / "runs" / "scaling_study" / "runs.jsonl"
    rows.unlink()
    assert started(on_ranks) == text and '"world_size":2' in rows.read_text(encoding="utf-8")


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


@pytest.mark.parametrize("name", QUICK)
def test_its_options_work_on_any_number_of_ranks(name, started):
    alone, on_two = (f"{command} {QUICK[name]}" for command in commands(name))
    text = started(alone)
    assert re.search(r"^weights sha256\b.* [0-9a-f]{16}$", text, re.MULTILINE)
    assert started(on_two.replace("-n 2", "-n 3")) == text  # so that ranks have uneven shares of the shards


@pytest.mark.parametrize("name", ["learning_rate", "batch_size", *QUICK])
def test_a_figure_is_drawn_for_half_a_page(name, started):
    *_, sentence, where = quickly(name, started, "weights sha256").splitlines()
    assert re.match(r"After |LeNet-5 ", sentence) and sentence.endswith(".") and "nan" not in sentence
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


def quick(name):
    return f"{commands(name)[0]} --quick"


@pytest.mark.parametrize("name", SHARED)
def test_two_ranks_share_out_the_runs_and_print_and_draw_what_one_does(name, started):
    text = started(quick(name))
    assert text.endswith(f".\nfigure: runs/{name}.png\n") and "nan" not in text
    shared = started(f"{commands(name)[1]} --quick --out figures/{name}.png")
    assert shared == text.replace("figure: runs", "figure: figures")
    figure, same = [(started.folder / folder / f"{name}.png").read_bytes() for folder in ("runs", "figures")]
    assert figure == same and figure.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", figure[16:24])
    assert width == 2100 and 700 < height < 1500  # 7 inches at 300 dots an inch


@pytest.mark.parametrize("name", SHARED)
def test_without_matplotlib_an_example_says_so_in_one_sentence(name, tmp_path):
    code = "import runpy, sys; sys.modules['matplotlib'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, EXAMPLES / f"{name}.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    sentence = "there is no matplotlib here to draw the figure with: pip install 'allgrad[study]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)
    assert not list(tmp_path.iterdir())


def test_wider_networks_come_closer_except_at_a_jump(started):
    text = started(quick("universal_approximation"))
    pairs = [(float(a), float(b)) for a, b in re.findall(r"from ([\d.]+) to ([\d.]+)", text)]
    smooth, jumps, largest_smooth, largest_jumps = pairs
    assert smooth[1] < smooth[0] / 2 and jumps[1] < jumps[0] and largest_smooth[1] < largest_smooth[0]
    assert smooth[1] < jumps[1] and largest_jumps[1] > 0.99
    assert all(largest > rms for rms, largest in zip(smooth + jumps, largest_smooth + largest_jumps))


def test_the_spread_of_the_weights_decides_what_reaches_the_last_layer(started):
    rows = re.findall(r"^(ReLU|Tanh) +(\w.*?)  +(\S.*)$", started(quick("initialisation")), re.MULTILINE)
    table = {(kind, name): [float(number) for number in numbers.split()] for kind, name, numbers in rows}
    assert len(table) == 10
    forward = {key: row[1] / row[0] for key, row in table.items()}  # from the first layer to the last
    backward = {key: row[2] / row[3] for key, row in table.items()}
    for factors in (forward, backward):
        assert 0.2 < factors["ReLU", "Kaiming"] < 5
        assert factors["ReLU", "1/n"] == pytest.approx(2 ** (-19 / 2), rel=0.5)  # half the variance is lost each time
        assert factors["ReLU", "Xavier"] == pytest.approx(factors["ReLU", "1/n"], rel=0.2)
        assert factors["ReLU", "too small"] == pytest.approx((0.05**2 * 64 / 2) ** (19 / 2), rel=0.7)
        assert factors["ReLU", "too large"] == pytest.approx((0.5**2 * 64 / 2) ** (19 / 2), rel=0.7)
    assert 0.2 < forward["Tanh", "1/n"] < 1 < 100 < backward["Tanh", "too large"]
    assert [key for key, row in table.items() if row[5] == float("inf")] == [("ReLU", "too large")]
    for kind in ("ReLU", "Tanh"):
        lowest = min(row[5] for (other, _), row in table.items() if other == kind)
        assert lowest == table[kind, "Kaiming"][5] < table[kind, "Kaiming"][4]


def test_sgd_is_first_on_the_smooth_objective_and_does_not_move_on_the_steps(started):
    text = started(quick("gradient_free"))
    smooth, steps = (
        [float(re.search(rf"{name} ([\d.]+)", part)[1]) for name in ("SGD", "annealing", "evolution", "swarm")]
        for part in text.split("; ")
    )
    assert min(smooth) == smooth[0] and 0 < smooth[0] < smooth[1]
    assert f"where SGD started from {steps[0]:g}." in text and max(steps[1:]) < steps[0]


def test_the_best_start_is_that_of_the_lowest_validation_loss(started):
    text = started(quick("restarts"))
    winner = int(re.search(r"number (\d+)", text)[1])
    best, median, worst, guessing = map(
        float, re.search(r"of (\S+) nats, .* (\S+) and .* (\S+), .* (\S+);", text).groups()
    )
    assert 0 <= winner < 4 and winner % 2 == 1  # the weights come from the second of two ranks
    assert best < median < worst < guessing and 80 < float(re.search(r"right about (\S+) %", text)[1]) <= 100


def test_the_gan_finds_the_modes(started):
    covered, modes, before, close, close_before = numbers(
        r"covers (\d+) of (\d+) modes, before training (\d+); (\S+)% of .* before training (\S+)%;",
        quickly("gan", started),
    )
    assert before <= 1 and modes / 2 < covered <= modes and close > 10 > close_before


def test_the_hypernetwork_knows_unseen_codes_better_than_their_neighbours_do(started):
    text = quickly("hypernetwork", started)
    trained, unseen, nearest = numbers(r"is (\S+) for the 7 .* and (\S+) for the 6 .* one have (\S+);", text)
    assert trained < 0.8 * nearest and unseen < 0.8 * nearest < 0.8


def test_the_autoencoder_beats_principal_components(started):
    text = quickly("autoencoder", started)
    drawn, linearly, mean = numbers(r"error of (\S+) of .* (\S+) by principal components and (\S+) by the mean", text)
    assert 0 < drawn < linearly < mean < 0.5


def test_lenet5_learns(started):
    text = quickly("lenet5", started)
    weights, last, first, guessing, right = numbers(
        r"with (\d+) weights: .* is (\S+) nats, after one (\S+), and (\S+) for .* images (\S+)% are right", text
    )
    assert weights == 61706  # 156 + 2416 + 48120 + 10164 + 850
    assert last < 1 < 2 < first < 3 and guessing == 2.3 and 75 < right <= 100


def test_lenet5_takes_mnist_where_all_of_it_lies(started):
    folder = started.folder / "with_mnist"
    folder.mkdir()
    for i, file in enumerate(idx.FILES):
        shape = (16 + i // 2, 28, 28) if "images" in file else (16 + i // 2,)
        header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
        (folder / file).write_bytes(header + bytes(i % 7 for i in range(math.prod(shape))))
    command = f"{commands('lenet5')[0]} --epochs 1 --out runs/mnist.png --data-dir with_mnist"
    assert started(command).startswith("Data: MNIST from with_mnist; 16 images to train, 17 to validate.\n")
    (folder / idx.FILES[3]).unlink()
    text = started(f"{command}/")  # the same folder by another name: each command is run only once
    assert text.startswith("Data: the embedded digits,") and "(no MNIST in with_mnist); 1437 images to train" in text


def test_grad_cam_erases_what_counts(started):
    text = quickly("grad_cam", started)
    whole, hottest, anywhere, another, own = numbers(
        r"probability of (\S+)%, (\S+)% without .* pixels, (\S+)% without .* and (\S+)% without .* with two, (\S+)% of",
        text,
    )
    assert 0 < hottest < another < anywhere < whole <= 100 and own > 50


def short(name):
    """Its first command, with less to do."""
    return f"{commands(name)[0]} {LARGER[name]}"


@pytest.mark.parametrize("name", LARGER)
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
look = lambda x, *rest, **masks: seen.append((x, attend(x, *rest, **masks))) or seen[-1][1]
vars(model.blocks[-1])["self_attn"] = look
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
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
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
