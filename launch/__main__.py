"""The command line: `allgrad train`, `predict`, `checkpoint`, `run`, `slurm`, `doctor`, `demo`, `study`.

`python -m allgrad` is the same, and so is `python -m launch` in a checkout.
"""

import argparse
import codecs
import importlib
import io
import os
import signal
import sys
import time

COMMANDS = {  # name -> module with add_options, and help
    "train": ("allgrad.launch.options", "train a model on all ranks of this launch"),
    "predict": ("allgrad.launch.predict", "write what a trained model says of samples"),
    "checkpoint": ("allgrad.launch.checkpoints", "verify, show or export checkpoints"),
    "run": ("allgrad.launch.launchers", "start ranks on this machine or in this Slurm job"),
    "slurm": ("allgrad.launch.slurm", "write a batch file for Slurm"),
    "doctor": ("allgrad.launch.doctor", "say what this machine and this launch offer, and what is wrong"),
    "demo": ("allgrad.launch.demo", "train on 2 ranks and on 1, compare the weights, draw the curves"),
    "study": ("allgrad.launch.study.command", "how batch size, learning rate and epochs trade: tables and figures"),
}


class _Parser(argparse.ArgumentParser):
    """Reports bad usage like any other bad input: one sentence, on one rank."""

    def error(self, message):
        from allgrad.ddp.errors import ConfigurationError

        raise ConfigurationError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args=None, namespace=None):
        """As usual; an option that this command does not have is refused by it, and not by those above."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and self._subparsers is None:
            import difflib

            like = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, 1)
            meant = f", is {like[0]} meant?" if like else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return found, unknown


def _parser(words):
    """The parser of these words: of the command that they begin with, and the names of all others."""
    parser = _Parser(prog="allgrad", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, allow_abbrev=False)
        if words[:1] == [name]:  # nobody else needs its imports
            declare = importlib.import_module(module).add_options
            declare(command, words[1:]) if name == "study" else declare(command)
    return parser


def _check(words):
    """Refuse what the ranks would refuse of what follows "--", before they are started or wait in a queue."""
    from allgrad.launch.options import given

    words = words[words[:1] == ["--"] :]
    arguments = vars(_parser(words).parse_args(words)) if words else {}
    if arguments.pop("command", None) == "train":
        given(arguments)


def _command(arguments: dict) -> int:
    from allgrad.launch.options import expanded

    command = arguments.pop("command")
    arguments = {name: expanded(name, value) for name, value in arguments.items()}
    if command == "train":
        from allgrad.launch.options import given
        from allgrad.launch.report import print_summary
        from allgrad.launch.train import train

        print_summary(train(given(arguments)))
        return 0
    if command == "predict":
        from allgrad.launch.predict import predict

        predict(**arguments)
        return 0
    if command == "checkpoint":
        from allgrad.ddp.comm import speaks
        from allgrad.launch.checkpoints import run

        return run(**arguments) if speaks() else 0
    if command == "run":
        from allgrad.launch.launchers import run

        _check(arguments["arguments"])
        return run(**arguments)
    if command == "slurm":
        from allgrad.launch.slurm import slurm

        _check(arguments["arguments"])
        return slurm(**arguments)
    if command == "doctor":
        from allgrad.launch.doctor import doctor

        return doctor(**arguments)
    if command == "study":
        from allgrad.launch.study.command import run

        return run(**arguments)
    from allgrad.launch.demo import demo

    return demo(arguments["out"])


def _print_any_name():
    """Let the output take the name of every file in every locale: bytes as they are, and UTF-8 in place of ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if codecs.lookup(stream.encoding).name == "ascii":
                stream.reconfigure(encoding="utf-8", errors="surrogateescape")
            elif stream.errors == "strict":
                stream.reconfigure(errors="surrogateescape")


QUIET = 3.0  # seconds in which the rank that speaks reports what all have found wrong, and ends the others


def main(argv=None) -> int:
    """Run a command; returns the exit status.

    0, 1 if training failed, 2 if what was asked for cannot be done, 128 + its number if a signal has ended it. Of
    training that a signal has ended with a checkpoint, the status comes in a `ddp.Stopped`.
    """
    words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    _print_any_name()
    if words[:1] in (["-h"], ["--help"]):  # at once: what is imported below imports NumPy
        _parser(words).parse_args(words)
    from allgrad.ddp.comm import connected, end_all_ranks, on_rank, speaks, wait_turn
    from allgrad.ddp.errors import ConfigurationError, Diverged, OutOfMemory, OutOfStep, tell

    try:
        return _command(vars(_parser(words).parse_args(words)))
    except (ConfigurationError, Diverged, OutOfMemory, OutOfStep) as error:
        status = 2 if isinstance(error, ConfigurationError) else 1
        if not speaks():
            time.sleep(QUIET)
            if connected():
                wait_turn()
        if speaks() or connected():  # a silent rank that is still here has found something wrong alone
            from allgrad.launch.flags import as_flag

            tell(f"allgrad: {error.told(as_flag)}")
        if connected():
            end_all_ranks(status)
        return status
    except KeyboardInterrupt as error:
        status = 128 + getattr(error, "number", signal.SIGINT)
        if connected():
            wait_turn()  # where all ranks are interrupted, the first tells it
        if speaks() or connected():
            by = signal.Signals(status - 128).name
            tell("; ".join([f"allgrad: interrupted by {by}{on_rank()}", *getattr(error, "__notes__", [])]))
        if connected():
            end_all_ranks(status)
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python fails again as it ends
        tell(f"allgrad: standard output was closed{on_rank()}; 2> and > take what is printed to files")
        if connected():
            end_all_ranks(1)
        return 1
    except SystemExit as error:  # --help; or called by somebody's model, and Python would leave the other ranks waiting
        if connected() and not getattr(error, "in_order", False):
            sys.excepthook(type(error), error, error.__traceback__)
        raise


if __name__ == "__main__":
    sys.exit(main())
