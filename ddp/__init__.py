"""Data-parallel training: ranks, logical shards, exact reduction, checkpoints.

from allgrad import ddp

comm = ddp.init()          # mpirun, torchrun, srun or alone, from the environment
"""

if __name__ == "ddp":  # in a checkout, `import ddp` is `import allgrad.ddp`
    from allgrad.names import also_known_as

    also_known_as(__name__)

from allgrad.ddp.comm import Communicator, init
from allgrad.ddp.data import ArrayDataset, Batch, DataLoader, Placement, Sampler, Shard
from allgrad.ddp.errors import ConfigurationError, Diverged, OutOfMemory, OutOfStep, PeerLost
from allgrad.ddp.parallel import DistributedDataParallel, evaluate, LocalSGD, LossScale, Zero
from allgrad.ddp.reduce import Exchange, ShardSum
from allgrad.ddp.scaling import NoiseScale
from allgrad.ddp.trace import Timeline
from allgrad.ddp.trainer import Callback, StepRecord, Stopped, StopOnSignal, Trainer
from allgrad.ddp.weighted import Weighted

__all__ = [
    "ArrayDataset", "Batch", "Callback", "Communicator", "ConfigurationError", "DataLoader",
    "DistributedDataParallel", "Diverged", "Exchange", "LocalSGD", "LossScale", "NoiseScale", "OutOfMemory",
    "OutOfStep", "PeerLost", "Placement", "Sampler", "Shard", "ShardSum", "StepRecord", "StopOnSignal", "Stopped",
    "Timeline", "Trainer", "Weighted", "Zero", "evaluate", "init",
]  # fmt: skip
