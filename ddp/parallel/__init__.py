"""DistributedDataParallel and its policies."""

from allgrad.ddp.parallel.data_parallel import BATCH_NORMS, DistributedDataParallel
from allgrad.ddp.parallel.evaluation import evaluate
from allgrad.ddp.parallel.local_sgd import LocalSGD
from allgrad.ddp.parallel.loss_scale import LossScale
from allgrad.ddp.parallel.report import Report
from allgrad.ddp.parallel.shard_gradients import CAPTURES
from allgrad.ddp.parallel.zero import Zero
