"""Data-parallel training: ranks, logical shards, exact reduction, checkpoints.

import ddp
comm = ddp.init()          # mpirun, torchrun, srun or alone, from the environment
"""

from ddp.communicator import Communicator
from ddp.data import ArrayDataset, Batch, DataLoader, Shard
from ddp.errors import ConfigurationError, Diverged, OutOfStep, PeerLost
from ddp.evaluation import evaluate
from ddp.loss_scale import LossScale
from ddp.noise_scale import NoiseScale
from ddp.parallel import DistributedDataParallel
from ddp.placement import Placement
from ddp.reduction import ShardSum
from ddp.sampler import Sampler
from ddp.start import init
from ddp.timeline import Timeline
from ddp.trainer import Trainer
from ddp.zero import Zero
