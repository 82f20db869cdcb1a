"""Checkpoints: a directory a step, written whole or not at all, and nothing in it that depends on the ranks.

    checkpoints/step-00000400/
        model.safetensors       the state dict, which torch.nn loads as it is
        optimizer.safetensors   its state, as "momentum/fc1.weight"
        state.json              step, samples seen, configuration, what training needs to go on
        COMPLETE                SHA-256 of each of these files; written last

A directory is written under another name, flushed to disk and renamed. One that is torn or altered fails its own
checksums: it is named and passed over, and the one before it is used. No pickle is written or read. Files are
written, hashed and read by pieces, so that a state takes its own size of memory and no more.
"""

import contextlib
import copy
import hashlib
import json
import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np

from allgrad.ddp.errors import ConfigurationError, tell
from allgrad.ddp.trace import Timeline
from allgrad.ddp.trainer.tensor_file import PIECE_BYTES, StoredArray, contents_of, in_pieces, state_of, stored_in

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
MARKER = "COMPLETE"


def save(directory: Path, step: int, model: dict, optimizer: dict, state: dict, keep=2) -> Path:
    """Write a checkpoint of this step and remove all but the last `keep`. OSError if the disk refuses; nothing is lost.

    model: {name: array}; optimizer: a nested dict of arrays and numbers (`Optimizer.state_dict`); state: JSON values.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    final = path_of(directory, step)
    partial = directory / f".{final.name}.partial"
    for left in directory.glob(".step-*.partial"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    arrays, numbers = _flatten(optimizer)
    text = json.dumps({"step": step, "optimizer": numbers, **state}, indent=1, sort_keys=True).encode()
    contents = contents_of(model), contents_of(arrays), [text]
    try:
        partial.mkdir()
        lines: list[bytes] = []
        for name, parts in zip(FILES, contents):
            _write(partial / name, parts, lines)
        _write(partial / MARKER, [*lines], [])
        _flush(partial)
        if os.path.lexists(final):
            _remove(final)
        partial.rename(final)
        _flush(directory)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    until_now = [path for path in _listed(directory) if path.name <= final.name]  # later ones are damaged, not newer
    for old in until_now[:-keep]:
        _remove(old)
    return final


class Writer:
    """Writes the checkpoints of a directory in the background, one at a time; without a directory, nothing.

    The interpreter does not end before the last one is written.
    """

    def __init__(self, directory: Path | None, timeline: Timeline | None = None):
        self.directory, self.timeline = directory, timeline or Timeline()
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.thread is not None:
            self.thread.join()

    def save(self, step: int, model: dict, optimizer: dict, state: dict):
        """Begin a checkpoint, once the one before is done. The arrays are the writer's from here on; see `save`."""
        self.wait()
        # The state holds what training goes on changing; the arrays are copies that nobody else has.
        contents = step, model, optimizer, copy.deepcopy(state)
        self.thread = threading.Thread(target=self._save, args=contents, name="checkpoint")
        self.thread.start()

    def wait(self) -> OSError | None:
        """Return when nothing is being written: the error of the last one, which has been reported, or None."""
        if self.thread is not None:
            self.thread.join()
        if self.error is not None and not isinstance(self.error, OSError):
            raise self.error
        return self.error

    def _save(self, step, *contents):
        self.error = None
        try:
            assert self.directory is not None
            with self.timeline.span("checkpoint", "write", on_host=True, step=step):
                save(self.directory, step, *contents)
        except OSError as error:
            tell(f"checkpoint of step {step} not written: {error}")
            self.error = error
        except BaseException as error:  # a fault of the program: the training thread is to raise it
            self.error = error


def steps_in(directory: Path) -> list[Path]:
    """The checkpoints of a directory, oldest first, whole or not; none if it does not exist.

    ConfigurationError if it cannot be read: it may hold some.
    """
    try:
        return _listed(directory)
    except OSError as error:
        raise ConfigurationError(
            f"checkpoints in {directory} cannot be looked for ({error}): give a directory to read"
        ) from None


def load(path: Path, lazily=False) -> tuple[dict, dict, dict]:
    """Read one checkpoint: (model, optimizer, state) as given to `save`.

    lazily: once the checksums are found right, leave the arrays in the files, each as a `StoredArray`.
    ConfigurationError if anything in it is missing or altered.
    """
    with contextlib.ExitStack() as stack:
        try:
            marker = (path / MARKER).read_bytes()
            files = {name: stack.enter_context(open(path / name, "rb")) for name in FILES}
            seen = {name: state_of(file) for name, file in files.items()}
            lines = {
                name: _line(name, iter(lambda file=file: file.read(PIECE_BYTES), b"")) for name, file in files.items()
            }
        except OSError as error:
            raise ConfigurationError(f"checkpoint {path} is incomplete ({error})") from None
        for name, line in lines.items():
            if line not in marker:
                raise ConfigurationError(f"checkpoint {path} is damaged: {name} does not have the checksum in {MARKER}")
        if marker != b"".join(lines.values()):
            raise ConfigurationError(
                f"checkpoint {path} is damaged: {MARKER} holds more than the checksums of its files"
            )
        return _contents(path, files, seen, lazily)


def _contents(path, files, seen, lazily):
    """What `load` returns, of files whose checksums are right."""
    try:
        files["state.json"].seek(0)
        state = json.loads(files["state.json"].read())
        model, arrays = (stored_in(files[name], seen[name]) for name in FILES[:2])
        if not lazily:
            model, arrays = ({name: np.asarray(stored) for name, stored in one.items()} for one in (model, arrays))
        optimizer, step = _unflatten(arrays, state.pop("optimizer")), state["step"]
    except ConfigurationError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigurationError(f"checkpoint {path} cannot be read ({error!r})") from None
    if re.fullmatch(r"step-\d+", path.name) and path != path_of(path.parent, step):
        raise ConfigurationError(f"checkpoint {path} is damaged: its files are those of step {step}")
    return model, optimizer, state


def load_latest(directory: Path, warn=print, lazily=False) -> tuple[dict, dict, dict] | None:
    """The newest checkpoint that is whole, see `load`; None if there is none.

    A damaged one is named to `warn` and passed over.
    """
    for path in reversed(steps_in(directory)):
        try:
            return load(path, lazily)
        except ConfigurationError as error:
            warn(f"{error}; going back to the one before")
    return None


def read_by_rank_0(comm, saved: tuple[dict, dict, dict]):
    """Let rank 0 read the arrays that `load` has left in the files, when all ranks ask for them. See `StoredArray`."""
    model, optimizer, _ = saved
    for arrays in (model, *(value for value in optimizer.values() if isinstance(value, dict))):
        for array in arrays.values():
            if isinstance(array, StoredArray) and comm.size > 1:
                array.comm = comm


def path_of(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return directory / f"step-{step:08d}"


def _listed(directory):
    try:
        return sorted(Path(directory, name) for name in os.listdir(directory) if name.startswith("step-"))
    except FileNotFoundError:
        return []


def _remove(path):
    """Delete a checkpoint, so that one that is half deleted does not count as damaged."""
    with contextlib.suppress(OSError):
        path.unlink()  # a file or a link of its name
    with contextlib.suppress(OSError):
        path = path.rename(path.with_name(f".{path.name}.old.partial"))
    shutil.rmtree(path, ignore_errors=True)


def _line(name, pieces):
    """What the marker says of a file."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return f"{digest.hexdigest()}  {name}\n".encode()


def _flatten(nested):
    """{"steps": 3, "momentum": {"w": array}} as ({"momentum/w": array}, {"steps": 3})."""
    arrays, numbers = {}, {}
    for key, value in nested.items():
        if isinstance(value, dict):
            arrays.update({f"{key}/{name}": np.asarray(a) for name, a in value.items()})
        else:
            numbers[key] = value
    return arrays, numbers


def _unflatten(arrays, numbers):
    nested = dict(numbers)
    for path, array in arrays.items():
        key, name = path.split("/", 1)
        nested.setdefault(key, {})[name] = array
    return nested


def _write(path, parts, lines):
    """Write a file of these parts, one after the other, and add what the marker says of it to the lines."""
    with open(path, "wb") as file:

        def written():
            for part in parts:
                for piece in in_pieces(part):
                    file.write(piece)
                    yield piece

        lines.append(_line(path.name, written()))
        file.flush()
        os.fsync(file.fileno())


def _flush(directory):
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
