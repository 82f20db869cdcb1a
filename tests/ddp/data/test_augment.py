"""Augmentation: keyed by sample and epoch, and nothing else; crops and flips beside a slow reference."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator, uniform_of
from allgrad.ddp import ConfigurationError, DataLoader, DistributedDataParallel, Trainer
from allgrad.ddp.data import Draws, augmentation, crop, flip
from allgrad.ddp.shards import shard_bounds
from allgrad.ddp.trainer import checkpoint

X = generator("images").standard_normal((23, 2, 6, 5)).astype("f4") + 9.0
Y = np.arange(23)
BOTH = augmentation("crop,flip", (2, 6, 5))


@pytest.mark.parametrize("shape", [(40, 1, 8, 8), (40, 3, 5, 7)])
def test_crop_and_flip_are_those_of_a_slow_reference(shape):
    x = generator("slow", shape).standard_normal(shape).astype("f4")
    samples, epochs = np.arange(len(x)) * 7, np.zeros(len(x), int)
    u = uniform_of(samples, 0, 3, 5, "augment", 0)
    slow, moves = np.zeros_like(x), set()
    for i, (a, b, c) in enumerate(u):
        down, right = int(a * 9) - 4, int(b * 9) - 4
        moves |= {("down", down), ("right", right)}
        for row in range(shape[2]):
            for column in range(shape[3]):
                if 0 <= row + down < shape[2] and 0 <= column + right < shape[3]:
                    slow[i, :, row, column] = x[i, :, row + down, column + right]
        if c < 0.5:
            slow[i] = slow[i, :, :, ::-1].copy()
    draws = Draws(5, samples, epochs)
    found = flip(crop(x, draws), draws)
    assert np.array_equal(found, slow) and found.dtype == x.dtype and len(moves) > 12
    flat = augmentation("crop,flip", shape[1:])(x.reshape(40, -1), Draws(5, samples, epochs))
    assert np.array_equal(flat, slow.reshape(40, -1))


def epoch_of(simulate, ranks, shards, batch, epoch=1, boundary="short", seed=2, shuffle="epoch"):
    """{sample: augmented image} of an epoch."""

    def gather(comm):
        loader = DataLoader((X, Y), batch, comm, shards, seed, shuffle, boundary, augment=BOTH)
        for step in range(loader.sampler.steps_in(epoch + 2)):
            bounds, epochs = shard_bounds(len(loader.sampler.indices(step)), shards), loader.sampler.epochs(step)
            for shard in loader.batch(step).shards:
                for i, (sample, image) in enumerate(zip(shard.samples.tolist(), shard.arrays[0]), bounds[shard.index]):
                    if epochs[i] == epoch:
                        yield sample, image.tobytes()

    return dict(pair for pairs in simulate(ranks, lambda comm: list(gather(comm))) for pair in pairs)


def test_a_sample_is_augmented_alike_whatever_batch_shards_and_ranks(simulate):
    first = epoch_of(simulate, 1, 1, 23)
    assert sorted(first) == list(range(23)) and first != {i: x.tobytes() for i, x in enumerate(X)}
    for ranks, shards, batch, boundary in [
        (1, 4, 9, "short"),
        (2, 3, 5, "carry"),
        (3, 7, 10, "carry"),
        (3, 3, 3, "short"),
    ]:
        assert epoch_of(simulate, ranks, shards, batch, boundary=boundary) == first
    assert epoch_of(simulate, 1, 1, 23, shuffle="never") == first
    for other in (epoch_of(simulate, 1, 1, 23, epoch=0), epoch_of(simulate, 1, 1, 23, seed=3)):
        assert sum(other[i] == first[i] for i in range(23)) < 5


def trainer_of(comm, steps=14, out=None):
    ag.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 23))
    parallel = DistributedDataParallel(model, comm, 4)
    loader = DataLoader((X, Y), 10, comm, 4, augment=BOTH)
    metrics = lambda x, y: {"loss": ag.cross_entropy(model(x), y, "none")}
    return Trainer(
        parallel, optim.SGD(parallel, 1e-3), loader, lambda x, y: ag.cross_entropy(model(x), y), metrics,
        validation=(X, Y), steps=steps, out=out, resumes=True,
    )  # fmt: skip


def test_a_resume_in_the_middle_of_an_epoch_on_other_ranks_has_equal_bits(tmp_path, simulate):
    """And what is evaluated, on the training set or another, is never augmented."""
    (whole,) = simulate(1, lambda comm: trainer_of(comm).fit())
    assert whole["train_loss"] == whole["val_loss"]
    simulate(2, lambda comm: trainer_of(comm, 4, tmp_path).fit())

    def go_on(comm):
        trainer = trainer_of(comm, 14, tmp_path)
        trainer.restore(checkpoint.load_latest(tmp_path / "checkpoints"))
        return trainer.fit()["weights_sha256"]

    assert simulate(3, go_on) == [whole["weights_sha256"]] * 3


def test_what_is_not_an_augmentation_is_refused():
    for names in ("mixup", "crop,crop", "", "flip,"):
        with pytest.raises(ConfigurationError, match="is not crop, flip, or several, each once"):
            augmentation(names, (1, 2, 2))
    loader = DataLoader((X, Y), 4, augment=lambda x, draws: x[1:])
    with pytest.raises(ConfigurationError, match="augment returned 3 samples for 4: it has to make one of each"):
        loader.batch(0)
