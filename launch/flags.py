"""How the command line spells the options that messages of `allgrad.ddp` are about."""

from allgrad.ddp.errors import Message, as_argument
from allgrad.launch.options import OPTIONS

RENAMED = {  # argument of Python -> option of the command line
    "batch": "global_batch", "bucket_bytes": "bucket_size", "path": "trace", "rule": "lr_rule",
}  # fmt: skip


def as_flag(name: str, value) -> str:
    """An option as the command line writes it: "--shards 4", and without a value "--shards"."""
    name = RENAMED.get(name, name)
    for option in OPTIONS:
        if option.name == name:
            return (
                option.flag
                if value is None or option.kind is bool or value == option.alone
                else f"{option.flag} {value}"
            )
    return as_argument(name, value)


def told(text: str) -> str:
    """A text with its options as flags, if it is a `Message` about options."""
    return text.told(as_flag) if isinstance(text, Message) else text
