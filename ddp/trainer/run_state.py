"""What a checkpoint keeps of a run beside its weights, and how a run goes on from it.

state.json has "step", "samples_seen", "epochs", "config", "fingerprint", the state of each of the trainer's own
callbacks under its name (None if the run does not have it), and under "callbacks" that of the user's by their names.
The arrays are with those of the optimizer: "exchange_..." is what ranks keep to exchange gradients or parameters,
"callback_NAME/key" an array of a callback's state and "callback_NAME:KEY/key" one of a dict of arrays. With an EMA the
model has the averages, "ema_weights" are those that training goes on from, and "ema" in state.json is the rest of it.
"""

import json

import numpy as np

from allgrad.autograd.arrays import is_torch, to_backend_of, to_numpy
from allgrad.ddp.errors import ConfigurationError, tell
from allgrad.ddp.parallel import Zero
from allgrad.ddp.trainer.callbacks import Callback
from allgrad.ddp.trainer.tensor_file import StoredArray

EMA_WEIGHTS = "ema_weights"
BUILT_IN = "noise_scale", "loss_scale", "best", "skipped", "plateau", "adascale", "batches"
EXCHANGE, CALLBACK = "exchange_", "callback_"  # begin the names of what is not the optimizer's


def collect(trainer) -> tuple[dict, dict]:
    """(optimizer, state) of a trainer at this step, as `checkpoint.save` wants them. Collective.

    Of arrays, ranks that write nothing copy none but the parts that ZeRO puts together.
    """
    parallel, sampler = trainer.parallel, trainer.loader.sampler
    writes = trainer.writer.directory is not None
    parallel.show_mean()
    exchange = parallel.state_dict(trainer.optimizer)
    optimizer = trainer.optimizer.state_dict() if writes or isinstance(trainer.optimizer, Zero) else {}
    if writes:  # copies, because training goes on while they are written
        for name, arrays in exchange.items():
            optimizer[EXCHANGE + name] = {key: _copy(array) for key, array in arrays.items()}
    state = {
        "config": trainer.config,
        "samples_seen": sampler.samples_seen(trainer.step),
        "epochs": sampler.samples_seen(trainer.step) / sampler.samples,
        **dict.fromkeys(BUILT_IN),
        "batches": sampler.pieces,
        **{callback.name: callback.state_dict() for callback in trainer.built_in},
        "fingerprint": trainer.fingerprint,
    }
    if (ema := trainer.ema) is not None:
        if writes:
            optimizer[EMA_WEIGHTS] = {k: _copy(array) for k, array in parallel.arena.unflatten(ema.weights).items()}
        state["ema"] = {"decay": ema.decay, "updates": ema.updates}
    if trainer.callbacks:
        states = trainer.comm.agree_or_raise(_states_of, trainer.callbacks)
        state["callbacks"] = {name: numbers for name, (numbers, _) in states.items()}
        for name, (_, arrays) in states.items():
            optimizer |= {CALLBACK + name + key: named for key, named in arrays.items()}
    return optimizer, state


def restore(trainer, saved):
    """Let a trainer go on from `(model, optimizer, state)`, as `checkpoint.load` returns them.

    Arrays that are still in their files are read to where they belong, one after the other. The state of a callback
    that the trainer does not have is dropped, and rank 0 says so. A callback whose state the checkpoint does not have
    begins anew.
    """
    model, optimizer, state = saved
    exchange, arrays, own = {}, {}, {}
    for name, value in optimizer.items():
        if name.startswith(EXCHANGE):
            exchange[name.removeprefix(EXCHANGE)] = _read(value, trainer.parallel.own_shards)
        elif name.startswith(CALLBACK):
            callback, colon, key = name.removeprefix(CALLBACK).partition(":")
            value = _read(value)
            arrays.setdefault(callback, {}).update({key: value} if colon else value)
        else:
            own[name] = value
    weights = _read(own.pop(EMA_WEIGHTS, {}))
    try:
        trainer.model.load_state_dict(model)
        if weights:
            _restore_ema(trainer, weights, state["ema"])
        trainer.optimizer.load_state_dict(own)
    except (ValueError, KeyError) as error:
        raise ConfigurationError(f"the checkpoint is that of another model or optimizer: {error}") from None
    trainer.parallel.load_state_dict(exchange, trainer.optimizer)
    del exchange
    trainer.step = trainer.first_step = state["step"]
    for callback in trainer.built_in:
        if state.get(callback.name) is not None:
            callback.load_state_dict(state[callback.name])
    states = {name: {**numbers, **arrays.get(name, {})} for name, numbers in state.get("callbacks", {}).items()}
    for callback in trainer.callbacks:
        if found := states.pop(name_of(callback), None):
            try:
                callback.load_state_dict(found)
            except Exception as error:
                raise ConfigurationError(
                    f"callback {name_of(callback)!r} cannot take back its state from the checkpoint ({error!r}): "
                    f"leave it as it was when the run began, or give it another name to begin it anew"
                ) from error
    for name in states if trainer.comm.rank == 0 else ():
        tell(f"the checkpoint has the state of a callback {name!r}, which this run does not have: it is left out")


def _restore_ema(trainer, weights, state):
    """Take the average from the model, if the trainer keeps one, and give the model its weights in training."""
    arena = trainer.parallel.arena
    views = arena.unflatten(arena.data)
    if trainer.ema is not None:
        trainer.ema.load_state_dict({"updates": state["updates"], "mean": views})
    for key, view in views.items():
        view[...] = to_backend_of(weights[key], view)
    arena.bump_versions()


def _read(arrays, own_shards=None):
    """The arrays themselves, of those that are still in their files; others' stay there.

    own_shards: this rank's, if the names are those of shards: "3/fc1.weight".
    """
    found = {}
    for name, array in arrays.items():
        shard, slash, _ = name.partition("/")
        others = own_shards is not None and slash and shard.isdecimal() and int(shard) not in own_shards
        found[name] = array
        if isinstance(array, StoredArray):
            found[name] = None if others else np.empty(array.shape, array.dtype)
            array.read_into(found[name])
    return found


def checked(callbacks) -> list[Callback]:
    """The user's callbacks; ConfigurationError unless each has a name of its own."""
    names = set()
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigurationError(f"callbacks are instances of classes derived from ddp.Callback, got {callback!r}")
        if (name := name_of(callback)) in names or {":", "/"} & {*name}:
            why = "is the name of two callbacks" if name in names else "is no name of a callback"
            raise ConfigurationError(f"{name!r} {why}: give each a `name` of its own, without ':' and '/'")
        names.add(name)
    return [*callbacks]


def name_of(callback) -> str:
    """The name under which a callback's state is kept."""
    return callback.name or type(callback).__name__


def _states_of(callbacks):
    """{name: (JSON values, {":KEY" or "": {name: array}})} of those callbacks that have a state."""
    states = {name_of(callback): callback.state_dict() for callback in callbacks}
    return {name: _split(name, state) for name, state in states.items() if state}


def _split(name, state):
    """The JSON values of a callback's state, and a copy of its arrays."""
    numbers, arrays = {}, {}
    try:
        for key, value in state.items():
            if _is_array(value):
                arrays.setdefault("", {})[key] = _copy(value)
            elif isinstance(value, dict) and value and all(map(_is_array, value.values())) and "/" not in key:
                arrays[f":{key}"] = {inner: _copy(array) for inner, array in value.items()}
            else:
                numbers[key] = value
        return json.loads(json.dumps(numbers)), arrays
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the state of callback {name!r} cannot be kept ({error}): let its state_dict return a dict of JSON "
            f"values, arrays, or {{name: array}} dicts"
        ) from None


def _is_array(value):
    return (isinstance(value, np.ndarray) and value.dtype.kind in "fiub") or is_torch(value)


def _copy(array):
    return np.array(to_numpy(array), order="C")
