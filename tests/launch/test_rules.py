"""Optimizers and schedules from the command line: each trains, does what it says, and goes on exactly."""

import argparse
import json

import pytest

from launch.options import add_options, given
from launch.train import train as train_here

SMALL = "--model mlp:8 --global-batch 100 --shards 2 --steps 12 --log-every 1"


def run(flags, out=None):
    """The summary of a run in this process, and its lines."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    asked = given(vars(parser.parse_args(flags.split())))
    summary = train_here(asked if out is None else {**asked, "out": str(out)})
    lines = [] if out is None else [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return summary, {line["step"]: line for line in lines}


def weights(flags):
    return run(f"{SMALL} {flags}")[0]["weights_sha256"]


OPTIMIZERS = [
    "sgd --lr 0.1 --momentum 0.9 --nesterov",
    "adagrad --lr 0.05",
    "rmsprop --lr 0.01 --momentum 0.5",
    "adam --lr 0.02",
    "adamw --lr 0.02",
    "lars --lr 1 --momentum 0.9",
    "lamb --lr 0.05",
]


@pytest.mark.parametrize("text", OPTIMIZERS)
def test_each_optimizer_trains(text):
    start, _ = run(f"{SMALL} --lr 0 --steps 1")
    summary, _ = run(f"{SMALL} --optimizer {text}")
    assert summary["train_loss"] < 0.8 * start["train_loss"] and summary["steps"] == 12


@pytest.mark.parametrize("text", OPTIMIZERS)
def test_each_option_of_an_optimizer_has_an_effect(text):
    plain = f"--optimizer {text}"
    decayed = f"{plain} --weight-decay 0.1 --l1 0.01"
    runs = [plain, f"{plain} --weight-decay 0.1", f"{plain} --l1 0.01", decayed, f"{decayed} --no-decay"]
    runs += [f"{plain} --no-decay"] * any(name in text for name in ("lars", "lamb"))
    assert len({weights(flags) for flags in runs}) == len(runs)


def test_the_gradients_are_clipped_by_value():
    assert weights("--clip-value 0.01") != weights("") == weights("--clip-value 1000")
    assert weights("--clip-value 0") == weights("--lr 0")


def test_no_decay_needs_a_parameter_of_one_axis(tmp_path):
    (tmp_path / "net.py").write_text(
        "from autograd import nn\n\n\ndef net(inputs, outputs):\n    return nn.Linear(inputs, outputs, bias=False)\n"
    )
    model = f"{tmp_path}/net.py:net"
    with pytest.raises(ValueError, match=r"--no-decay has no effect: .*net has no parameter of one axis"):
        run(f"{SMALL} --weight-decay 0.1 --no-decay --model {model}")


@pytest.mark.parametrize(
    "text, rates",
    [
        ("multistep:4,600samples,0.5", {1: 1.0, 4: 1.0, 5: 0.5, 6: 0.5, 7: 0.25, 12: 0.25}),
        ("step:0.2ep,0.1 --boundary carry", {1: 1.0, 3: 1.0, 4: 0.1, 7: 0.01}),
        ("restarts:4,2", {1: 1.0, 3: 0.5, 5: 1.0, 9: 0.5}),
        ("polynomial:3", {1: 1.0, 7: 0.125}),
        ("onecycle:0.5", {1: 0.04, 6: 1.0, 12: 4e-6}),
        ("plateau:0.5,0 --eval-every 2 --clip 0", {1: 1.0, 2: 1.0, 4: 1.0, 5: 0.5, 7: 0.25, 11: 0.0625}),
        ("constant --warmup 0.2ep", {1: 1 / 3, 2: 2 / 3, 3: 1.0, 4: 1.0}),
        ("plateau:0.5,0 --warmup 4 --eval-every 2 --clip 0", {1: 0.25, 4: 1.0, 5: 0.5}),
    ],
)
def test_schedules_set_the_rates_of_a_run(text, rates, tmp_path):
    lines = run(f"{SMALL} --lr 1.0 --schedule {text}", tmp_path / "out")[1]
    assert {step: lines[step]["lr"] for step in rates} == pytest.approx(rates)


@pytest.mark.parametrize("stop", [3, 4, 5, 9])  # between evaluations and at one
def test_a_plateau_goes_on_where_it_was(stop, tmp_path):
    flags = f"{SMALL} --optimizer lamb --lr 0.3 --no-decay --schedule plateau:0.5,0 --eval-every 2 --steps"
    whole, lines = run(f"{flags} 14", tmp_path / "whole")
    assert len({line["lr"] for line in lines.values()}) > 2
    run(f"{flags} {stop}", tmp_path / "out")
    again, others = run("--resume --steps 14", tmp_path / "out")
    assert again["weights_sha256"] == whole["weights_sha256"] and again["resumed_at"] == stop
    assert {step: line["lr"] for step, line in others.items()} == {step: line["lr"] for step, line in lines.items()}


def test_a_run_with_norms_groups_and_a_plateau_does_not_depend_on_the_ranks(train):
    flags = (
        "--model mlp:8 --global-batch 100 --shards 3 --steps 20 --optimizer lars --lr 50 --momentum 0.9 --no-decay "
        "--weight-decay 0.01 --l1 0.001 --clip-value 0.1 --schedule plateau:0.5,0 --eval-every 2 --warmup 0.2ep"
    )
    one, two = train(flags), train(flags, 2)
    for key in ("weights_sha256", "train_loss", "val_loss", "best"):
        assert one[key] == two[key]
