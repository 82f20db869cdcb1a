"""`allgrad checkpoint`: whether checkpoints are whole, what is in them, and their weights as one plain file."""

import argparse
import json
import os
import re
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from allgrad.ddp.errors import ConfigurationError, counted
from allgrad.ddp.trainer import checkpoint
from allgrad.launch import transfer

DTYPES = ("float16", "bfloat16", "float32")
WIDTH = 100  # characters of a value that is shown


def add_options(parser: argparse.ArgumentParser):
    actions = parser.add_subparsers(dest="action", required=True)
    for name, text in {
        "verify": "say of each checkpoint whether it is whole; status 1 if one is damaged",
        "show": "say what is in the newest whole checkpoint",
        "export": "write the newest whole checkpoint's state dict as one .safetensors file",
    }.items():
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        action.add_argument("directory", metavar="DIR", help="--out of a run, or one of its checkpoints")
        if name == "export":
            action.add_argument("--out", required=True, metavar="FILE.safetensors", help="file to write")
            action.add_argument("--dtype", choices=DTYPES, help="of floating-point tensors [as they are]")
            action.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def run(action: str, directory: str, **options) -> int:
    """Do what is asked with the checkpoints of a directory; returns the exit status."""
    path = Path(directory)
    if action == "verify":
        return verify(path)
    model, state = transfer.find(path, "checkpoint")
    if action == "show":
        show(model, state)
    else:
        export(model, Path(options["out"]), options["dtype"], options["overwrite"])
    return 0


def verify(path: Path) -> int:
    """Print a line for each checkpoint; returns 1 if any is damaged. ConfigurationError if there is none."""
    if not path.is_dir():
        raise ConfigurationError(f"checkpoint {path}: there is no such directory: give the --out of a run")
    files = (*checkpoint.FILES, checkpoint.MARKER)
    single = path.name.startswith("step-") or any(os.path.exists(path / name) for name in files)
    found = [path] if single else checkpoint.steps_in(path / "checkpoints") or checkpoint.steps_in(path)
    if not found:
        raise ConfigurationError(f"checkpoint {path}: there is no checkpoint in it: give the --out of a run")
    damaged = 0
    for one in found:
        try:
            model, _, state = checkpoint.load(one, lazily=True)
            print(f"checkpoint {one} is whole: step {state['step']:,}, {_count(model)}")
        except ConfigurationError as error:
            damaged += 1
            print(error)
    return 1 if damaged else 0


def show(model: dict, state: dict):
    """Print what a checkpoint says of itself, its tensors, the configuration and where it was trained."""
    config = state.get("config", {})
    seen, epochs = state.get("samples_seen"), state.get("epochs")
    _print_table(
        {
            "step": f"{state['step']:,}",
            "samples seen": "unknown" if seen is None else f"{seen:,}",
            "epochs": "unknown" if epochs is None else f"{epochs:.6g}",
            **{name: config.get(name, "unknown") for name in ("model", "data", "optimizer", "shards")},
        },
        "",
    )
    print(f"tensors: {_count(model)}")
    _print_table({name: f"{a.dtype!s:8}  {tuple(a.shape)}" for name, a in sorted(model.items(), key=_natural)})
    for title, values in (("configuration", config), ("fingerprint", state.get("fingerprint", {}))):
        print(f"{title}:")
        _print_table(_flat(values))


def export(model: dict, out: Path, dtype: str | None, overwrite: bool):
    """Write the state dict, its floating-point tensors in this dtype, so that the file appears whole or not at all."""
    if out.suffix != ".safetensors":
        raise ConfigurationError(f"--out {out} is not a FILE.safetensors: give it that ending")
    if out.is_dir() or (out.exists() and not overwrite):
        raise ConfigurationError(f"--out {out} exists: give another file, or --overwrite to replace a file")
    floats = [name for name, a in model.items() if dtype is not None and a.dtype.kind == "f"]
    content = save({**model, **{name: _rounded(name, model[name], dtype) for name in floats}})
    if dtype == "bfloat16":  # which NumPy has no name for: its bits are written as integers, and named in the header
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        for name in floats:
            header[name]["dtype"] = "BF16"
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        content = len(text).to_bytes(8, "little") + text + content[end:]
    partial = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, out)
    except OSError as error:
        raise ConfigurationError(f"--out {out} cannot be written ({error}): give another file") from None
    print(f"{out}: {_count(model)}{f' in {dtype}' if dtype else ''}")


def _rounded(name, array, dtype):
    """The array in another type, rounded to nearest even; the 16 bits of a bfloat16 as an unsigned integer."""
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(np.float32 if dtype == "bfloat16" else dtype)
    if dtype == "bfloat16":
        bits = result.reshape(-1).view(np.uint32)
        bits = np.where(np.isnan(result.reshape(-1)), 0x7FC00000, bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        result = (bits << 16).astype(np.uint32).view(np.float32).reshape(array.shape)
    if not np.array_equal(np.isfinite(array), np.isfinite(result)):
        raise ConfigurationError(f"--dtype {dtype} cannot hold the largest values of {name}: give a wider one, or none")
    return bits.astype(np.uint16).reshape(array.shape) if dtype == "bfloat16" else result


def _natural(item):
    """Sorts "2.weight" before "10.weight"."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", item[0])]


def _count(model):
    return f"{counted(len(model), 'tensor')} of {counted(sum(a.size for a in model.values()), 'number')}"


def _flat(nested, prefix=""):
    """{"blas": {"version": 1}} as {"blas.version": 1}."""
    flat = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _print_table(values, indent="  "):
    width = max(map(len, values), default=0)
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        print(f"{indent}{name:{width}}  {text if len(text) <= WIDTH else text[: WIDTH - 3] + '...'}")
