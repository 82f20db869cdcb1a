"""Starting from weights that were trained before, and keeping some of them as they are."""

import hashlib
import os
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from allgrad.autograd import nn
from allgrad.ddp.errors import ConfigurationError
from allgrad.ddp.trainer import checkpoint

LISTED = 8  # names that a printed line tells


def find(path: Path, flag: str) -> tuple[dict, dict]:
    """(state dict, state) of a checkpoint: of the directory itself, or the newest whole one of a run's directory."""
    if os.path.isfile(path / "state.json") or os.path.isfile(path / checkpoint.MARKER):
        return _read(checkpoint.load(path, lazily=True))
    for directory in (path / "checkpoints", path):
        if found := checkpoint.load_latest(directory, lazily=True):
            return _read(found)
    seen = "no whole checkpoint in it" if path.is_dir() else "no such directory"
    raise ConfigurationError(f"{flag} {path}: there is {seen}: give the --out of a run, or a step-... directory of it")


def _read(saved):
    """The state dict and the state of a checkpoint whose optimizer nobody needs."""
    model, _, state = saved
    return {name: np.asarray(stored) for name, stored in model.items()}, state


def read(path: Path) -> tuple[dict, str]:
    """(state dict, SHA-256) of a .safetensors file, a checkpoint or a run's directory."""
    try:
        if path.is_file():
            content = path.read_bytes()
            tensors = load(content)
            return tensors, hashlib.sha256(content).hexdigest()
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"--init-from {path} cannot be read ({error}): expected a .safetensors file or a checkpoint"
        ) from None
    tensors, _ = find(path, "--init-from")
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return tensors, digest.hexdigest()


def load_into(model: nn.Module, tensors: dict, source: str) -> str:
    """Overwrite the model's tensors by those of the same name and shape; returns a line that says what was done.

    What has another shape, as a head for other classes has, and what is absent, keeps its initial value. Raises
    ConfigurationError if nothing fits.
    """
    own = model.state_dict()
    fits = [name for name, value in own.items() if name in tensors and tensors[name].shape == value.shape]
    if not fits:
        raise ConfigurationError(
            f"--init-from {source} has no tensor of the name and shape of one of the model: it has "
            f"{_shapes(tensors)}, and the model {_shapes(own)}"
        )
    model.load_state_dict({**own, **{name: tensors[name] for name in fits}})
    new = [name for name in own if name not in fits]
    unused = [name for name in tensors if name not in own]
    line = f"--init-from {source}: loaded {len(fits)} of the model's {len(own)} tensors"
    line += f", {len(new)} left new{_listed(new)}" if new else ""
    return line + (f"; {len(unused)} in it unknown to the model{_listed(unused)}" if unused else "")


def freeze(model: nn.Module, patterns: str) -> str:
    """Take the parameters whose names match one of the patterns, as of file names, out of training; returns a line.

    They become constants: they get no gradient, stand in no arena, and stay in the state dict. A batch norm with no
    parameter left to train stays in evaluation mode: it normalises by its running averages, which stay as they are.
    Raises ConfigurationError for a pattern that matches nothing, and if nothing would be left to train.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    chosen: dict = {}
    for pattern in patterns.split(","):
        found = {name: p for name, p in parameters.items() if fnmatchcase(name, pattern)}
        if not found:
            raise ConfigurationError(
                f"--freeze {pattern!r} matches no parameter: the model has {', '.join(list(parameters)[:LISTED])}"
                f"{', ...' if len(parameters) > LISTED else ''}"
            )
        chosen |= found
    if len(chosen) == len(parameters):
        raise ConfigurationError(f"--freeze {patterns} matches all {len(parameters)} parameters: leave some to train")
    for p in chosen.values():
        p.requires_grad_(False)
    for module in model.modules():
        own = [*module.parameters(recurse=False)]
        if module.running_statistics and own and all(t.node is None for t in own):
            module.training = False
    frozen = [name for name in parameters if name in chosen]
    count = sum(p.size for p in chosen.values())
    return f"--freeze {patterns}: {len(frozen)} tensors of {count:,} numbers are not trained{_listed(frozen)}"


def _listed(names):
    more = ", ..." if len(names) > LISTED else ""
    return f" ({', '.join(names[:LISTED])}{more})" if names else ""


def _shapes(tensors):
    more = ", ..." if len(tensors) > LISTED else ""
    return ", ".join(f"{name} {value.shape}" for name, value in list(tensors.items())[:LISTED]) + more
