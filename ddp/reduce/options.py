"""The options of the exchange of gradients."""

from dataclasses import dataclass

from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.reduce.compression import compression
from allgrad.ddp.reduce.half_precision import WIRES

REDUCTIONS = ("canonical", "native", "adasum")
POLICIES = ("auto", "after", "bucket", "thread")


@dataclass(frozen=True)
class Exchange:
    """How and when the gradients of all logical shards are added up.

    reduce        "canonical" (exact: the same bits on any number of ranks), "native" (the library's all-reduce, in its
                  own order) or "adasum" (see `adasum`)
    wire          "float32" (as computed), or the half precision to which gradients and their sums are rounded:
                  "float16" or "bfloat16"
    compress      None, "topk:SHARE" (of the elements, in (0, 1]) or "powersgd:RANK" (at least 1)
    overlap       when ranks exchange: "after" backward, by "bucket" while it goes on, by a "thread" of its own, or
                  "auto", which is what a short trial finds fastest; see `Overlap`. The same bits whatever it is
    bucket_bytes  least size of a bucket in bytes, in whole parameters; if None an eighth of all gradients, from 256 kB
                  to 25 MB

    Raises ConfigurationError for other values. What cannot go together is in `ddp.compatibility`.
    """

    reduce: str = "canonical"
    wire: str = "float32"
    compress: str | None = None
    overlap: str = "auto"
    bucket_bytes: int | None = None

    def __post_init__(self):
        if self.reduce not in REDUCTIONS:
            raise ConfigurationError(f"reduce is {_either(REDUCTIONS)}, got {self.reduce!r}")
        if self.wire not in WIRES:
            raise ConfigurationError(f"wire is one of {', '.join(WIRES)}, got {self.wire!r}")
        if self.compress is not None:
            compression(self.compress)
        if self.overlap not in POLICIES:
            raise ConfigurationError(f"overlap is {_either(POLICIES)}, got {self.overlap!r}")
        if self.bucket_bytes is not None and self.bucket_bytes < 1:
            raise ConfigurationError(f"a bucket has at least 1 byte, got {self.bucket_bytes}: give more, or None")


def _either(words):
    return f"{', '.join(words[:-1])} or {words[-1]}"
