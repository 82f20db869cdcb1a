"""Arrays of every kind and size, and objects of every size, on their way from rank to rank."""

import threading

import numpy as np
import pytest
import torch

from allgrad.ddp import ConfigurationError
from allgrad.ddp.comm import messages

LONG = np.arange(100.0).reshape(10, 10)


@pytest.fixture(params=[7, 64])
def chunk(request, monkeypatch):
    """The bytes of a message at most: less than one element, and a few of them."""
    monkeypatch.setattr(messages, "CHUNK_BYTES", request.param)
    return request.param


ARRAYS = {
    "flat": lambda: np.arange(30.0),
    "a matrix": lambda: LONG.copy(),
    "a scalar": lambda: np.array(3.0),
    "empty": lambda: np.zeros((0, 4)),
    "in Fortran's order": lambda: np.asfortranarray(LONG),
    "every other element": lambda: np.repeat(LONG, 2, 1)[:, ::2],
    "backwards": lambda: LONG.copy()[::-1],
    "of the other byte order": lambda: np.arange(9).astype(">i4"),
    "dates": lambda: np.arange(5).astype("M8[s]"),
    "records": lambda: np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")]),
    "texts": lambda: np.array(["ab", "cde"]),
    "of torch": lambda: torch.arange(30.0),
    "of torch, transposed": lambda: torch.from_numpy(LONG.copy()).T,
    "of torch, bfloat16": lambda: torch.arange(9).bfloat16(),
    "of torch, a scalar": lambda: torch.tensor(2.5),
    "of torch, a parameter": lambda: torch.nn.Parameter(torch.ones(3)),
}


def cleared(array):
    """An array of the same form, with other contents."""
    with torch.no_grad():
        array[...] = array.flatten()[0] if array.shape and array.shape[0] else 0
    return array


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_of_any_kind_and_size_arrives(kind, chunk, simulate):
    make = ARRAYS[kind]
    expected = str(make().tolist())

    def run(comm):
        sent, received, other = make(), cleared(make()), make() if comm.rank else cleared(make())
        if kind == "in Fortran's order" and comm.rank:
            sent = np.ascontiguousarray(sent)  # the elements are the same, only their order in memory differs
        comm.exchange([(sent, 1 - comm.rank)], [(received, 1 - comm.rank)])
        comm.broadcast(other, 1)
        later = cleared(make())
        done = comm.start([(sent, 1 - comm.rank)], [(later, 1 - comm.rank)], 1)
        done(True)
        assert [str(a.tolist()) for a in (received, other, later, sent)] == [expected] * 4
        assert comm.sent == comm.asked == [2 * comm.rank, 2 * (1 - comm.rank)]

    simulate(2, run)


@pytest.mark.parametrize("kind", ["flat", "a matrix", "a scalar", "empty", "in Fortran's order", "every other element"])
def test_an_array_of_any_kind_and_size_is_added_up(kind, chunk, simulate):
    def run(comm):
        array = ARRAYS[kind]()
        comm.all_reduce(array)
        assert array.tolist() == (ARRAYS[kind]() * 2).tolist()

    simulate(2, run)


def test_what_cannot_be_added_up_or_sent_as_numbers_is_refused_on_every_rank(simulate):
    def run(comm):
        for array in (np.ones(3, bool), np.arange(3).astype("M8[s]"), np.arange(3).astype(">i4")):
            with pytest.raises(ConfigurationError, match=r"all_reduce over simulated adds up no .*: give an array of"):
                comm.all_reduce(array)
        with pytest.raises(ConfigurationError, match=r"object \(1,\) holds objects of Python"):
            comm.broadcast(np.array([{}]))

    simulate(2, run)


@pytest.mark.parametrize("inline", [0, 1 << 16])
def test_objects_of_any_size_arrive_and_their_arrays_can_be_written(inline, chunk, monkeypatch, simulate):
    monkeypatch.setattr("allgrad.ddp.comm.communicator.INLINE_BYTES", inline)

    def value(rank):
        frozen = np.arange(5)
        frozen.flags.writeable = False
        return {"rank": rank, "w": LONG + rank, "T": LONG.T, "text": "x" * 100, "none": np.zeros((0, 2)), "f": frozen}

    def run(comm):
        mine = value(comm.rank)
        everyones = comm.all_gather_object(mine)
        assert everyones[comm.rank] is mine
        received = [*everyones, comm.broadcast_object(mine, 1)]
        for rank, theirs in enumerate(received):
            expected = value(min(rank, 1))
            assert theirs.keys() == expected.keys() and (theirs["rank"], theirs["text"]) == (min(rank, 1), "x" * 100)
            assert all(np.array_equal(theirs[name], expected[name]) for name in ("w", "T", "none", "f"))
        for theirs in received:
            theirs["w"][0] = 1.0
        assert comm.all_gather_object(None) == [None, None]

    simulate(2, run)


def test_a_long_object_is_sent_as_views_of_its_arrays():
    """So that the root needs no second copy of what it sends."""
    value = {"w": np.ones((100, 100)), "m": np.ones((100, 100), order="F")}
    stream, *frames = messages.packed(value)
    assert stream.nbytes < 1000 and [frame.nbytes for frame in frames] == [80_000] * 2
    assert all(np.shares_memory(frame, array) for frame, array in zip(frames, value.values()))
    received = [frame.copy() for frame in (stream, *frames)]
    back = messages.unpacked(received)
    assert all(np.shares_memory(back[name], frame) for name, frame in zip(value, received[1:]))


def test_what_one_rank_cannot_pickle_is_told_on_every_rank(simulate):
    def run(comm):
        for value in (threading.Lock(), lambda: 0, np.array([threading.Lock()])):
            for send in (comm.all_gather_object, lambda value: comm.broadcast_object(value, 1)):
                with pytest.raises(
                    ConfigurationError, match=r"^rank 1 cannot send its value in .* at .*test_me.*pickle"
                ):
                    send(value if comm.rank else 0)
        assert comm.all_gather_object(comm.rank) == [0, 1]

    simulate(2, run)
