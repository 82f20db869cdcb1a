"""The sum by collectives: the bits of the tree, for the bytes that it promises, on ranks of any number of hosts."""

import itertools
from functools import partial

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import DataLoader, DistributedDataParallel, ShardSum
from allgrad.ddp.comm import Launch
from allgrad.ddp.reduce import Wire, subtrees
from allgrad.ddp.reduce.collective_sum import ALIGNMENT_ELEMENTS, CollectiveSum, additions
from allgrad.ddp.shards import shards_of_rank
from tests.conftest import tree
from tests.ddp.reduce import gloo_ranks

LENGTHS = 1, 100, 4097


def leaves_of(shards, length):
    """Arrays whose magnitudes differ so much that every order of additions rounds in its own way."""
    rng = generator("leaves", shards, length)
    return list((rng.standard_normal((shards, length)) * 10.0 ** rng.integers(-3, 4, (shards, length))).astype("f4"))


def total_of(total, leaves, array):
    for shard in range(total.first, total.stop):
        array[...] = leaves[shard]
        total.push(shard, array)
    total.finish(array)
    return array


# --- which rows are added to which --------------------------------------------------------------------------------


@pytest.mark.parametrize("shards, ranks", [(1, 1), (8, 8), (7, 7), (13, 5), (19, 8), (100, 9), (64, 8)])
def test_rows_are_added_in_the_order_of_the_tree(shards, ranks):
    nodes = [n for r in range(ranks) for n in subtrees(*shards_of_rank(r, ranks, shards), shards)]
    leaves = leaves_of(shards, 20)
    rows = np.array([tree(leaves[i << level : (i + 1) << level]) for level, i in nodes])
    pairs, left = additions(nodes, shards)
    for into, added in pairs:
        rows[into] += rows[added]
    ((node, row),) = left.items()
    assert node == ((shards - 1).bit_length(), 0) and rows[row].tobytes() == tree(leaves).tobytes()


@pytest.mark.parametrize("rows", [2, 3, 7, 8, 64, 100])
def test_many_pairs_of_rows_are_added_at_once(rows):
    pairs, _ = additions([(0, i) for i in range(rows)], rows)
    assert len(pairs) == (rows - 1).bit_length()


@pytest.mark.parametrize("shards, first, stop", [(9, 1, 7), (16, 4, 8), (100, 3, 64)])
def test_what_lacks_its_sibling_is_left(shards, first, stop):
    _, left = additions([(0, i) for i in range(first, stop)], shards)
    assert [*left] == subtrees(first, stop, shards)


# --- ranks that are threads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks, local, shards", [(2, 2, 5), (3, 3, 3), (4, 2, 4), (6, 3, 7), (6, 2, 15), (5, 2, 5)])
@pytest.mark.parametrize("wire", [None, "bfloat16"])
def test_collectives_give_what_messages_give(ranks, local, shards, wire, simulate):
    """Of arrays that have their place, that have none, and that need no padding; and in half precision."""
    lengths = 1, 100, 2 * ALIGNMENT_ELEMENTS * ranks

    def run(comm, collectives):
        comm.collectives = collectives
        found = []
        for length, placed in itertools.product(lengths, (False, True)):
            total = ShardSum(comm, shards, wire=wire and Wire(wire))
            array = np.zeros(length, "f4")
            array = total.share(array) if placed and collectives else array
            found += [total_of(total, leaves_of(shards, length), array).tobytes() for _ in range(2)]
            assert (total.collective_sum is not None) == collectives
        return found

    expected, found = (simulate(ranks, partial(run, collectives=way), local) for way in (False, True))
    assert found == expected and len({*map(tuple, found)}) == 1


@pytest.mark.parametrize("ranks, local", [(4, 4), (8, 8), (4, 2), (8, 2), (8, 4), (16, 4), (6, 4)])
def test_as_many_bytes_are_sent_as_promised(ranks, local, simulate):
    """And between hosts an L-th of what a flat sum sends."""
    length = 6 * ALIGNMENT_ELEMENTS * ranks

    def run(comm):
        comm.collectives = True
        total, array = ShardSum(comm, ranks), np.ones(length, "f4")
        total.push(comm.rank, array)
        before = comm.bytes_sent
        total.finish(array)
        assert array[0] == ranks
        pair = comm.by_host()
        return comm.bytes_sent - before, None if pair is None else pair[1].bytes_sent

    for sent, between in simulate(ranks, run, local):
        if ranks % local or local == ranks:
            assert (sent, between) == (2 * (ranks - 1) * length * 4 // ranks, None)
        else:
            hosts = ranks // local
            assert between == 2 * (hosts - 1) * length * 4 // hosts // local
            assert sent == 2 * (local - 1) * length * 4 // local + between


def test_half_precision_sends_half_the_bytes(simulate):
    def run(comm, wire):
        comm.collectives = True
        total, array = ShardSum(comm, 4, wire=wire), np.ones(ALIGNMENT_ELEMENTS * 4, "f4")
        total.push(comm.rank, array)
        total.finish(array)
        return comm.bytes_sent

    whole, half = (simulate(4, partial(run, wire=wire), 2) for wire in (None, Wire("float16")))
    assert whole == [2 * sent for sent in half]


def test_room_for_subtrees_is_made_once(simulate):
    def run(comm):
        comm.collectives = True
        total, found = ShardSum(comm, 7), []
        for _ in range(3):
            total_of(total, leaves_of(7, 20), np.zeros(20, "f4"))
            found.append({*map(id, total._free)})
        return [len(found[0]), found[1] == found[0], found[2] == found[0]]

    assert all(given > 0 and same == [True, True] for given, *same in simulate(2, run))


def test_two_siblings_have_one_all_reduce(simulate):
    def run(comm):
        comm.collectives = True
        return [ShardSum(comm, shards).by_collectives(np.ones(3)) for shards in (2, 3, 4, 5)]

    assert simulate(2, run) == [[False, True, False, True]] * 2


def test_an_array_has_zeros_behind_it_where_it_has_its_place(simulate):
    def run(comm):
        total = CollectiveSum(comm, 3, [[(0, 0)], [(0, 1)], [(1, 1)]])
        array = total.place(np.ones(5, "f4"))
        return total.padded(97), array.tolist(), array.base.size

    assert simulate(3, run) == [(2 * 96, [1.0] * 5, 96)] * 3


def test_ranks_that_are_not_spread_evenly_or_in_order_have_one_level(simulate):
    def run(comm):
        comm.local_rank, comm.local_size = comm.rank // 2, 2  # ranks 0 and 2 are on one host
        irregular = comm.by_host()
        assert comm.by_host() is irregular
        return irregular

    assert simulate(4, run, 2) == [None] * 4
    assert simulate(5, lambda comm: comm.by_host(), 2) == [None] * 5
    pairs = simulate(6, lambda comm: [(c.rank, c.size) for c in comm.by_host()], 2)
    assert pairs == [[(rank % 2, 2), (rank // 2, 3)] for rank in range(6)]


# --- ranks that are processes ------------------------------------------------------------------------------------


def wrong_sums(rank, ranks):
    """All that does not have the bits of the tree, on one, two or three hosts."""
    import torch.distributed as dist

    from allgrad.ddp.comm.torch_distributed import TorchCommunicator

    wrong, groups = [], (dist.group.WORLD, dist.new_group(backend="gloo"))
    for hosts in (1, 2, 3):
        local = -(-ranks // hosts)  # on the last host there may be fewer
        here = min(local, ranks - rank // local * local)
        launch = Launch("torchrun", "gloo", rank, ranks, rank % local, here)
        wrong += _wrong(TorchCommunicator(launch, *groups), hosts, 1 + (1 < local < ranks and ranks % local == 0))
    return wrong


def _wrong(comm, hosts, levels):
    comm.collectives = True
    for shards in (comm.size, 2 * comm.size + 4 - hosts):
        for length in LENGTHS:
            leaves, total = leaves_of(shards, length), ShardSum(comm, shards)
            array = total_of(total, leaves, total.share(np.zeros(length, "f4")))
            if array.tobytes() != tree(leaves).tobytes():
                yield comm.size, hosts, shards, length
            if total.collective_sum is not None and len(total.collective_sum.levels) != levels:
                yield comm.size, hosts, "levels"


@pytest.mark.parametrize("ranks", range(2, 9))
def test_gloo_gives_the_bits_of_the_tree_on_any_ranks_and_hosts(ranks, tmp_path):
    pytest.importorskip("torch")
    assert gloo_ranks.run(ranks, partial(wrong_sums, ranks=ranks), tmp_path / "store") == [[]] * ranks


def weights_of(rank, ranks=3):
    """SHA-256 of the weights that a training ends with, for each way to add up."""
    import torch.distributed as dist

    from allgrad.ddp.comm.torch_distributed import TorchCommunicator

    found, objects = [], dist.new_group(backend="gloo")
    for collectives, shards, more in itertools.product((False, True), (ranks, 5), ({}, {"wire": "bfloat16"})):
        comm = TorchCommunicator(Launch("torchrun", "gloo", rank, ranks, 0, 1), dist.group.WORLD, objects)
        comm.collectives = collectives
        found.append((shards, str(more), trained(comm, shards, overlap="after", **more)))
    return found


def trained(comm, shards, **options):
    ag.manual_seed(3)
    x = generator("x").standard_normal((40, 36)).astype("f4")
    model = nn.Sequential(nn.Linear(36, 50), nn.Tanh(), nn.Linear(50, 3))
    parallel = DistributedDataParallel(model, comm, shards, **options)
    optimizer = optim.SGD(parallel, 0.1, 0.9)
    for batch in DataLoader((x, np.arange(40) % 3), 13, comm, shards).steps(0, 5):
        parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))
        optimizer.step()
    return parallel.arena.sha256()


def test_a_whole_training_over_gloo_ends_with_the_same_weights(tmp_path):
    pytest.importorskip("torch")
    found = gloo_ranks.run(3, weights_of, tmp_path / "store")
    assert found[1:] == found[:1] * 2
    assert found[0][:4] == found[0][4:] and len({sha for *_, sha in found[0]}) == 4
