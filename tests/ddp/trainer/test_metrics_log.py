"""What a run leaves to read: lines that a resumed run continues, and a summary."""

import json
from types import SimpleNamespace

import pytest

from allgrad.ddp import ConfigurationError, Sampler
from allgrad.ddp.trainer import StepRecord
from allgrad.ddp.trainer.metrics_log import MetricsLog


def trainer_of(out, step=0, rank=0):
    """What a MetricsLog looks at of a trainer."""
    return SimpleNamespace(
        out=out, step=step, total_steps=9, comm=SimpleNamespace(rank=rank), adascale=None, logged={},
        loader=SimpleNamespace(sampler=Sampler(20, 5)), parallel=SimpleNamespace(local=None, noise=None),
    )  # fmt: skip


def record(step, loss=0.5):
    return StepRecord(step, loss, 1.0, 0.1, 5, 5 * step, 0.25, loss == loss)


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_goes_on_keeps_the_lines_up_to_its_checkpoint(tmp_path):
    out = tmp_path / "out"
    with MetricsLog(trainer_of(out)) as log:
        for step in (2, 4, 6):
            log.add(record(step))
            log.write_line(record(step), {})
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"step": 8')  # a line that a kill cut short
    with MetricsLog(trainer_of(out, 4)) as log:
        log.add(record(5))
        log.write_line(record(5), {"val_loss": 0.25})
        log.write_summary({"steps": 9})
    assert [line["step"] for line in lines(out)] == [2, 4, 5] and lines(out)[-1]["val_loss"] == 0.25
    assert json.loads((out / "summary.json").read_text()) == {"steps": 9}


def test_a_line_is_about_the_steps_since_the_last_one(tmp_path):
    with MetricsLog(trainer_of(tmp_path)) as log:
        for step, loss in [(1, 0.5), (2, float("nan")), (3, 1.0)]:
            log.add(record(step, loss))
        log.write_line(record(3, 1.0), {})
        log.add(record(4, 2.0))
        log.write_line(record(4, 2.0), {})
    first, second = lines(tmp_path)
    assert (first["loss"], second["loss"]) == (0.75, 2.0)  # the mean over samples of finite losses
    assert first["samples_per_second"] == second["samples_per_second"] == 20.0
    assert first["epoch"] == 0 and first["batch"] == 5 and first["noise_scale"] is None


def test_numbers_of_callbacks_join_the_next_line_under_names_of_their_own(tmp_path):
    trainer = trainer_of(tmp_path)
    with MetricsLog(trainer) as log:
        for logged in ({"ema_loss": 0.3}, {}):
            trainer.logged = logged
            log.add(record(1))
            log.write_line(record(1), {})
        trainer.logged = {"loss": 0.3}
        log.add(record(2))
        with pytest.raises(ConfigurationError, match="a callback logs 'loss', which each line"):
            log.write_line(record(2), {})
    assert [line.get("ema_loss") for line in lines(tmp_path)] == [0.3, None]


def test_ranks_that_do_not_write_write_nothing(tmp_path):
    with MetricsLog(trainer_of(tmp_path / "out", rank=1)) as log:
        log.add(record(1))
        log.write_line(record(1), {})
        log.write_summary({})
    assert not (tmp_path / "out").exists()


def test_what_is_not_finite_is_null(tmp_path):
    def refuse(name):
        raise AssertionError(name)

    with MetricsLog(trainer_of(tmp_path)) as log:
        log.add(record(1))
        log.write_line(record(1), {"val_loss": float("inf"), "val_accuracy": float("nan")})
        log.write_summary({"best": {"val_loss": float("-inf")}, "batches": [[0, float("nan")]], "steps": 1})
    (line,) = [
        json.loads(text, parse_constant=refuse) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert line["val_loss"] is line["val_accuracy"] is None and line["loss"] == 0.5
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert summary == {"best": {"val_loss": None}, "batches": [[0, None]], "steps": 1}


@pytest.mark.parametrize("broken", [b"\0" * 20 + b"\n", b"\xff\xfe\n", b"[]\n", b"{}\n", b"\n", b'{"step": "3"}\n'])
def test_a_line_that_a_power_failure_has_broken_is_left_out_and_told(broken, tmp_path, capsys):
    with MetricsLog(trainer_of(tmp_path)) as log:
        for step in (2, 4):
            log.add(record(step))
            log.write_line(record(step), {})
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + broken + second)
    with MetricsLog(trainer_of(tmp_path, 4)):
        pass
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]
    assert f"{path}: left out line 2" in capsys.readouterr().err
