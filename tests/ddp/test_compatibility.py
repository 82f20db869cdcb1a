"""The table of what contradicts what: each of its rows is refused, by Python and by the command line."""

import pytest

from allgrad import nn
from allgrad.ddp import ConfigurationError, DistributedDataParallel, LossScale, NoiseScale, Placement, Timeline
from allgrad.ddp.compatibility import TABLE, check, contradiction, name_of, takes_all_at_once
from allgrad.ddp.errors import THINGS, as_argument
from allgrad.launch import train as training
from allgrad.launch.__main__ import main
from allgrad.launch.flags import as_flag
from allgrad.launch.options import OPTIONS

VALUES = {  # one that an option of the table without a value may have
    "bucket_bytes": 4000, "checkpoint_activations": True, "checkpoint_every": 5, "compress": "topk:0.1", "ema": 0.9,
    "noise": True, "noise_layers": True, "reduce": "native", "sync_after": 3, "sync_every": 4,
    "trace": "t.json", "trace_steps": "3:9", "wire": "bfloat16", "zero": True,
}  # fmt: skip
NO_FLAGS = {"noise"}  # follow from others: a run that can measure its noise does


def given(option):
    """{name: value} of an option of the table."""
    name, _, value = option.removeprefix("no ").partition("=")
    if option.startswith("no "):
        return {name: None}
    return {name: int(value) if value.isdecimal() else value or VALUES[name]}


def says(text, option, spell):
    """Whether a text names the option: as given, or its name or its value alone."""
    ((name, value),) = given(option).items()
    return spell(name, value) in text or spell(name, None) in text or (isinstance(value, str) and value in text)


IDS = [f"{row.option}, {row.other}" for row in TABLE]


@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_every_row_is_refused_and_says_both_options_and_why(row):
    options = given(row.option) | given(row.other)
    with pytest.raises(ConfigurationError) as caught:
        check(**options)
    for spell, text in ((as_argument, str(caught.value)), (as_flag, caught.value.told(as_flag))):
        assert says(text, row.option, spell) and says(text, row.other, spell), text
        assert len(text.split()) > 5 and "{" not in text
    assert "--" not in str(caught.value)


@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_an_option_alone_is_not_refused(row):
    lone = given(row.option)
    assert contradiction(**lone) is None
    sound = {name_of(row.other): "t" if row.other.startswith("no ") else None}
    assert contradiction(**lone, **sound) is None


PYTHON = [  # rows of options that `DistributedDataParallel` takes
    row for row in TABLE
    if not {name_of(row.option), name_of(row.other)}
    & {
        "bucket_bytes", "checkpoint_activations", "checkpoint_every", "device", "ema", "noise_layers", "trace_steps",
        "zero",
    }
]  # fmt: skip


@pytest.mark.parametrize("row", PYTHON, ids=[f"{row.option}, {row.other}" for row in PYTHON])
def test_distributed_data_parallel_refuses(row, tmp_path):
    options = {key: v for option in (row.option, row.other) for key, v in given(option).items() if v is not None}
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    things = {
        "dtype": lambda: {"scale": LossScale()}, "noise": lambda: {"noise": NoiseScale()},
        "trace": lambda: {"timeline": Timeline(tmp_path / "t.json")},
    }  # fmt: skip
    for name in things.keys() & options.keys():
        options.pop(name)
        options |= things[name]()
    with pytest.raises(ConfigurationError) as caught:
        DistributedDataParallel(model, **options)
    text = str(caught.value)
    assert says(text, row.option, as_argument) and says(text, row.other, as_argument) and "--" not in text


COMMAND = [row for row in TABLE if not {name_of(row.option), name_of(row.other)} & NO_FLAGS]


@pytest.mark.parametrize("row", COMMAND, ids=[f"{row.option}, {row.other}" for row in COMMAND])
def test_the_command_line_refuses_in_flags(row, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = {**given(row.option), **given(row.other)}
    if "batch_norm=sync" in (row.option, row.other):
        words["model"] = "resnet:8"
    if words.keys() & {"device", "dtype"}:
        pytest.importorskip("torch")
        words["arrays"] = "torch"
        monkeypatch.setattr(training, "_placement", lambda *given: Placement("cpu"))  # where no GPU is
    line = ["train", "--steps", "5"]
    for name, value in words.items():
        if value is not None:
            line += as_flag(name, value).split(" ", 1)
    if "shards" not in words and "sync_every" not in words:
        line += ["--shards", "2"]
    assert main(line) == 2
    (text,) = capsys.readouterr().err.splitlines()
    assert says(text, row.option, as_flag) and says(text, row.other, as_flag), text


def test_what_is_told_has_a_flag_or_is_known_by_words():
    """So that the command line never speaks of an argument of Python."""
    names = {name_of(option) for row in TABLE for option in row[:2]}
    assert {name for name in names if not as_flag(name, None).startswith("--")} <= THINGS.keys()
    assert not names - THINGS.keys() - {option.name for option in OPTIONS} - {"bucket_bytes"}


def test_why_nothing_can_overlap_with_backward():
    assert takes_all_at_once(reduce="canonical", compress=None, sync_every=None, batch_norm="shard") is None
    found = takes_all_at_once(reduce="adasum", compress="topk:0.1")
    assert found == "compress='topk:0.1' takes all gradients at once"
    assert found.told(as_flag) == "--compress topk:0.1 takes all gradients at once"
