"""The errors whose text is for the user, and how it is told: to a user of Python, or of anything else."""

import sys

THINGS = {  # options that are objects in Python and no arguments, and how they are told there
    "arrays": "a device of torch", "noise": "a NoiseScale", "trace": "a Timeline", "trace_steps": "steps",
    "zero": "Zero",
}  # fmt: skip


def as_argument(name: str, value) -> str:
    """An option as Python writes it: "shards=4", and without a value "shards"."""
    return THINGS.get(name) or (name if value is None else f"{name}={value!r}")


class Message(str):
    """A text about options, which are told as Python's arguments, or by `told` in another spelling.

    Without options the text is as it is given. With options it is a template:

        Message("{compress} of {size.value} numbers: give {wire:float16}", compress="topk:0.1", size=3)
        "compress='topk:0.1' of 3 numbers: give wire='float16'"

    {name} is an option as it was given, or its name alone if it is None or not among the options; {name:VALUE} has
    another value; {name.name} and {name.value} are its name and its value alone.
    """

    def __new__(cls, text: str, **options):
        plain = {  # as a message may be sent to other ranks
            name: value if isinstance(value, (int, float, type(None))) else str(value)
            for name, value in options.items()
        }
        self = super().__new__(cls, _filled(text, plain, as_argument) if options else text)
        self.template, self.options = text, plain
        return self

    def told(self, spell=as_argument) -> str:
        """The text, with every option as spell(name, value) writes it; value is None where the name stands alone."""
        return _filled(self.template, self.options, spell) if self.options else str(self)


class _Fields(dict):
    """The fields of a template by their names: also of those that have no value."""

    def __init__(self, options, spell):
        super().__init__({name: _Field(name, value, spell) for name, value in options.items()})
        self.spell = spell

    def __missing__(self, name):
        return _Field(name, None, self.spell)


class _Field:
    def __init__(self, option, value, spell):
        self.name, self.value = spell(option, None), value
        self.spelled = lambda value: spell(option, value)

    def __format__(self, other):
        return self.spelled((int(other) if other.isdecimal() else other) if other else self.value)


def _filled(template, options, spell):
    return template.format_map(_Fields(options, spell))


class Told(Exception):
    """An error whose text is a `Message`: Python's spelling is that of `str`."""

    def __init__(self, text: str, **options):
        super().__init__(text if isinstance(text, Message) else Message(text, **options))

    def told(self, spell=as_argument) -> str:
        """The text in another spelling of its options, see `Message.told`."""
        return self.args[0].told(spell)


class ConfigurationError(Told, ValueError):
    """Something the user asked for cannot be done. The text is one sentence: what was seen, what to do instead.

    The command line prints the sentence once, without a traceback, and ends every rank with status 2.
    """


class Diverged(Told, ArithmeticError):
    """The loss is no longer a finite number. All ranks see it at the same step."""


class OutOfStep(Told, RuntimeError):
    """The ranks no longer have the same parameters. All ranks raise it at the same step."""


class OutOfMemory(Told, MemoryError):
    """The memory of a rank does not suffice for one of its shards. Only that rank raises it."""


class PeerLost(RuntimeError):
    """Another rank has died; the cause is that rank's to tell."""


def counted(number: int, noun: str) -> str:
    """As in "1 shard" and "1,437 samples"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def tell(text: str):
    """Print on stderr, in one write: lines of several threads or ranks do not run into each other."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
