"""Files of safetensors beside those of the library itself, and arrays that are read by pieces."""

import copy
import io

import numpy as np
import pytest
import safetensors.numpy
import torch

from allgrad.ddp import ConfigurationError
from allgrad.ddp.trainer import tensor_file

ARRAYS = {
    "b/c.weight": np.arange(60, dtype="f4").reshape(3, 4, 5), "é": np.arange(7.0), "scale": np.array(2.5),
    "empty": np.zeros((0, 3), "f4"), "column": np.arange(9, dtype="f2").reshape(9, 1), "flags": np.array([True, False]),
    "row": np.arange(50, dtype="i8").reshape(1, 50), "transposed": np.arange(12, dtype="i4").reshape(3, 4).T,
    "bytes": np.arange(5, dtype="u1"),
}  # fmt: skip


def written(path, arrays=None):
    path.write_bytes(b"".join(part.tobytes() for part in tensor_file.contents_of(ARRAYS if arrays is None else arrays)))
    return stored(path)


def stored(path):
    with open(path, "rb") as file:
        return tensor_file.stored_in(file, tensor_file.state_of(file))


def same(one, other):
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def test_the_library_reads_what_is_written_and_writes_what_is_read(tmp_path):
    written(tmp_path / "ours")
    theirs = safetensors.numpy.load_file(tmp_path / "ours")
    assert theirs.keys() == ARRAYS.keys() and all(same(theirs[name], ARRAYS[name]) for name in ARRAYS)
    whole = {name: np.array(array, order="C") for name, array in ARRAYS.items()}
    safetensors.numpy.save_file(whole, tmp_path / "theirs", {"about": "what is not an array"})
    found = stored(tmp_path / "theirs")
    assert found.keys() == ARRAYS.keys() and all(same(np.asarray(found[name]), ARRAYS[name]) for name in ARRAYS)


@pytest.mark.parametrize("size", [1, 24, 100, 1 << 24])
def test_an_array_is_read_in_pieces_into_any_memory(size, tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "PIECE_BYTES", size)
    found, pieces = written(tmp_path / "file"), []
    read = tensor_file.StoredArray._read

    def watched(array, piece, offset):
        pieces.append(piece.nbytes)
        read(array, piece, offset)

    monkeypatch.setattr(tensor_file.StoredArray, "_read", watched)
    for name, array in ARRAYS.items():
        assert same(np.asarray(found[name]), array), name
        into = np.zeros(array.T.shape, array.dtype).T
        found[name].read_into(into)
        assert np.array_equal(into, array)
        tensor = torch.zeros(array.shape, dtype=torch.float64)
        found[name].read_into(tensor)
        assert np.array_equal(tensor.numpy(), array)
        assert (found[name].ndim, found[name].size, found[name].nbytes) == (array.ndim, array.size, array.nbytes)
    assert max(pieces) <= max(size, 8)


def test_numbers_of_the_other_byte_order_are_written_as_numbers(tmp_path):
    found = written(tmp_path / "file", {"w": np.arange(5).astype(">f4")})
    assert np.asarray(found["w"]).tolist() == [0, 1, 2, 3, 4] and found["w"].dtype == np.float32


@pytest.mark.parametrize("dtype", ["c16", "M8[s]", "U3", object])
def test_what_the_format_does_not_have_is_refused(dtype):
    with pytest.raises(ValueError, match=r"a checkpoint holds no array of .*, as 'w' is"):
        [*tensor_file.contents_of({"w": np.zeros(3, "i8").astype(dtype)})]


@pytest.mark.parametrize(
    "header",
    [b"", b"{", b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', b'{"w":{"dtype":"F4","shape":[],"data_off',
     b'{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}',
     b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[4,0]}}'],
)  # fmt: skip
def test_a_header_that_is_wrong_is_an_error(header, tmp_path):
    for length in (len(header), len(header) + 100):
        (tmp_path / "file").write_bytes(length.to_bytes(8, "little") + header + bytes(8))
        with pytest.raises((ValueError, LookupError)):
            stored(tmp_path / "file")


def test_a_file_that_has_changed_since_it_was_found_right_is_refused(tmp_path):
    for change in (lambda p: p.write_bytes(b"x" * p.stat().st_size), lambda p: p.rename(tmp_path / "gone")):
        found = copy.deepcopy(written(tmp_path / "file"))
        change(tmp_path / "file")
        with pytest.raises(ConfigurationError, match=r"has changed while it was read|cannot be read any more"):
            np.asarray(found["é"])


def test_contents_are_handed_out_in_pieces(monkeypatch):
    monkeypatch.setattr(tensor_file, "PIECE_BYTES", 10)
    whole = io.BytesIO(b"x" * 25).getvalue()
    assert [*map(len, tensor_file.in_pieces(whole))] == [10, 10, 5] and not [*tensor_file.in_pieces(b"")]
