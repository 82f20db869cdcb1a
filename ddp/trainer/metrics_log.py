"""What a run leaves to read: metrics.jsonl, summary.json, and a progress bar if the output is a terminal."""

import json
import math
import os
import sys
from dataclasses import dataclass

from allgrad.ddp.errors import ConfigurationError, tell
from allgrad.ddp.files import replace
from allgrad.ddp.trainer.callbacks import StepRecord
from allgrad.ddp.trainer.run_summary import noise_of


@dataclass
class Sums:
    """Of the steps since the last line."""

    loss: float = 0.0  # of all samples of steps with a finite loss
    finite_samples: float = 0  # those samples
    samples: int = 0
    seconds: float = 0.0


class MetricsLog:
    """Writes what happens from a trainer's step on, on rank 0 into the trainer's `out`; the other ranks are silent."""

    def __init__(self, trainer):
        self.trainer, self.sums = trainer, Sums()
        writes = trainer.comm.rank == 0
        self.out = trainer.out if writes else None
        self.file = self.bar = None
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            path = self.out / "metrics.jsonl"
            replace(path, _lines_until(path, trainer.step))
            self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        if writes and (terminal := screen()):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(file=terminal, force_terminal=True))
            self.task = self.bar.add_task("training", total=trainer.total_steps, completed=trainer.step)

    def __enter__(self):
        if self.bar:
            self.bar.start()
            self.bar.console.show_cursor(True)  # a killed run could not bring it back
        return self

    def __exit__(self, *exc):
        if self.bar:
            self.bar.stop()
        if self.file:
            self._try(self.file.close)

    def add(self, step: StepRecord):
        """Take a step into the sums, and show it on the progress bar."""
        sums = self.sums
        if math.isfinite(step.loss):
            sums.loss += step.loss * step.samples
            sums.finite_samples += step.samples
        sums.samples += step.samples
        sums.seconds += step.seconds
        if self.bar:
            total = self.trainer.total_steps
            self.bar.update(self.task, completed=step.step, total=total, description=f"loss {step.loss:.4f}")

    def write_line(self, step: StepRecord, values: dict):
        """Write a line about the steps since the last one, with these values of an evaluation. Collective."""
        trainer, sums = self.trainer, self.sums
        sampler = trainer.loader.sampler
        if trainer.parallel.local is not None:  # each rank knows the losses of its own samples
            everyones = trainer.comm.all_gather_object((sums.loss, sums.finite_samples))
            sums.loss, sums.finite_samples = map(math.fsum, zip(*everyones))
        line = {
            "step": step.step,
            "epoch": sampler.epoch_of(step.step - 1),
            "samples_seen": step.samples_seen,
            "lr": step.lr,
            **({"gain": trainer.adascale.gain} if trainer.adascale is not None else {}),
            "batch": sampler.batch_at(step.step - 1),
            "loss": sums.loss / sums.finite_samples if sums.finite_samples else None,
            "grad_norm": step.grad_norm if math.isfinite(step.grad_norm) else None,
            **noise_of(trainer.parallel),
            "samples_per_second": sums.samples / sums.seconds,
            **values,
        }
        if taken := sorted(line.keys() & trainer.logged.keys()):
            raise ConfigurationError(
                f"a callback logs {taken[0]!r}, which each line of metrics.jsonl has: log it under another name"
            )
        line |= trainer.logged
        self.sums, trainer.logged = Sums(), {}
        if file := self.file:
            self._try(lambda: (file.write(json.dumps(as_json(line), allow_nan=False) + "\n"), file.flush()))

    def write_summary(self, summary: dict):
        """Write summary.json."""
        if out := self.out:
            self._try(
                lambda: replace(out / "summary.json", json.dumps(as_json(summary), indent=1, allow_nan=False) + "\n")
            )

    def _try(self, write):
        try:
            write()
        except OSError as error:
            tell(f"metrics not written: {error}")


def as_json(value):
    """JSON values with None for each number that is not finite, which JSON has no word for (RFC 8259)."""
    if isinstance(value, dict):
        return {key: as_json(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_number(name: str, value) -> int | float | None:
    """A number that a callback logs, as a JSON value: None if it is not finite."""
    if isinstance(value, int):
        return value
    try:
        return float(value) if math.isfinite(value) else None
    except (TypeError, ValueError):
        raise ConfigurationError(f"metrics.jsonl takes numbers, and {name!r} is {value!r}: log a number") from None


def screen():
    """The terminal that a person watches, or None.

    Open MPI gives rank 0 a terminal even if its own output is a file, and passes on whole lines only; so under mpirun
    the bar is drawn on the terminal of mpirun itself, if it has one on this host.
    """
    if "OMPI_COMM_WORLD_RANK" not in os.environ:
        return sys.stdout if sys.stdout.isatty() else None
    path = f"/proc/{os.getppid()}/fd/1"
    try:
        return open(path, "w", encoding="utf-8") if os.readlink(path).startswith(("/dev/pts/", "/dev/tty")) else None
    except OSError:
        return None


def _lines_until(path, step):
    """The whole lines of a metrics file up to this step: what a killed run wrote after its checkpoint is redone."""
    if not path.exists() or not step:
        return ""
    kept, lost = [], []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                kept.append(line.decode())
        except (ValueError, KeyError, TypeError):  # such as the zeros that a power failure leaves
            lost.append(number)
    if lost:
        tell(f"{path}: left out {'line' if len(lost) == 1 else 'lines'} {', '.join(map(str, lost))}: not as written")
    return "".join(kept)
