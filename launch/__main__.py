"""The command line: `allgrad train`, `predict`, `checkpoint`, `run`, `slurm`, `doctor`, `demo`, `study`.

`python -m launch` is the same.
"""

import argparse
import os
import sys
import time

from ddp.environment import speaks
from ddp.errors import ConfigurationError, Diverged, OutOfStep, tell
from ddp.start import connected, end_all_ranks, on_rank, wait_turn


class _Parser(argparse.ArgumentParser):
    """Reports bad usage like any other bad input: one sentence, on one rank."""

    def error(self, message):
        raise ConfigurationError(f"{message} (see {self.prog} --help)")


def _parser(words):
    parser = _Parser(prog="allgrad", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    train = commands.add_parser("train", help="train a model on all ranks of this launch", allow_abbrev=False)
    predict = commands.add_parser("predict", help="write what a trained model says of samples", allow_abbrev=False)
    checkpoint = commands.add_parser("checkpoint", help="verify, show or export checkpoints", allow_abbrev=False)
    run = commands.add_parser("run", help="start ranks on this machine or in this Slurm job", allow_abbrev=False)
    slurm = commands.add_parser("slurm", help="write a batch file for Slurm", allow_abbrev=False)
    doctor = commands.add_parser("doctor", help="say what this machine and this launch offer, and what is wrong")
    demo = commands.add_parser("demo", help="train on 2 ranks and on 1, compare the weights, draw the curves")
    study = commands.add_parser("study", help="how batch size, learning rate and epochs trade: tables and figures")
    from launch.checkpoints import add_options as add_checkpoint_options
    from launch.doctor import add_options as add_doctor_options
    from launch.launchers import add_options as add_run_options
    from launch.options import add_options
    from launch.predict import add_options as add_predict_options
    from launch.slurm import add_options as add_slurm_options

    add_options(train)
    add_predict_options(predict)
    add_checkpoint_options(checkpoint)
    add_run_options(run)
    add_slurm_options(slurm)
    add_doctor_options(doctor)
    if words[:1] == ["study"]:  # nobody else needs its imports
        from launch.study.command import add_options as add_study_options

        add_study_options(study)
    demo.add_argument("--out", default="runs/demo", help="directory for its two runs and the figure [runs/demo]")
    return parser


def _check(words):
    """Refuse what the ranks would refuse of what follows "--", before they are started or wait in a queue."""
    from launch.options import given

    words = words[words[:1] == ["--"] :]
    arguments = vars(_parser(words).parse_args(words)) if words else {}
    if arguments.pop("command", None) == "train":
        given(arguments)


def _command(arguments: dict) -> int:
    command = arguments.pop("command")
    if command == "train":
        from launch.options import given
        from launch.report import print_summary
        from launch.train import train

        print_summary(train(given(arguments)))
        return 0
    if command == "predict":
        from launch.predict import predict

        predict(**arguments)
        return 0
    if command == "checkpoint":
        from launch.checkpoints import run

        return run(**arguments) if speaks() else 0
    if command == "run":
        from launch.launchers import run

        _check(arguments["arguments"])
        return run(**arguments)
    if command == "slurm":
        from launch.slurm import slurm

        _check(arguments["arguments"])
        return slurm(**arguments)
    if command == "doctor":
        from launch.doctor import doctor

        return doctor(**arguments)
    if command == "study":
        from launch.study.command import run

        return run(**arguments)
    from launch.demo import demo

    return demo(arguments["out"])


QUIET = 3.0  # seconds in which the rank that speaks reports what all have found wrong, and ends the others


def main(argv=None) -> int:
    """Run a command; returns the exit status: 0, 1 if training failed, 2 if what was asked for cannot be done."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return _command(vars(_parser(words).parse_args(words)))
    except (ConfigurationError, Diverged, OutOfStep) as error:
        status = 2 if isinstance(error, ConfigurationError) else 1
        if not speaks():
            time.sleep(QUIET)
            if connected():
                wait_turn()
        if speaks() or connected():  # a silent rank that is still here has found something wrong alone
            tell(f"allgrad: {error}")
        if connected():
            end_all_ranks(status)
        return status
    except KeyboardInterrupt:
        if connected():
            wait_turn()  # where all ranks are interrupted, the first tells it
        if speaks() or connected():
            tell(f"allgrad: interrupted{on_rank()}; --resume goes on from the newest checkpoint in --out")
        if connected():
            end_all_ranks(130)
        return 130
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
