"""The competitors: each module has `make(workload, settings) -> prepare, step`.

settings          the words of the peer and of one of its settings below; the ranks are in the environment
prepare(x, y)     makes a batch of this rank's arrays, before anything is timed
step(batch)       trains on it once and returns the loss of this rank's samples, or of all, as a float
"""

from typing import NamedTuple


class Unavailable(Exception):
    """What a peer raises to be left out, with the reason."""


class Peer(NamedTuple):
    """module: of benchmarks.peers; settings: tried one by one, the fastest counts; starter: of several ranks, or None.

    starter is "mpirun", or "torch" for processes that find RANK and WORLD_SIZE in the environment.
    """

    module: str
    settings: tuple[str, ...] = ("",)
    starter: str | None = None
    fewest: int = 1  # ranks


PEERS = {
    "allgrad": Peer("allgrad", ("", "capture"), "mpirun"),
    "allgrad-native": Peer("allgrad", starter="mpirun", fewest=2),
    "allgrad-torch": Peer("allgrad", starter="mpirun"),
    "numpy": Peer("numpy", starter="mpirun"),
    "torch": Peer("torch", ("", "fused", "fused channels_last")),
    "torch-compile": Peer("torch", ("fused",)),
    "torch-ddp": Peer("torch", ("", "views", "views static", "views static fused"), "torch", 2),
    "jax": Peer("jax"),
}
