"""What a run leaves to read: metrics.jsonl, summary.json, and a progress bar if the output is a terminal."""

import json
import os
import sys
from pathlib import Path

from allgrad.ddp.errors import tell
from allgrad.ddp.files import replace


class Journal:
    """Writes the lines of a run from step `step` on; silent on every rank but the one that is told to speak."""

    def __init__(self, out: Path | None, step: int, total: int, speak: bool):
        self.out = out if speak else None
        self.file = self.bar = None
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            path = self.out / "metrics.jsonl"
            replace(path, _lines_until(path, step))
            self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        if speak and (terminal := screen()):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(file=terminal, force_terminal=True))
            self.task = self.bar.add_task("training", total=total, completed=step)

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

    def advance(self, step, loss, total):
        if self.bar:
            self.bar.update(self.task, completed=step, total=total, description=f"loss {loss:.4f}")

    def write(self, line):
        if file := self.file:
            self._try(lambda: (file.write(json.dumps(line) + "\n"), file.flush()))

    def finish(self, summary):
        if out := self.out:
            self._try(lambda: replace(out / "summary.json", json.dumps(summary, indent=1) + "\n"))

    def _try(self, write):
        try:
            write()
        except OSError as error:
            tell(f"metrics not written: {error}")


def screen():
    """The terminal that a person watches, or None.

    Open MPI gives rank 0 a terminal even if its own output is a file, and passes on whole lines only; so under mpirun
    the bar is drawn on the terminal of mpirun itself, if it has one on this host.
    """
    if "OMPI_COMM_WORLD_RANK" not in os.environ:
        return sys.stdout if sys.stdout.isatty() else None
    path = f"/proc/{os.getppid()}/fd/1"
    try:
        return open(path, "w") if os.readlink(path).startswith(("/dev/pts/", "/dev/tty")) else None
    except OSError:
        return None


def _lines_until(path, step):
    """The whole lines of a metrics file up to this step: what a killed run wrote after its checkpoint is redone."""
    if not path.exists() or not step:
        return ""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
