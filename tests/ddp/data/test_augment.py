"""Augmentation: keyed by sample and epoch, and nothing else; crops and flips beside a slow reference."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator, philox4x32, uniform_of
from allgrad.ddp import ConfigurationError, DataLoader, DistributedDataParallel, Trainer
from allgrad.ddp.data import Draws, augmentation, crop, flip
from allgrad.ddp.shards import shard_bounds
from allgrad.ddp.trainer import checkpoint

X = generator("images").standard_normal((23, 2, 6, 5)).astype("f4") + 9.0
Y = np.arange(23)
BOTH = augmentation("crop,flip", (2, 6, 5))


@pytest.mark.parametrize(
    "counter, key, words",
    [("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
     ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
     ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1")],
)  # fmt: skip
def test_philox_gives_the_words_of_its_authors(counter, key, words):
    """The known answers of Random123."""
    counter, key, words = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    found = philox4x32([np.full(3, word, np.uint64) for word in counter], key)
    assert [word.tolist() for word in found] == [[word] * 3 for word in words]


def test_uniform_numbers_depend_on_their_number_and_their_place_alone():
    whole = uniform_of(range(100), 0, 11, 3, "augment", 0)
    some = [5, 99, 5, 0]
    assert np.array_equal(uniform_of(some, 3, 10, 3, "augment", 0), whole[some, 3:10])
    assert uniform_of([], 0, 3, 0).shape == (0, 3) and uniform_of([2**40], 0, 1, 0) != uniform_of([0], 0, 1, 0)
    others = [uniform_of(range(100), 0, 11, *key) for key in ((4, "augment", 0), (3, "augment", 1), (3, "mask", 0))]
    assert not any(np.isin(other, whole).any() for other in others)


def test_uniform_numbers_are_uniform_and_independent():
    """Moments, a histogram, and correlations between numbers of neighbours, of places and of epochs: 5 sigma each."""
    u = np.stack([uniform_of(range(50_000), 0, 4, 0, "augment", epoch) for epoch in range(2)])
    bins = np.histogram(u, 64, (0, 1))[0] - u.size / 64
    assert abs((bins**2).sum() / (u.size / 64) - 63) < 5 * np.sqrt(2 * 63)
    centred = (u - 0.5) * np.sqrt(12)
    pairs = (centred[0], centred[1]), (centred[:, 1:], centred[:, :-1]), (centred[..., 1:], centred[..., :-1])
    for a, b in ((centred, np.ones(1)), *pairs):
        assert abs((a * b).sum()) < 5 * np.sqrt(a.size)


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
