"""Models by name: `mlp:H1,H2,...`, `softmax`, or a class of the user's own as `PATH.py:CLASS`."""

import inspect
import itertools
import sys
import types
from pathlib import Path

from autograd import init, nn, no_grad, random
from ddp.errors import ConfigurationError

INITS = {
    "kaiming": init.kaiming,
    "kaiming-uniform": init.kaiming_uniform,
    "xavier": init.xavier,
    "xavier-uniform": init.xavier_uniform,
    "gaussian": init.gaussian,
    "torch": init.torch_default,
    "zeros": init.zeros,
}


def build(spec: str, data, seed=0, init_name="kaiming", dropout=0.0, dtype="float32") -> nn.Module:
    """The model for a data set: `data.features` is the shape of a sample, `data.outputs` the number of outputs.

    The weights depend on the seed and on nothing else. A class of the user's own is called with
    (inputs, outputs) if it takes two positional arguments, and without arguments otherwise; `inputs` is the number of
    features. The model is tried on two samples, so that a wrong shape is found before training.
    """
    kind, _, rest = spec.partition(":")
    with random.keyed(seed, "init"):
        if kind == "mlp":
            model = _mlp([_width(w, spec) for w in rest.split(",")], data, INITS[init_name], dropout)
        elif spec == "softmax":
            model = _mlp([], data, INITS[init_name], dropout)
        elif kind.endswith(".py"):
            model = _own(Path(kind), rest, data)
        else:
            raise ConfigurationError(f"unknown model {spec!r}: use mlp:H1,H2,..., softmax or PATH.py:CLASS")
    model.to(dtype)
    if not any(True for _ in model.parameters()):
        raise ConfigurationError(f"model {spec!r} has no parameters to train")
    _try(model, spec, data, dtype)
    return model


def _width(text, spec):
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"model {spec!r}: {text!r} is not a number of hidden units; write mlp:512,256")
    return int(text)


def _mlp(hidden, data, weights, dropout):
    if dropout >= 1.0:
        raise ConfigurationError(f"--dropout is a probability below 1, got {dropout}")
    layers: list[nn.Module] = [nn.Flatten()] if len(data.features) > 1 else []
    widths = [data.inputs, *hidden, data.outputs]
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(inputs, outputs, init=weights))
        if i < len(hidden):
            layers.append(nn.ReLU())
            if dropout:
                layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def _own(path, name, data):
    if not name:
        raise ConfigurationError(f"--model {path} names no class: write {path}:CLASS")
    if not path.is_file():
        raise ConfigurationError(f"--model {path}:{name}: there is no file {path}")
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules.setdefault(path.stem, module)
    # Not through the import system: it would leave bytecode beside the file, and trust old bytecode by its date.
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    make = getattr(module, name, None)
    if not callable(make):
        raise ConfigurationError(f"--model {path}:{name}: {path} defines no class or function {name!r}")
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [p for p in inspect.signature(make).parameters.values() if p.kind in positional]
    required = sum(p.default is p.empty for p in parameters)
    if required == 1 or required > 2:
        raise ConfigurationError(
            f"--model {path}:{name} takes {required} arguments; it is given (inputs, outputs) or none"
        )
    model = make(data.inputs, data.outputs) if len(parameters) >= 2 else make()
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"--model {path}:{name} made a {type(model).__name__}, not an autograd.nn.Module")
    return model


def _try(model, spec, data, dtype):
    x = data.train_x[:2].astype(dtype)
    model.eval()
    try:
        with no_grad():
            shape = model(x).shape
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"model {spec!r} cannot take samples of shape {data.features}: {error}") from error
    model.train()
    if tuple(shape) != (len(x), data.outputs):
        raise ConfigurationError(
            f"model {spec!r} maps {len(x)} samples to shape {tuple(shape)}, but the data needs {(len(x), data.outputs)}"
        )
