"""What batch size and learning rate have to do with each other: noise scale, curvature, rules, schedules."""

from allgrad.ddp.scaling.adascale import AdaScale, gain
from allgrad.ddp.scaling.batch_schedule import FollowNoise, follow_batch, grow, ramp, seesaw
from allgrad.ddp.scaling.curvature import curvature, hessian_product, largest_eigenvalue
from allgrad.ddp.scaling.intervals import fieller
from allgrad.ddp.scaling.lr_rules import Hyperparameters, RULES, scaled, sentence, warning
from allgrad.ddp.scaling.noise_scale import NoiseScale
from allgrad.ddp.scaling.probe import Frozen, mean, noise_of_batches, noise_of_examples
