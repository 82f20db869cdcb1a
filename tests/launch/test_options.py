"""The options of a run: every flag, every refusal, and what a resumed run may change."""

import argparse

import pytest

from allgrad.ddp import ConfigurationError
from allgrad.launch.__main__ import main
from allgrad.launch.options import OPTIONS, add_options, checked, defaults, given, resumed

PROMISED = (
    "--data digits --model mlp:128 --optimizer sgd --lr 0.1 --global-batch 64 --epochs 5 --out runs/a --shards 8 "
    "--reduce native --arrays numpy --device cpu --backend mpi --seed 3 --momentum 0.9 --weight-decay 0.01 "
    "--schedule cosine --lr-rule linear --base-batch 32 --warmup 10 --clip 1.5 --checkpoint-every 100 --resume"
)


def parse(line):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    return given(vars(parser.parse_args(line.split())))


def test_every_promised_flag_is_understood():
    assert parse(PROMISED) == {
        "data": "digits", "model": "mlp:128", "optimizer": "sgd", "lr": 0.1, "global_batch": 64, "epochs": 5,
        "out": "runs/a", "shards": 8, "reduce": "native", "arrays": "numpy", "device": "cpu", "backend": "mpi",
        "seed": 3, "momentum": 0.9, "weight_decay": 0.01, "schedule": "cosine", "lr_rule": "linear",
        "base_batch": 32, "warmup": 10, "clip": 1.5, "checkpoint_every": 100, "resume": True,
    }  # fmt: skip
    assert parse("--steps 7") == {"steps": 7} and parse("") == {}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_default_is_a_value_that_the_option_takes(option):
    assert checked(option, option.default) == option.default
    if option.default is not None:
        text = option.default if option.kind is bool else str(option.default)
        assert type(checked(option, text)) is type(option.default)


BAD = [
    ("--lr fast", "--lr takes a number, got 'fast'"),
    ("--lr nan", "--lr takes a finite number, got nan"),
    ("--clip inf", "--clip takes a finite number, got inf"),
    ("--momentum -0.5", "--momentum is at least 0.0, got -0.5"),
    ("--seed -1", "--seed is at least 0, got -1"),
    ("--global-batch 0", "--global-batch is at least 1, got 0"),
    ("--global-batch 6.5", "--global-batch takes a whole number, got '6.5'"),
    ("--steps 1e3", "--steps takes a whole number, got '1e3'"),
    ("--optimizer sofia", "--optimizer sofia is not one of sgd, adagrad, adadelta, rmsprop, adam, adamw, radam, lion"),
    ("--reduce ring", "--reduce ring is not one of canonical, native, adasum"),
    ("--wire int8", "--wire int8 is not one of float32, float16, bfloat16"),
    ("--wire float16 --reduce native", "--wire float16 rounds at each node of the canonical tree, and --reduce native"),
    ("--compress topk", "--compress topk is not topk:SHARE, with a share of the elements in (0, 1], or powersgd:RANK"),
    ("--compress powersgd:2 --reduce native", "--compress powersgd:2 sends what --reduce native cannot take"),
    ("--compress topk:0.1 --wire float16", "--compress topk:0.1 sends what --wire float16 cannot take"),
    ("--compress topk:0.1 --arrays torch --dtype float16", "--compress topk:0.1 would keep what overflows in float16"),
    ("--sync-every 0", "--sync-every is at least 1, got 0"),
    ("--sync-every 4 --shards 2", "--sync-every takes local steps on each rank, which needs as many logical shards as"),
    ("--sync-every 4 --reduce adasum", "--sync-every 4 sends parameters, and --reduce adasum is for gradients"),
    ("--batch-norm sync", "--batch-norm sync has no effect on mlp:128: it has no batch normalisation"),
    ("--batch-norm sync --model cnn:4 --reduce adasum", "--batch-norm sync makes each shard's gradient depend on all"),
    ("--batch-norm sync --model cnn:4 --sync-every 4", "depend on all others, and --sync-every 4 takes each by itself"),
    ("--augment mixup", "--augment mixup is not crop, flip, or several, each once"),
    (
        "--augment crop --data text --model lstm:4",
        "--augment crop is for images, and a sample of text is none: leave it out",
    ),
    ("--sync-after 4", "--sync-after 4 has no effect without --sync-every"),
    ("--zero --sync-every 4", "--zero shares out one optimizer, and with --sync-every each rank has its own"),
    ("--zero --optimizer lars", "--zero: LARS works on whole parameters: it cannot update a part"),
    ("--accumulate 0", "--accumulate is at least 1, got 0"),
    ("--accumulate 2 --shards 2", "--accumulate and --shards both say how many logical shards: give one of them"),
    ("--device cuda", "--device has no effect on NumPy's arrays: add --arrays torch"),
    ("--precision tf32", "--precision has no effect on NumPy's arrays: add --arrays torch"),
    (
        "--arrays torch --precision tf32",
        "--precision tf32 is for products on a GPU, and has no effect with --device cpu: leave it out",
    ),
    ("--arrays torch --device tpu", "--device tpu is not cpu, cuda or cuda:N"),
    ("--arrays torch --device cuda:99", "--device cuda:99 "),  # this host has none, or fewer
    ("--dtype bfloat16", "NumPy does not compute in bfloat16: give --arrays torch, or --dtype float32"),
    ("--arrays jax", "--arrays jax is not one of numpy, torch"),
    ("--shards", "--shards: expected one argument"),
    ("--learning 1", "unrecognized arguments: --learning 1"),
    ("--lr 1 2", "unrecognized arguments: 2"),
    ("--shuffle epoch --epochs two", "--epochs takes a whole number, got 'two'"),
    ("--steps 1 --epochs 1", "--steps and --epochs both say how long to train"),
    ("--schedule square", "--schedule square is not one of constant, linear, cosine, polynomial:POWER, onecycle[:"),
    ("--schedule step:0,0.5", "--schedule step:0,0.5 is not one of"),
    ("--schedule cosine:3", "--schedule cosine:3 is not one of"),
    ("--schedule step:30epochs,0.1", "--schedule step:30epochs,0.1 is not one of"),
    ("--schedule step:2.5,0.1", "--schedule step:2.5,0.1 is not one of"),
    ("--schedule step:10,nan", "--schedule step:10,nan is not one of"),
    ("--schedule multistep:0.5", "--schedule multistep:0.5 is not one of"),
    ("--schedule multistep:20,10,0.5", "--schedule multistep:20,10,0.5 is not one of"),
    ("--schedule multistep:", "--schedule multistep: is not one of"),
    ("--schedule restarts:0", "--schedule restarts:0 is not one of"),
    ("--schedule restarts:10,0.5", "--schedule restarts:10,0.5 is not one of"),
    ("--schedule polynomial", "--schedule polynomial is not one of"),
    ("--schedule onecycle:1.5", "--schedule onecycle:1.5 is not one of"),
    ("--schedule exponential:-0.5", "--schedule exponential:-0.5 is not one of"),
    ("--schedule plateau:2,3", "--schedule plateau:2,3 is not one of"),
    ("--schedule plateau:0.1,1.5", "--schedule plateau:0.1,1.5 is not one of"),
    ("--overlap never", "--overlap never is not one of auto, after, bucket, thread"),
    ("--bucket-size 4GB", "--bucket-size takes a number of bytes, or 500KB, or 4MB, got '4GB'"),
    ("--bucket-size 0KB", "--bucket-size is at least 1, got 0"),
    ("--overlap after --bucket-size 4MB", "--bucket-size has no effect with --overlap after, where all gradients are"),
    ("--compress topk:0.1 --bucket-size 4MB", "--bucket-size has no effect with --compress topk:0.1, where all grad"),
    ("--overlap thread --reduce native", "--overlap thread exchanges gradients while others are still computed, and"),
    ("--warmup 5e", "--warmup takes a number of steps, or of epochs as 5ep, or of samples as 20000samples, got '5e'"),
    ("--warmup -1", "--warmup takes a number of steps, or of epochs as 5ep, or of samples as 20000samples, got '-1'"),
    ("--warmup 2.5", "--warmup takes a number of steps, or of epochs as 5ep, or of samples as 20000samples, got '2.5'"),
    ("--epochs 1 --warmup 2ep", "--warmup 2ep is longer than the run of 23 steps"),
    ("--l1 -1", "--l1 is at least 0.0, got -1"),
    ("--clip-value nan", "--clip-value takes a finite number, got nan"),
    ("--no-decay", "--no-decay has no effect on sgd without --weight-decay or --l1"),
    ("--optimizer lamb --nesterov", "--nesterov belongs to sgd, muon, not to lamb"),
    ("--optimizer rmsprop --momentum 1", "RMSprop: momentum is in [0, 1), got 1.0"),
    ("--momentum 1.0", "SGD: momentum is in [0, 1), got 1.0"),
    ("--nesterov", "SGD: nesterov needs a momentum above 0"),
    ("--optimizer adam --momentum 0.9", "--momentum belongs to sgd, rmsprop, lars, muon, not to adam"),
    ("--dropout 1.0", "--dropout is a probability from 0 to below 1, got 1.0"),
    ("--model mlp:", "'' is not a number of hidden units; write mlp:512,256"),
    ("--model mlp:16,-3", "'-3' is not a number of hidden units"),
    ("--resume", "--resume: there is no run to go on with"),
    ("--global-batch 1438", "--global-batch 1438 is larger than the 1,437 samples of digits: give at most 1437"),
    ("--steps 5 --warmup 6", "--warmup 6 is longer than the run of 5 steps"),
    ("--base-batch 32", "--base-batch has no effect without an --lr-rule"),
    ("--noise-layers", "--noise-layers has no effect with one logical shard"),
    ("--noise-scale 32", "--noise-scale has no effect without an --lr-rule"),
    ("--lr-rule linear", "--lr-rule linear has no effect without --base-batch: give the batch that --lr 0.1 is for"),
    ("--lr-rule adam_sde --base-batch 32", "--lr-rule adam_sde is for adam and adamw, not for sgd"),
    ("--lr-rule noise --base-batch 32", "--lr-rule noise needs the noise scale: give --noise-scale"),
    ("--lr-rule adascale --base-batch 32", "--lr-rule adascale needs the noise scale: give --shards 2 or more"),
    ("--lr-rule adam_sde --base-batch 6 --optimizer adam", "have to stay above 0: give a batch below 60, or larger"),
    ("--beta1 0.8", "--beta1 belongs to adam, adamw, radam, lion, lamb, soap, schedulefree-adamw, not to sgd"),
    ("--ema 1", "--ema 1 is not below 1: give the decay of the average, as 0.999"),
    ("--ema -0.1", "--ema is at least 0.0, got -0.1"),
    ("--ema 0.9 --optimizer schedulefree-sgd", "--ema 0.9 has no effect with ScheduleFreeSGD, whose weights are an av"),
    ("--optimizer soap --zero", "--zero: SOAP works on whole parameters: it cannot"),
    ("--optimizer soap --sync-every 4", "--sync-every 4 averages the parameters, and SOAP keeps more that belongs to"),
    ("--schedule wsd", "--schedule wsd is not one of"),
    ("--schedule wsd:0.0", "--schedule wsd:0.0 is not one of"),
    ("--schedule wsd:1.5", "--schedule wsd:1.5 is not one of"),
    ("--schedule wsd:0.2,cosine", "--schedule wsd:0.2,cosine is not one of"),
    ("--steps 5 --schedule wsd:6", "--schedule wsd:6 is not one of"),
    ("--optimizer adam --beta2 1", "Adam: beta2 is in [0, 1), got 1.0"),
    (
        "--batch-schedule grow",
        "--batch-schedule grow is not grow:F,EPOCH,..., seesaw:F,EPOCH,..., ramp:LENGTH:BATCH,... or noise:EVERY,MAX",
    ),
    ("--batch-schedule grow:2", "--batch-schedule grow:2 is not grow:F,EPOCH"),
    ("--batch-schedule grow:0.5,1", "grow:0.5,1: a batch grows by a factor above 1 at rising epochs, got 0.5 and 1"),
    ("--batch-schedule grow:9,1,2", "grow:9,1,2 makes batches of 5184 of 1437 samples: let it grow less"),
    ("--batch-schedule seesaw:2,1", "--batch-schedule seesaw is for adam and adamw: give grow:2,1"),
    (
        "--batch-schedule seesaw:2,1 --optimizer adam --schedule plateau:0.5,3 --eval-every 5",
        "--schedule plateau and --batch-schedule seesaw:2,1 both lower the rate as they go",
    ),
    ("--batch-schedule ramp:128", "--batch-schedule ramp:128 is not grow:F,EPOCH"),
    ("--batch-schedule ramp:1.5:128", "--batch-schedule ramp:1.5:128 is not grow:F,EPOCH"),
    ("--batch-schedule ramp:0:128", "rising lengths after the first step, got 128 from step 0 on after 64 from step 0"),
    ("--batch-schedule ramp:2ep:128,1ep:256", "got 256 from step 23 on after 128 from step 46 on"),
    ("--batch-schedule ramp:1ep:1500", "ramp:1ep:1500 makes batches of 1500 of 1437 samples: let it grow less"),
    (
        "--batch-schedule ramp:9:99 --lr-rule linear_warmup --base-batch 64",
        "ramp:9:99: the rate follows the batch with --lr-rule sqrt or linear, or stays with none, got linear_warmup",
    ),
    (
        "--batch-schedule ramp:9:99 --lr-rule sqrt --base-batch 64 --schedule plateau:0.5,3 --eval-every 5",
        "--schedule plateau and --lr-rule sqrt with --batch-schedule ramp:9:99 both change the rate as they go",
    ),
    ("--batch-schedule noise:1,500", "--batch-schedule noise:1,500 needs the noise scale: give --shards 2 or more"),
    ("--batch-schedule noise:1,500 --shards 2 --schedule cosine", "--schedule cosine counts steps, and with --batch-"),
    ("--batch-schedule noise:1,50 --shards 2", "noise:1,50: the largest batch is below --global-batch 64"),
    ("--batch-schedule noise:0,500 --shards 2", "changes every so many epochs, above 0, and is between 2"),
    ("--checkpoint-every 5", "--checkpoint-every needs an --out to write to"),
    ("--trace-steps 3:9", "--trace-steps has no effect without --trace"),
    ("--trace t --trace-steps 9:3", "--trace-steps takes steps FIRST:STOP, such as 20:40, got '9:3'"),
    ("--trace t --trace-steps 9", "--trace-steps takes steps FIRST:STOP, such as 20:40, got '9'"),
    ("--trace /dev/null/t", "--trace /dev/null/t cannot be written ("),
    ("--trace new/ --out new", "--trace new/ is the directory of --out: give a file in it"),
    ("--steps 5 --trace t --trace-steps 5:9", "the trace is to begin at step 5, and the run ends with step 4"),
    ("--trace=", "--trace is empty"),
    ("--config none.toml", "--config none.toml cannot be read"),
]


@pytest.mark.parametrize("flags, text", BAD, ids=[flags for flags, _ in BAD])
def test_bad_values_get_one_sentence_and_status_2(flags, text, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *flags.split()]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("allgrad: ") and text in line and printed.out == ""


@pytest.mark.parametrize("text, count", [("1", 1), ("4096", 4096), ("500KB", 500_000), ("4MB", 4_000_000)])
def test_sizes_are_bytes_in_powers_of_1000(text, count):
    assert parse(f"--bucket-size {text}") == {"bucket_size": count}


FILES = [
    ("warmup = 2.5", "--warmup takes a number of steps"),
    ("lr = [0.1]", "--lr takes a number, got [0.1]"),
    ("steps = 2.5", "--steps takes a whole number, got 2.5"),
    ("resume = 1", "--resume takes true or false, got 1"),
    ("seed = true", "--seed takes a whole number, got True"),
    ("learning_rate = 0.1\nbatch = 3", "has unknown keys: batch, learning_rate"),
    ("lr = ", "cannot be read"),
    ("steps = 1\nepochs = 2", "--steps and --epochs both say how long to train"),
]


@pytest.mark.parametrize("text, told", FILES)
def test_bad_files_get_one_sentence(text, told, tmp_path, capsys):
    (tmp_path / "run.toml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "run.toml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("", {"lr": 0.5, "epochs": 3, "global_batch": 40}),
        ("--lr 0.25", {"lr": 0.25, "epochs": 3, "global_batch": 40}),
        ("--epochs 7", {"lr": 0.5, "epochs": 7, "global_batch": 40}),
        ("--steps 7", {"lr": 0.5, "steps": 7, "global_batch": 40}),
    ],
)
def test_flags_win_over_the_file(flags, expected, tmp_path):
    (tmp_path / "run.toml").write_text("lr = 0.5\nepochs = 3\nglobal-batch = 40\n")
    assert parse(f"--config {tmp_path / 'run.toml'} {flags}") == expected


@pytest.mark.parametrize(
    "flags, value", [("", None), ("--capture", "on"), ("--capture off", "off"), ("--capture auto --lr 1", "auto")]
)
def test_capture_alone_is_on(flags, value):
    assert parse(flags).get("capture") == value


@pytest.mark.parametrize("text, value", [("true", "on"), ("false", "off"), ('"auto"', "auto")])
def test_capture_in_a_file_and_in_a_run_from_before_it_had_three_values(text, value, tmp_path):
    (tmp_path / "run.toml").write_text(f"capture = {text}\n")
    assert parse(f"--config {tmp_path / 'run.toml'}") == {"capture": value}
    if value != "auto":
        assert resumed({**defaults(), "capture": text == "true"}, {})["capture"] == value


# --- a resumed run -----------------------------------------------------------------------------------------------

MAY_CHANGE = {
    "epochs": 9, "log_every": 3, "checkpoint_every": 4, "data_dir": "/data", "out": "b", "backend": "gloo",
    "timeout": 9.0, "check_every": 5, "overlap": "thread", "bucket_size": 9000, "noise_layers": True,
    "trace": "t.json", "trace_steps": "3:9",
}  # fmt: skip


@pytest.mark.parametrize("name", [option.name for option in OPTIONS])
def test_what_shapes_the_weights_may_not_change(name):
    saved = {**defaults(), "shards": 4, "lr": 0.3, "resume": False}
    option = next(option for option in OPTIONS if option.name == name)
    other = MAY_CHANGE.get(name) or {float: 0.77, bool: True, str: "other"}.get(option.kind, 77)
    if name in {*MAY_CHANGE, "resume", "steps", "zero", "capture", "checkpoint_activations"}:
        assert resumed(saved, {name: other})[name] == other
    else:
        with pytest.raises(ConfigurationError, match=f"{option.flag} {other} contradicts the checkpoint") as error:
            resumed(saved, {name: other})
        assert "None" not in str(error.value)
    assert resumed(saved, {name: saved[name]}) == saved


@pytest.mark.parametrize(
    "schedule, free",
    [("constant", True), ("step:10,0.5", True), ("restarts:5ep,2", True), ("plateau:0.1,3", True), ("cosine", False),
     ("linear", False), ("polynomial:2", False), ("onecycle", False), ("onecycle:0.2", False)],
)  # fmt: skip
def test_the_end_may_move_unless_the_schedule_was_planned_over_it(schedule, free):
    saved = {**defaults(), "schedule": schedule, "steps": 100}
    for asked in ({"steps": 200}, {"epochs": 7}):
        if free:
            expected = {**saved, "steps": None, **asked}
            assert resumed(saved, asked) == expected
        else:
            with pytest.raises(ConfigurationError, match="contradicts the checkpoint"):
                resumed(saved, asked)


# --- places ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_of_options_is_utf8_with_or_without_a_mark(mark, tmp_path):
    (tmp_path / "run.toml").write_bytes(mark + "# Größe\ndata = 'größe.csv'\nlr = 2\n".encode())
    assert given({"config": str(tmp_path / "run.toml")}) == {"data": "größe.csv", "lr": 2.0}


def test_a_home_stands_for_itself_in_every_option_that_is_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    (tmp_path / "run.toml").write_text("out = '~/out'\ndata = 'text:~/t.txt?context=8'\ndata-dir = '~/d'\n")
    asked = {"config": str(tmp_path / "run.toml"), "model": "~/net.py:Net", "init_from": "~/run", "trace": "~/t.json"}
    found = given(asked)
    assert found == {
        "out": "/home/ada/out", "data": "text:/home/ada/t.txt?context=8", "data_dir": "/home/ada/d",
        "model": "/home/ada/net.py:Net", "init_from": "/home/ada/run", "trace": "/home/ada/t.json",
    }  # fmt: skip
    for name, value in {"data": "digits", "model": "mlp:3", "freeze": "~"}.items():
        assert given({name: value}) == {name: value}


@pytest.mark.parametrize(
    "name, then, now, moves",
    [
        ("data", "a/x.csv", "b/y.csv", True), ("data", "a/x.csv", "csv:b/x.csv", True),
        ("data", "x.csv?label=u", "y.csv?label=u", True), ("data", "x.csv?label=u", "y.csv?label=v", False),
        ("data", "x.csv", "x.npz", False), ("data", "x.csv", "digits", False), ("data", "digits", "mnist", False),
        ("data", "text:a", "text:b", True), ("data", "text:a?context=4", "text:a?context=5", False),
        ("model", "a/net.py:Net", "b/net.py:Net", True), ("model", "net.py:Net", "net.py:Other", False),
        ("model", "net.py:Net", "mlp:3", False), ("model", "mlp:3", "mlp:4", False),
    ],
)  # fmt: skip
def test_files_may_move_and_what_else_a_name_says_may_not_change(name, then, now, moves):
    saved = {**defaults(), name: then}
    if moves:
        assert resumed(saved, {name: now})[name] == now
    else:
        with pytest.raises(ConfigurationError, match="contradicts the checkpoint"):
            resumed(saved, {name: now})
