"""The errors whose text is for the user, and how it is told."""

import sys


class ConfigurationError(ValueError):
    """Something the user asked for cannot be done. The text is one sentence: what was seen, what to do instead.

    The command line prints the sentence once, without a traceback, and ends every rank with status 2.
    """


class Diverged(ArithmeticError):
    """The loss is no longer a finite number. All ranks see it at the same step."""


class OutOfStep(RuntimeError):
    """The ranks no longer have the same parameters. All ranks raise it at the same step."""


class PeerLost(RuntimeError):
    """Another rank has died; the cause is that rank's to tell."""


def counted(number: int, noun: str) -> str:
    """As in "1 shard" and "1,437 samples"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def tell(text: str):
    """Print on stderr, in one write: lines of several threads or ranks do not run into each other."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
