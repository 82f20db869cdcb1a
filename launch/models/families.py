"""Models by name, see FAMILIES, or a class of the user's own as `PATH.py:CLASS`."""

import hashlib
import inspect
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from allgrad.autograd import init, nn, no_grad, random
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.models.dense import ACTIVATIONS, Autoencoder, mlp
from allgrad.launch.models.images import ImageNetwork, ResNet, cnn, lenet5, vgg_small
from allgrad.launch.models.sequences import LSTM, Transformer

INITS = {
    "kaiming": init.kaiming,
    "kaiming-uniform": init.kaiming_uniform,
    "xavier": init.xavier,
    "xavier-uniform": init.xavier_uniform,
    "gaussian": init.gaussian,
    "torch": init.torch_default,
    "zeros": init.zeros,
}


class Family(NamedTuple):
    """make(sizes, data, init, dropout); how it is written; the data it needs; the options that have an effect on it.

    A name may end in an activation if "activation" is among the options: make(..., activation=) as well.
    unit: what the sizes, the numbers after its name, count; example: a name with sizes; sizes: those of a bare name,
    None if they must be given; most: how many there can be, those left out being as in a bare name.
    """

    make: Callable[..., nn.Module]
    form: str
    needs: str
    options: tuple[str, ...]
    unit: str = ""
    example: str = ""
    sizes: tuple[int, ...] | None = ()
    most: int | None = None


NUMBERS, IMAGES, TEXT = "numbers", "images", "text"
BOTH = ("init", "dropout")
BLOCKS = "checkpoint_activations"
FAMILIES = {
    "mlp": Family(
        mlp, "mlp:H1,H2,...[:ACTIVATION]", NUMBERS, (*BOTH, "activation"), "hidden units", "mlp:512,256", None
    ),
    "softmax": Family(mlp, "softmax", NUMBERS, ("init",)),
    "lenet5": Family(lenet5, "lenet5", IMAGES, ("init",)),
    "cnn": Family(cnn, "cnn[:C1,C2,...]", IMAGES, BOTH, "filters", "cnn:32,64,128", (32, 64, 128)),
    "vgg-small": Family(vgg_small, "vgg-small", IMAGES, BOTH),
    "resnet": Family(ResNet, "resnet:N", IMAGES, ("init", BLOCKS), "layers", "resnet:20", None, 1),
    "autoencoder": Family(
        Autoencoder, "autoencoder[:H1,H2,...]", NUMBERS, ("init",), "hidden units", "autoencoder:128,32", (128, 32)
    ),
    "lstm": Family(
        LSTM, "lstm[:HIDDEN[,LAYERS]]", TEXT, ("dropout",), "hidden units or layers", "lstm:128,1", (128, 1), 2
    ),
    "transformer": Family(
        Transformer, "transformer[:WIDTH,HEADS,LAYERS]", TEXT, ("dropout", BLOCKS), "units, heads or layers",
        "transformer:64,4,2", (64, 4, 2), 3,
    ),
}  # fmt: skip
FORMS = ", ".join(family.form for family in FAMILIES.values()) + " or PATH.py:CLASS"


def build(spec: str | Callable, data, seed=0, init_name="kaiming", dropout=0.0, dtype="float32") -> nn.Module:
    """The model for a data set: `data.features` is the shape of a sample, `data.outputs` the number of outputs.

    The weights depend on the seed and on nothing else. A class or function of the user's own, as PATH.py:CLASS or
    itself, is called with (inputs, outputs) if it takes two positional arguments, and without arguments otherwise;
    `inputs` is the number of features. The model is tried on two samples, so that a wrong shape is found before
    training.
    """
    name = spec if isinstance(spec, str) else f"{spec.__module__}:{spec.__qualname__}"
    kind, _, rest = name.partition(":")
    if not 0.0 <= dropout < 1.0:
        raise ConfigurationError(f"--dropout is a probability from 0 to below 1, got {dropout}")
    with random.keyed(seed, "init"):
        if not isinstance(spec, str):
            model = _made(spec, name, data)
        elif kind.endswith(".py"):
            model = _own(Path(kind), rest, data)
        else:
            model = _known(spec, data, INITS[init_name], dropout)
    model.to(dtype)
    if not any(True for _ in model.parameters()):
        raise ConfigurationError(f"model {name!r} has no parameters to train")
    _try(model, name, data, dtype)
    return model


def family_of(spec) -> Family | None:
    """The family of a model's name, None for a class of the user's own or a name that is unknown."""
    kind, colon, _ = spec.partition(":")
    family = FAMILIES.get(kind)
    return None if family is None or (colon and not family.unit) else family


def remark(model) -> str | None:
    """What a model does to its samples that its user might not expect."""
    if not isinstance(model, ImageNetwork) or not model.resizes:
        return None
    return f"images of {model.image[1]}x{model.image[2]} are resized to {model.size}x{model.size}, bilinear"


def _known(spec, data, weights, dropout):
    _, colon, rest = spec.partition(":")
    family = family_of(spec)
    if family is None:
        raise ConfigurationError(f"unknown model {spec!r}: use {FORMS}")
    has = TEXT if data.vocabulary is not None else IMAGES if data.image else NUMBERS
    if family.needs != has and (TEXT in (family.needs, has) or family.needs == IMAGES):
        fitting = ", ".join(f.form for f in FAMILIES.values() if f.needs in (has, NUMBERS if has == IMAGES else has))
        raise ConfigurationError(
            f"--model {spec} needs {SOURCES[family.needs]}, and {data.name} has {_described(data, has)}: give such "
            f"data, or a model for these: {fitting}"
        )
    sizes, rest, more = family.sizes or (), *_activation(spec, rest, family)
    if colon or family.sizes is None:
        given = tuple(_size(text, spec, family) for text in rest.split(","))
        most = len(given) if family.most is None else family.most
        if len(given) > most:
            raise ConfigurationError(f"model {spec!r} has {len(given)} numbers after its name: write {family.form}")
        sizes = given + sizes[len(given) : most]
    return family.make(sizes, data, weights, dropout, **more)


def _activation(spec, rest, family):
    """The sizes of a name, and what the activation after them, if there is one, adds to the arguments."""
    rest, named, activation = rest.partition(":")
    if named and "activation" not in family.options:
        raise ConfigurationError(f"model {spec!r}: it has no choice of activations; write {family.form}")
    if named and activation not in ACTIVATIONS:
        raise ConfigurationError(f"model {spec!r}: activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    return rest, {"activation": activation} if named else {}


SOURCES = {
    NUMBERS: "numbers (a table, digits, or any images)",
    IMAGES: "images (digits, mnist, fashion-mnist, cifar10, or an NPZ file with x of shape (N, C, H, W))",
    TEXT: "text (--data text or text:PATH)",
}


def _described(data, has):
    if has == TEXT:
        return f"windows of {data.features[0]} characters"
    return f"images of {data.image}" if has == IMAGES else f"samples of shape {data.features}"


def _size(text, spec, family):
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"model {spec!r}: {text!r} is not a number of {family.unit}; write {family.example}")
    return int(text)


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
    return _made(make, f"{path}:{name}", data)


def _made(make, name, data):
    """What a class or function of the user's own makes for the data."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [p for p in inspect.signature(make).parameters.values() if p.kind in positional]
    required = sum(p.default is p.empty for p in parameters)
    if required == 1 or required > 2:
        raise ConfigurationError(f"--model {name} takes {required} arguments; it is given (inputs, outputs) or none")
    model = make(data.inputs, data.outputs) if len(parameters) >= 2 else make()
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"--model {name} made a {type(model).__name__}, not an autograd.nn.Module")
    return model


def hash_of_file(spec) -> str | None:
    """SHA-256 of the file of a class of the user's own; None for other models."""
    path = Path(spec.partition(":")[0])
    if path.suffix != ".py":
        return None
    if not path.is_file():
        raise ConfigurationError(f"--model {spec}: there is no file {path}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _try(model, spec, data, dtype):
    x = data.train_x[:2]
    x = x.astype(dtype) if x.dtype.kind == "f" else x
    model.eval()
    try:
        with no_grad():
            shape = model(x).shape
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"model {spec!r} cannot take samples of shape {data.features}: {error}") from error
    model.train()
    expected = outputs_of(model, data, len(x))
    if tuple(shape) != expected:
        raise ConfigurationError(
            f"model {spec!r} maps {len(x)} samples to shape {tuple(shape)}, but the data needs {expected}"
        )


def outputs_of(model, data, n) -> tuple[int, ...]:
    """The shape of the model's outputs for n samples: the samples again, a row a sample, or a row a character."""
    if isinstance(model, Autoencoder):
        return n, *data.features
    return (n, data.outputs) if data.vocabulary is None else (n, *data.features, data.outputs)
