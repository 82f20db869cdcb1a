"""Optimizers and schedules from the command line: each trains, does what it says, and goes on exactly."""

import argparse
import json

import pytest

from allgrad import ddp
from allgrad.launch.options import add_options, given
from allgrad.launch.train import train as train_here

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
    "lion --lr 0.005",
    "lars --lr 1 --momentum 0.9",
    "lamb --lr 0.05",
    "muon --lr 0.02 --momentum 0.9",
    "soap --lr 0.02",
    "schedulefree-sgd --lr 0.5",
    "schedulefree-adamw --lr 0.02",
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
        "from allgrad import nn\n\n\ndef net(inputs, outputs):\n    return nn.Linear(inputs, outputs, bias=False)\n"
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
    assert len({line["lr"] for line in lines.values()}) > 1
    run(f"{flags} {stop}", tmp_path / "out")
    again, others = run("--resume --steps 14", tmp_path / "out")
    assert again["weights_sha256"] == whole["weights_sha256"] and again["resumed_at"] == stop
    assert {step: line["lr"] for step, line in others.items()} == {step: line["lr"] for step, line in lines.items()}


@pytest.mark.parametrize(
    "text, rates",
    [
        ("linear_warmup --warmup 4 --base-batch 25", {1: 0.175, 2: 0.25, 4: 0.4, 5: 0.4, 12: 0.4}),
        (
            "linear_warmup --base-batch 50",
            {1: 0.1 + 0.1 / 6, 6: 0.2, 12: 0.2},
        ),  # half an epoch is 8 steps, half a run 6
        ("sqrt --base-batch 25 --warmup 2", {1: 0.1, 2: 0.2, 3: 0.2}),
        ("noise --noise-scale 100 --base-batch 25", {1: 0.25, 12: 0.25}),
    ],
)
def test_rules_set_the_rates_of_a_run(text, rates, tmp_path):
    lines = run(f"{SMALL} --lr 0.1 --lr-rule {text}", tmp_path / "out")[1]
    assert {step: lines[step]["lr"] for step in rates} == pytest.approx(rates)


def test_rules_change_betas_and_eps_as_if_the_user_had():
    ruled = weights("--optimizer adam --lr 0.005 --lr-rule adam_sde --base-batch 25 --eps 2e-8 --beta2 0.99")
    assert ruled == weights("--optimizer adam --lr 0.01 --beta1 0.6 --beta2 0.96 --eps 1e-8")
    assert ruled != weights("--optimizer adam --lr 0.01 --beta1 0.6 --beta2 0.96 --eps 1e-7")
    assert weights("--optimizer adam --lr-rule half_life --base-batch 50 --beta2 0.9") == weights(
        f"--optimizer adam --beta2 {0.9**2!r}"
    )


def test_a_batch_above_the_measured_noise_scale_gets_a_warning(capsys):
    summary, _ = run("--model mlp:8 --global-batch 1000 --shards 4 --steps 8 --lr-rule sqrt --base-batch 100")
    out = capsys.readouterr().out
    assert summary["noise_scale"] < 1000
    assert "learning rate 0.1 at batch 100 becomes 0.316228 at batch 1000 by the rule 'sqrt'" in out
    assert "warning: batch 1000 exceeds the noise scale of " in out and "(measured at the end)" in out


@pytest.mark.parametrize("rule, power", [("none", 0.0), ("sqrt", 0.5), ("linear", 1.0)])
def test_a_ramp_has_its_batches_and_the_rate_follows_by_the_rule(rule, power, tmp_path):
    base = "--base-batch 10" if rule != "none" else ""
    flags = f"--model mlp:8 --global-batch 20 --lr 0.01 --log-every 1 --steps 14 --boundary carry {base}"
    lines = run(f"{flags} --lr-rule {rule} --batch-schedule ramp:4:40,200samples:80,0.5ep:160", tmp_path / "out")[1]
    # 4 x 20 samples, 3 x 40 to reach 200, 7 x 80 to reach half of 1437, then 160
    batches = [20] * 4 + [40] * 3 + [80] * 7
    assert [lines[step]["batch"] for step in range(1, 15)] == batches
    assert [lines[step]["lr"] for step in range(1, 15)] == pytest.approx([0.01 * (b / 10) ** power for b in batches])


CHANGING = [
    "--lr-rule adascale --base-batch 20 --lr 0.03 --momentum 0.9 --schedule cosine --steps 20",
    "--batch-schedule noise:0.25,400 --epochs 2",
    "--batch-schedule noise:0.25,400,2.5 --epochs 2 --boundary carry --schedule plateau:0.5,0 --eval-every 5",
    "--batch-schedule grow:1.5,0.5,1 --epochs 2 --schedule cosine",
    "--batch-schedule seesaw:2,0.5,1ep --optimizer adam --lr 0.01 --epochs 2",
    "--batch-schedule ramp:7:60,0.5ep:90,1000samples:80 --lr-rule sqrt --base-batch 10 --lr 0.02 --epochs 2",
]


@pytest.mark.parametrize("text", CHANGING)
def test_a_batch_or_gain_that_changes_goes_on_where_it_was(text, tmp_path, monkeypatch):
    """Also from a checkpoint on the way, of which nothing later is known."""
    flags = f"--model mlp:8 --global-batch 40 --shards 4 --log-every 1 --checkpoint-every 9 {text}"
    whole, lines = run(flags, tmp_path / "whole")
    assert len({(line["lr"], line["batch"]) for line in lines.values()}) > 1
    seen = [line["samples_seen"] for line in lines.values()]
    assert all(b - a <= lines[i]["batch"] for i, (a, b) in enumerate(zip([0, *seen], seen), 1))
    if "--epochs 2" in text and "carry" not in text:
        assert whole["epochs"] == 2.0
    save = ddp.Trainer.save

    def killed(trainer):
        save(trainer)
        if trainer.step == 9:
            trainer.writer.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(ddp.Trainer, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(flags, tmp_path / "out")
    monkeypatch.undo()
    again, others = run("--resume", tmp_path / "out")
    keys = ("lr", "batch", "loss", "noise_scale", "noise_scale_ci")
    assert [[line[k] for k in keys] for line in others.values()] == [[line[k] for k in keys] for line in lines.values()]
    assert again["weights_sha256"] == whole["weights_sha256"] and again["resumed_at"] == 9
    assert again.get("batches") == whole.get("batches")


def test_steps_end_a_run_whose_batch_follows_the_noise():
    flags = "--model mlp:8 --global-batch 40 --shards 4 --batch-schedule noise:0.25,400 --lr 0.5"
    summary, _ = run(f"{flags} --steps 40")
    assert summary["steps"] == 40 and len(summary["batches"]) > 1


def test_adascale_ends_when_it_has_made_the_steps_of_the_base_batch(tmp_path):
    flags = "--model mlp:8 --global-batch 160 --shards 8 --lr-rule adascale --base-batch 20 --lr 0.02 --epochs 1"
    summary, lines = run(f"{flags} --log-every 1", tmp_path / "out")
    gains = [line["gain"] for line in lines.values()]
    assert gains[0] == 1.0 and all(1.0 <= gain <= 8.0 for gain in gains) and max(gains) > 1.5
    assert (
        sum(gains[:-1]) < 72 <= sum(gains) == pytest.approx(summary["scale_invariant_steps"])
    )  # of 20 of 1437 samples
    assert [line["lr"] for line in lines.values()] == pytest.approx([0.02 * gain for gain in gains])
    assert 72 / 8 <= summary["steps"] < 72 and not summary["stopped_early"]


def test_a_run_with_norms_groups_and_a_plateau_does_not_depend_on_the_ranks(train):
    flags = (
        "--model mlp:8 --global-batch 100 --shards 3 --steps 20 --optimizer lars --lr 50 --momentum 0.9 --no-decay "
        "--weight-decay 0.01 --l1 0.001 --clip-value 0.1 --schedule plateau:0.5,0 --eval-every 2 --warmup 0.2ep"
    )
    one, two = train(flags), train(flags, 2)
    for key in ("weights_sha256", "train_loss", "val_loss", "best"):
        assert one[key] == two[key]
