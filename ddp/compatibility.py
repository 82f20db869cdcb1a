"""What contradicts what: one table of options that cannot be given together, and why not.

    check(compress="topk:0.1", reduce="adasum")        ConfigurationError, see `TABLE`

An option of the table is "NAME", given with any value but its default; "NAME=VALUE", given with this one; or "no NAME",
not given. A row holds for configurations that have both of its names, whatever else they have.
"""

from typing import NamedTuple

from allgrad.ddp.errors import ConfigurationError, Message

DEFAULTS = {"reduce": "canonical", "wire": "float32", "batch_norm": "shard"}  # beside None, False and 0


class Row(NamedTuple):
    """Two options, and the text of a `Message` about them that says why they cannot be given together."""

    option: str
    other: str
    why: str


def _rows(option, others, why):
    """A row for each of the others: {option} and {other} in the text are these two."""
    names = [name_of(other) for other in others]
    text = why.replace("{option", f"{{{name_of(option)}")
    return [Row(option, other, text.replace("{other", f"{{{name}")) for other, name in zip(others, names)]


def name_of(option: str) -> str:
    """The name in an option of the table."""
    return option.removeprefix("no ").partition("=")[0]


ALL_AT_ONCE = ("compress", "reduce", "sync_every", "batch_norm=sync", "device=cuda")  # take all gradients of a step
OVERLAPS = ("overlap=bucket", "overlap=thread")

TABLE: tuple[Row, ...] = (
    *_rows(
        "batch_norm=sync", ["reduce=adasum", "sync_every", "noise"],
        "{option} makes each shard's gradient depend on all others, and {other} takes each by itself: leave one out",
    ),
    *_rows(
        "capture=on", ["batch_norm=sync", "trace"],
        "{option} replays forward and backward of each shard in one go, which {other} does not allow: leave one out",
    ),
    *_rows(
        "checkpoint_activations", ["batch_norm=sync"],
        "{option} runs blocks again in backward, where shards do not take turns as {other} needs it: leave one out",
    ),
    *_rows("sync_after", ["no sync_every"], "{option} has no effect without {other}"),
    *_rows(
        "sync_every", ["compress", "reduce=adasum", "wire"],
        "{option} sends parameters, and {other} is for gradients: leave out one",
    ),
    *_rows(
        "dtype=float16", ["compress", "sync_every"],
        "{other} would keep what overflows in {option.value}: give {dtype:bfloat16}",
    ),
    *_rows(
        "noise", ["compress", "reduce=adasum", "sync_every"],
        "{option} needs the exact gradient, which {other} does not compute: give noise=None",
    ),
    *_rows(
        "noise_layers", ["compress", "reduce=adasum", "sync_every", "batch_norm=sync"],
        "{option} has no effect with {other}, which does not compute the exact gradient of each shard: leave one out",
    ),
    *_rows("noise_layers", ["shards=1"], "{option} has no effect with one logical shard: give {other:2} or more"),
    *_rows(
        "compress", ["reduce", "wire"],
        "{option} sends what {other} cannot take: leave out one of them",
    ),
    *_rows(
        "wire", ["reduce=native"],
        "{option} rounds at each node of the canonical tree, and {other} has none: leave one out",
    ),
    *(row for overlap in OVERLAPS for row in _rows(
        overlap, ALL_AT_ONCE,
        "{option} exchanges gradients while others are still computed, and {other} takes them all at once: leave out "
        "one",
    )),
    *_rows(
        "bucket_bytes", [*ALL_AT_ONCE[:-1], "overlap=after"],
        "{option.name} has no effect with {other}, where all gradients are exchanged at once: leave it out",
    ),
    *_rows(
        "zero", ["sync_every"],
        "{option} shares out one optimizer, and with {other.name} each rank has its own: leave one out",
    ),
    *_rows(
        "sync_every", ["ema"],
        "{option} gives each rank parameters of its own, and {other} is the average of one: leave one out",
    ),
    *_rows("trace_steps", ["no trace"], "{option.name} has no effect without {other}"),
    *_rows("checkpoint_every", ["no out"], "{option.name} needs an {other} to write to"),
)  # fmt: skip


def contradiction(**configuration) -> Message | None:
    """What the first row of the table that holds says of these options; None if they can all be given together."""
    for option, other, why in TABLE:
        if _holds(option, configuration) and _holds(other, configuration):
            return Message(why, **{name: configuration[name] for name in (name_of(option), name_of(other))})
    return None


def check(**configuration):
    """Raise ConfigurationError if two of these options contradict each other."""
    if message := contradiction(**configuration):
        raise ConfigurationError(message)


def takes_all_at_once(**configuration) -> Message | None:
    """Why the exchange cannot overlap with backward, or None: "compress='topk:0.1' takes all gradients at once"."""
    for option in ALL_AT_ONCE:
        if _holds(option, configuration):
            name = name_of(option)
            return Message(f"{{{name}}} takes all gradients at once", **{name: configuration[name]})
    return None


def _holds(option, configuration):
    name, _, wanted = option.removeprefix("no ").partition("=")
    if name not in configuration:
        return False
    value = configuration[name]
    if wanted:
        return str(value) == wanted
    given = value not in (None, False, 0, DEFAULTS.get(name))
    return given != option.startswith("no ")
