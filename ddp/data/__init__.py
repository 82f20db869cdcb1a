"""Which samples a step takes, in which logical shard, and where their arrays live."""

from allgrad.ddp.data.augment import augmentation, crop, Draws, flip
from allgrad.ddp.data.loader import ArrayDataset, Batch, DataLoader, Shard
from allgrad.ddp.data.placement import HALVES, Placement, PRECISIONS, stored
from allgrad.ddp.data.sampler import BOUNDARIES, Piece, Sampler, SHUFFLES
