"""Which samples make up which step, and which rank computes them."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from allgrad.ddp import Communicator, ConfigurationError, DataLoader, Sampler
from allgrad.ddp.comm import Launch
from allgrad.ddp.data import BOUNDARIES
from allgrad.ddp.scaling import FollowNoise, grow, seesaw
from allgrad.ddp.shards import shard_bounds

MODES = ["epoch", "once", "never"]

sizes = st.integers(1, 60)


def epochs_of(sampler, epochs):
    """The samples of so many epochs, in the order of the steps, cut into epochs."""
    steps = sampler.steps_in(epochs)
    return np.concatenate([sampler.indices(step) for step in range(steps)])[: epochs * sampler.samples].reshape(
        epochs, sampler.samples
    )


def loaders(samples, batch, shards, ranks, **options):
    data = (np.arange(samples), np.arange(samples) * 10)
    return [
        DataLoader(data, batch, Communicator(Launch("mpirun", "mpi", rank, ranks)), shards, **options)
        for rank in range(ranks)
    ]


# --- epochs ------------------------------------------------------------------------------------------------------


@given(sizes, sizes, st.sampled_from(MODES), st.sampled_from(["short", "carry"]), st.integers(0, 5))
def test_every_epoch_has_every_sample_once(samples, batch, shuffle, boundary, seed):
    sampler = Sampler(samples, batch, shuffle, seed, boundary)
    for epoch in epochs_of(sampler, 3):
        assert sorted(epoch) == list(range(samples))


@given(sizes, sizes, st.integers(0, 5))
def test_batches_are_full_but_the_last_of_an_epoch(samples, batch, epoch):
    sampler = Sampler(samples, batch)
    lengths = [len(sampler.indices(step)) for step in range(sampler.steps_in(epoch), sampler.steps_in(epoch + 1))]
    assert lengths == [min(batch, samples - start) for start in range(0, samples, batch)]


@given(sizes, sizes, st.integers(0, 40))
def test_a_carried_batch_is_always_full(samples, batch, step):
    sampler = Sampler(samples, batch, boundary="carry")
    stream = np.concatenate([sampler.order(epoch) for epoch in range((step + 1) * batch // samples + 1)])
    assert sampler.indices(step).tolist() == stream[step * batch : (step + 1) * batch].tolist()


@given(sizes, sizes, st.sampled_from([*MODES, "replacement"]), st.sampled_from(["short", "carry"]), st.data())
def test_steps_are_found_in_any_order(samples, batch, shuffle, boundary, data):
    in_order, random = (Sampler(samples, batch, shuffle, 3, boundary) for _ in range(2))
    steps = [in_order.indices(step).tolist() for step in range(12)]
    for step in data.draw(st.permutations(range(12))):
        assert random.indices(step).tolist() == steps[step]


@given(sizes, sizes, st.sampled_from(["short", "carry"]), st.integers(0, 4))
def test_counts_agree_with_the_batches(samples, batch, boundary, epochs):
    sampler = Sampler(samples, batch, boundary=boundary)
    steps = sampler.steps_in(epochs)
    seen = sum(len(sampler.indices(step)) for step in range(steps))
    assert sampler.samples_seen(steps) == seen
    assert epochs * samples <= seen < epochs * samples + batch
    assert all(
        sampler.epoch_of(step) == sum(len(sampler.indices(s)) for s in range(step)) // samples for step in range(steps)
    )


# --- modes -------------------------------------------------------------------------------------------------------


def test_the_modes_differ_in_what_they_repeat():
    orders = {mode: epochs_of(Sampler(100, 7, mode), 2).tolist() for mode in MODES}
    assert orders["never"] == [list(range(100))] * 2
    assert orders["once"][0] == orders["once"][1] != orders["never"][0]
    assert orders["epoch"][0] != orders["epoch"][1]


def test_seed_and_epoch_are_not_added():
    """Samplers that shuffle by seed + epoch give (seed 0, epoch 1) the order of (seed 1, epoch 0)."""
    orders = {tuple(Sampler(50, 8, seed=seed).order(epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_replacement_draws_every_sample_equally_often_and_repeats_some():
    sampler = Sampler(10, 1000, "replacement")
    drawn = np.concatenate([sampler.indices(step) for step in range(100 * sampler.steps_per_epoch)])
    assert len(drawn) == 1000 and len(sampler.indices(0)) == 10
    counts = np.bincount(drawn, minlength=10)
    assert np.sum((counts - 100.0) ** 2 / 100.0) < 27.9  # chi squared with 9 degrees of freedom, at 1 in 1000
    assert any(len(set(sampler.indices(step))) < 10 for step in range(5))


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((0, 1), "the data set is empty"),
        ((1, 0), "at least 1 sample, got 0"),
        ((1, 1, "sometimes"), "shuffle is one of epoch, once, never, replacement .* got 'sometimes' and 'short'"),
        ((1, 1, "epoch", 0, "drop"), "boundary one of short, carry, got 'epoch' and 'drop'"),
    ],
)
def test_refusals(arguments, text):
    with pytest.raises(ConfigurationError, match=text):
        Sampler(*arguments)


# --- shards and ranks --------------------------------------------------------------------------------------------


@given(st.integers(0, 200), st.integers(1, 40))
def test_shards_differ_by_at_most_one_sample(size, shards):
    lengths = np.diff(shard_bounds(size, shards))
    assert len(lengths) == shards and sum(lengths) == size
    assert lengths.tolist() == sorted(lengths, reverse=True) and lengths[0] - lengths[-1] <= 1


@given(sizes, sizes, st.integers(1, 12), st.data())
def test_the_ranks_share_a_batch_without_gap_or_overlap(samples, batch, shards, data):
    batch = max(batch, shards)
    ranks = data.draw(st.integers(1, shards), "ranks")
    alone, *_ = loaders(samples, batch, shards, 1)
    together = loaders(samples, batch, shards, ranks)
    for step in range(2 * len(alone)):
        whole, parts = alone.batch(step), [loader.batch(step) for loader in together]
        assert {(p.step, p.epoch, p.size, p.logical_shards) for p in parts} == {
            (step, step // len(alone), whole.size, shards)
        }
        pieces = [shard for part in parts for shard in part.shards]
        assert [shard.index for shard in pieces] == list(range(shards))
        for piece, shard in zip(pieces, whole.shards, strict=True):
            x, y = piece.arrays
            assert piece.samples.tolist() == shard.samples.tolist() == x.tolist() == (y // 10).tolist()
        assert sum(map(len, pieces)) == whole.size == len({i for piece in pieces for i in piece.samples})


def test_ranks_have_equal_numbers_of_shards_where_they_can():
    for ranks in range(1, 9):
        runs = [loader.own_shards for loader in loaders(50, 40, 8, ranks)]
        lengths = {len(run) for run in runs}
        assert max(lengths) - min(lengths) <= 1 and min(lengths) >= 1


@pytest.mark.parametrize("boundary", ["short", "carry"])
def test_epochs_are_runs_of_steps(boundary):
    loader, *_ = loaders(50, 8, 2, 1, boundary=boundary)
    steps = [batch.step for epoch in range(4) for batch in loader.epoch(epoch)]
    assert steps == list(range(loader.sampler.steps_in(4))) and len(loader) == 7


def test_data_of_different_lengths_and_batches_smaller_than_the_shards_are_refused():
    with pytest.raises(ConfigurationError, match=r"one length, got \[3, 4\]"):
        DataLoader((np.zeros(3), np.zeros(4)), 2)
    with pytest.raises(ConfigurationError, match=r"batch of 3 cannot be cut into 4 .*global_batch=4 or more"):
        DataLoader((np.zeros(9),), 3, shards=4)


@given(
    samples=st.integers(1, 50),
    batch=st.integers(1, 60),
    wanted=st.integers(0, 200),
    boundary=st.sampled_from(BOUNDARIES),
)
def test_the_steps_for_some_samples_are_the_fewest_that_see_them(samples, batch, wanted, boundary):
    sampler = Sampler(samples, batch, boundary=boundary)
    steps = sampler.steps_for(wanted)
    assert sampler.samples_seen(steps) >= wanted
    assert steps == 0 or sampler.samples_seen(steps - 1) < wanted


# --- a batch that changes ------------------------------------------------------------------------------------------

changes = st.lists(st.tuples(st.integers(0, 12), sizes), max_size=4)


@given(sizes, sizes, changes, st.sampled_from(BOUNDARIES), st.integers(0, 150))
def test_positions_of_changing_batches_are_those_of_walking_through_them(samples, batch, changes, boundary, wanted):
    sampler, sizes, step = Sampler(samples, batch, boundary=boundary), {}, 0
    for later, size in changes:
        step += later
        sampler.resize(step, size)
        sizes[step] = size
    ends = [0]
    for step in range(60):
        batch, start = sizes.get(step, batch), ends[-1]
        ends.append(start + batch if boundary == "carry" else min(start + batch, (start // samples + 1) * samples))
        assert sampler.span(step) == (start, ends[-1]) and sampler.batch_at(step) == batch
        assert sampler.samples_seen(step + 1) == ends[-1]
    if wanted <= ends[-1]:
        assert sampler.steps_for(wanted) == next(step for step, end in enumerate(ends) if end >= wanted)


def test_the_batches_of_the_past_do_not_change():
    with pytest.raises(ConfigurationError, match=r"a batch of 8 from step 2 on: .* after step 5"):
        sampler = Sampler(100, 10)
        sampler.resize(5, 20)
        sampler.resize(2, 8)


def test_a_batch_grows_at_epochs_and_each_epoch_still_has_every_sample_once():
    sampler = Sampler(50, 4)
    assert grow(sampler, 2.0, [1, "2.5"]) == [13, 13 + 7 + 4]
    assert [sampler.batch_at(step) for step in (12, 13, 23, 24, 99)] == [4, 8, 8, 16, 16]
    for epoch in epochs_of(sampler, 5):
        assert sorted(epoch) == list(range(50))
    rate = seesaw(lambda step: 0.3, 4.0, [13, 24])
    assert [rate(step) for step in (12, 13, 24)] == pytest.approx([0.3, 0.15, 0.075])


def test_a_batch_follows_the_noise_scale():
    follow = FollowNoise(1, 4, 100)
    assert [follow.next(10, n) for n in (None, 20.0, 20.1)] == [10, 10, 20] and follow.next(60, 1e9) == 100
    root = FollowNoise("0.5", 4, 100, price=0.96)
    assert [root.next(10, n) for n in (None, 1e4 / 0.96, 400.0, 1.0)] == [10, 100, 20, 4]
    assert [step for step in range(1, 11) if root.due(Sampler(10, 3), step)] == [2, 4, 6, 8, 10]
    with pytest.raises(ConfigurationError, match="is between 4 and a larger limit, at a price above 0, got 1, 3"):
        FollowNoise(1, 4, 3)
    with pytest.raises(ConfigurationError, match="a batch grows by a factor above 1 at rising epochs, got 1 and 3"):
        grow(Sampler(10, 2), 1.0, [3])
