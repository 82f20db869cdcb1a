"""What optimizers have in common: hyperparameters by groups of parameters, chunks of the flat arrays, the state.

A new rule is a subclass that names its state arrays and writes `update`: see `Optimizer`.
"""

import math
from collections.abc import Callable, MutableMapping
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any

import numpy as np

from allgrad.autograd.arena import arena_of, existing_arena, named_parameters
from allgrad.autograd.arrays import full, to_backend_of, to_numpy, xp
from allgrad.autograd.engine import Tensor

SMALLEST_NORMAL = {n: float(np.finfo(f"f{n}").tiny) for n in (2, 4, 8)}  # by the bytes of an element
AT_LEAST_ZERO = "lr", "lr_scale", "weight_decay", "l1", "eps", "trust", "lr_decay"  # hyperparameters
CHUNK_ELEMENTS = 131_072  # a few arrays of this length share the cache, and a call is worth its overhead
DEVICE_CHUNK_ELEMENTS = 1 << 24  # there is no such cache, but scratch memory is not for nothing


class Optimizer:
    """Base class: has the step count and the state, and calls the rule, `update`, for chunks of the flat arrays.

        class SignSGD(Optimizer):
            def update(self, lr, h, chunks):        # h.weight_decay, h.l1 and what __init__ gives as `more`
                for w, g, t, u in chunks:           # with arrays = ("momentum",): w, g, momentum, t, u
                    self.xp.sign(g, out=t)
                    t *= lr
                    w -= t

    state         {name: array}, laid out like the arena, for each of `arrays` that the hyperparameters need
    runs          (slice of the flat arrays, hyperparameters) for each stretch of neighbours of one group
    param_groups  the groups, as torch has them: dicts of a list "params" and the hyperparameters, which may be set,
                  "lr" among them
    steps         how many steps were taken; `lr` is a number or a function of it

    owner: see `autograd.optim`; or, as in torch, a list of dicts, each with "params" and hyperparameters of its own.
    more: hyperparameters of the rule, which `groups` may set as well.
    """

    arrays: tuple[str, ...] = ()  # names of the state arrays; one with a hyperparameter's name is kept if that is not 0
    fractions: tuple[str, ...] = ()  # names of the hyperparameters in [0, 1)
    layerwise = False  # whether each chunk is one whole parameter, because the rule works on it as a whole
    takes_local_steps = True  # whether the parameters may be averaged over ranks between its steps (`ddp.LocalSGD`)

    def __init__(self, owner, lr: float | Callable[[int], float], groups=None, weight_decay=0.0, l1=0.0, **more):
        owner, dicts = _of_dicts(type(self).__name__, owner, groups)
        self.arena = arena_of(owner)
        self.xp = xp[type(self.arena.data)]  # NumPy, or the same names on torch tensors
        at_least_zero(type(self).__name__, lr=0.0 if callable(lr) else lr)
        self.lr, self.steps = lr if callable(lr) else float(lr), 0
        self.part = slice(0, len(self.arena.data))  # of the flat arrays, which is updated and has state
        hyperparameters = {"lr": None, "lr_scale": 1.0, "weight_decay": weight_decay, "l1": l1, **more}
        self.param_groups: list[ParamGroup] = []
        self.runs = self._runs(hyperparameters, groups or {}, dicts)
        needed = {name for _, h in self.runs for name in self.needs(h)}
        self.state = {name: self.xp.zeros_like(self.arena.data) for name in self.arrays if name in needed}
        self.skip: Any = None  # that of the step being taken, see `step`
        self.on_device: dict = {}  # numbers of the host that kernels read on a device, by their names
        self._chunks: list | None = None
        self._chunks_of = None  # the gradients that the chunks are views of

    @property
    def current_lr(self):
        """The learning rate of the next step; of the first group, if it was set in all `param_groups`."""
        if all(group.h.lr is not None for group in self.param_groups):
            return self.param_groups[0].h.lr
        return self.scheduled_lr

    @property
    def scheduled_lr(self) -> float:
        """The learning rate of the next step of groups for which none was set."""
        return float(self.lr(self.steps)) if callable(self.lr) else self.lr

    def shard_state(self, part: slice):
        """Update this part of the flat arrays only, and drop the state of all others; ValueError if `layerwise`."""
        if self.layerwise:
            raise ValueError(f"{type(self).__name__} works on whole parameters: it cannot update a part")
        self.replace_state({name: flat[part] * 1.0 for name, flat in self.state.items()}, part)

    def replace_state(self, state: dict, part: slice):
        """Have these arrays as the state, which are that of this part of the flat arrays, and update that part."""
        self.state, self.part, self._chunks = state, part, None

    def zero_grad(self, set_to_none=True):
        """Forget the gradients of all parameters; set_to_none, of torch, changes nothing."""
        self.arena.zero_grad()

    def step(self, closure=None, skip=None):
        """Update every parameter once, by the gradients accumulated since `zero_grad`.

        closure, if given, is called before: it computes the gradients, and what it returns is returned.
        skip: None, or on a device a float32 tensor of shape (). If that is 1, no parameter and no state changes by a
        bit, though the host, which does not look at it, counts the step: see `progress`.
        """
        loss = closure() if closure is not None else None
        chunks_of_runs = self.chunks()
        self.arena.zero_missing_grads()
        lr = self.scheduled_lr
        self.steps += 1
        self.skip = skip
        by_kernels = skip is None or all(self.has_kernel(h) for h, _ in chunks_of_runs)
        before = [] if by_kernels else [self.xp.copy(array) for array in self._updated()]
        for h, chunks in chunks_of_runs:
            self.update(lr * h.lr_scale if h.lr is None else h.lr, h, chunks)
        if before:
            for array, kept in zip(self._updated(), before):
                self.xp.copyto(array, kept, where=skip != 0.0)
        self.arena.bump_versions()
        return loss

    def has_kernel(self, h) -> bool:
        """Whether the arrays' library has a kernel for the whole rule with hyperparameters h.

        It needs no scratch memory, and looks at `skip` itself.
        """
        takes = getattr(type(self).update, "has_kernel", None)
        return takes is not None and takes(self, h)

    def _updated(self):
        """The arrays that a step changes."""
        return [self.arena.data[self.part], *self.state.values()]

    @property
    def progress(self) -> Any:
        """What steps have counted on the host: to be set again after steps that `skip` has undone."""
        return self.steps

    @progress.setter
    def progress(self, counted):
        self.steps = counted

    def update(self, lr, h, chunks) -> None:
        """Apply the rule to the chunks, all of which have hyperparameters h; lr includes their `lr_scale`.

        A chunk is a tuple (w, g, *state, t, u) of flat views of one length: values, which are to be updated in place,
        gradients, which are not, the state in the order of `arrays` (None for what is not kept), and scratch memory
        (None for a rule that has a kernel).
        """
        raise TypeError(f"{type(self).__name__} defines no update(self, lr, h, chunks)")

    def chunks(self) -> list:
        """(hyperparameters, chunks) of each group; see `update`."""
        if self._chunks is None or self._chunks_of is not self.arena.grad:
            self._chunks, self._chunks_of = self._make_chunks(), self.arena.grad
        return self._chunks

    def eval(self) -> bool:
        """Let the parameters be what is evaluated and saved, until `train()`; returns whether that has changed them.

        They are it anyway, but for the rules of `ScheduleFree`, where it is an average.
        """
        return False

    def train(self) -> bool:
        """Let the parameters be what training goes on from; returns whether that has changed them."""
        return False

    def number(self, x):
        """A number as a factor of chunks: for NumPy an array of their dtype, as it converts numbers in each call."""
        return np.asarray(x, self.arena.dtype) if self.xp is np else x

    def check(self, h):
        """Raise ValueError if one of the hyperparameters h is out of its range."""
        name, given = type(self).__name__, {key: value for key, value in vars(h).items() if value is not None}
        at_least_zero(name, **{key: given[key] for key in AT_LEAST_ZERO if key in given})
        betas = {f"beta{i}": beta for i, beta in enumerate(given.get("betas", ()), 1)}
        below_one(name, **{key: given[key] for key in self.fractions}, **betas)

    def needs(self, h):
        """The names of the state arrays that the rule uses with hyperparameters h: no "momentum" if h.momentum is 0."""
        return [name for name in self.arrays if getattr(h, name, True)]

    def _runs(self, hyperparameters, groups, dicts):
        name, names = type(self).__name__, self.arena.parameters
        if not isinstance(groups, dict):
            wanted = "groups maps patterns to hyperparameters, as in {'*.bias': {'weight_decay': 0.0}}"
            raise TypeError(f"{name}: {wanted}, got a {type(groups).__name__}")
        for pattern, given in groups.items():
            if not any(_matches(key, pattern) for key in names):
                first = next(iter(names))
                raise ValueError(f"{name}: no parameter is called {pattern!r}: patterns match names such as {first!r}")
            if unknown := sorted(given.keys() - hyperparameters.keys()):
                known = ", ".join(sorted(hyperparameters))
                raise ValueError(f"{name}: {pattern!r} sets {unknown[0]!r}, which is none of {known}")
        starts, found, known = [], [], {}
        for key, span in self.arena.spans.items():
            number, given = dicts.get(id(names[key]), (None, {}))
            if unknown := sorted(given.keys() - hyperparameters.keys() - {"params"}):
                raise ValueError(
                    f"{name}: group {number} sets {unknown[0]!r}, which is none of {', '.join(sorted(hyperparameters))}"
                )
            own = {**hyperparameters, **given}
            own.pop("params", None)
            for pattern, given in groups.items():
                if _matches(key, pattern):
                    own |= given
            own = {name: _plain(value) for name, value in own.items()}
            group = known.get(which := (number, *own.items()))
            if group is None:
                h = SimpleNamespace(**own)
                self.check(h)
                group = known[which] = ParamGroup(self, h)
                self.param_groups.append(group)
            group.parameters.append(names[key])
            if not found or found[-1] is not group.h:
                starts.append(span.start)
                found.append(group.h)
        return [(slice(*bounds), h) for *bounds, h in zip(starts, [*starts[1:], len(self.arena.data)], found)]

    def _make_chunks(self):
        data, grad = (flat[self.part] for flat in (self.arena.data, self.arena.grad))
        arrays = (data, grad, *(self.state.get(name) for name in self.arrays))
        groups = [(group.h, spans) for group in self.param_groups if (spans := self._spans_of(group.h))]
        lengths = [span.stop - span.start for h, some in groups if not self.has_kernel(h) for span in some]
        scratch = full((2, max(lengths, default=0)), 0.0, self.arena.data)

        def chunk(h, span):
            start, stop = span.start - self.part.start, span.stop - self.part.start
            views = [None if a is None else a[start:stop] for a in arrays]
            return (*views, *((None, None) if self.has_kernel(h) else scratch[:, : span.stop - span.start]))

        return [(h, [chunk(h, span) for span in some]) for h, some in groups]

    def _spans_of(self, h):
        """The spans of the chunks of all runs with hyperparameters h."""
        runs = [run for run, its in self.runs if its is h]
        if self.layerwise:
            return [span for run in runs for span in self.arena.spans.values() if run.start <= span.start < run.stop]
        length = CHUNK_ELEMENTS
        if not self.arena.on_cpu:
            length = len(self.arena.data) if self.has_kernel(h) else DEVICE_CHUNK_ELEMENTS
        bounds = [(max(run.start, self.part.start), min(run.stop, self.part.stop)) for run in runs]
        return [slice(i, min(i + length, stop)) for start, stop in bounds for i in range(start, stop, length)]

    def __getstate__(self):
        views = {"_chunks": None, "_chunks_of": None, "on_device": {}}  # which a copy has to make anew
        return {**vars(self), **views, "skip": None, "xp": None}

    def __setstate__(self, state):
        vars(self).update(state, xp=xp[type(state["arena"].data)])

    def state_dict(self):
        """The step count and a copy of the state, as arrays: {"steps": int, "momentum": {"fc1.weight": array, ...}}.

        And what was set in `param_groups`, as "groups": a list of dicts.
        """
        named = {
            name: {key: np.array(a, order="C") for key, a in self.arena.unflatten(to_numpy(flat)).items()}
            for name, flat in self.state.items()
        }
        given = [group.given for group in self.param_groups]
        return {"steps": self.steps, **({"groups": given} if any(given) else {}), **named}

    def load_state_dict(self, state):
        """Restore what `state_dict` returned; ValueError if it is of another rule or other parameters."""
        kept, given, groups = sorted(self.state), sorted(state.keys() - {"steps", "groups"}), state.get("groups", [])
        if kept != given:
            raise ValueError(f"{type(self).__name__} keeps the state {kept}, not {given}")
        if groups and len(groups) != len(self.param_groups):
            name, many = type(self).__name__, len(self.param_groups)
            raise ValueError(f"{name} has {many} groups of parameters, and the state is that of {len(groups)}")
        for group, changes in zip(self.param_groups, groups):
            group.update(changes)
        shapes = {key: p.shape for key, p in self.arena.parameters.items()}
        for name in self.state:
            given = {key: np.shape(a) for key, a in state[name].items()}
            for key in sorted(shapes.keys() | given.keys()):
                if shapes.get(key) != given.get(key):
                    what = f"{type(self).__name__}: {name!r} of {key!r}"
                    raise ValueError(f"{what} has shape {given.get(key)} in the state, the parameter {shapes.get(key)}")
        self.steps = int(state["steps"])
        for name, flat in self.state.items():
            for key, view in self.arena.unflatten(flat).items():
                fill(view, state[name][key])


def fill(array, value):
    """Write a value of a state into an array, in pieces if it is still in a file."""
    if hasattr(value, "read_into"):
        value.read_into(array)
    else:
        array[...] = to_backend_of(value, array)


class ParamGroup(MutableMapping):
    """What torch calls a group: "params", a list of parameters, and their hyperparameters, which may be set.

    "lr" is the learning rate of the next step; once it is set, the group has it instead of the optimizer's.
    """

    def __init__(self, optimizer, h):
        self.optimizer, self.h, self.parameters = optimizer, h, []
        self.given = {}  # what was set, as JSON values

    def __getitem__(self, key):
        if key == "params":
            return self.parameters
        if key == "lr" and self.h.lr is None:
            return self.optimizer.scheduled_lr * self.h.lr_scale
        return vars(self.h)[key]

    def __setitem__(self, key, value):
        name, before = type(self.optimizer).__name__, dict(vars(self.h))
        had_kernel = self.optimizer.has_kernel(self.h)
        if key == "params" or key not in before:
            known = ", ".join(sorted(before))
            raise ValueError(f"{name}: a group's {key!r} cannot be set: it has {known}")
        setattr(self.h, key, _plain(value))
        try:
            self.optimizer.check(self.h)
            if missing := [array for array in self.optimizer.needs(self.h) if array not in self.optimizer.state]:
                raise ValueError(f"{name}: {key} = {value} needs the state {missing[0]!r}: give it to the constructor")
        except ValueError:
            vars(self.h).update(before)
            raise
        self.given[key] = vars(self.h)[key]
        if self.optimizer.has_kernel(self.h) != had_kernel:
            self.optimizer._chunks = None  # the rule takes others

    def __delitem__(self, key):
        raise ValueError(f"{type(self.optimizer).__name__}: a group keeps its {key!r}")

    def __iter__(self):
        return iter(("params", *vars(self.h)))

    def __len__(self):
        return 1 + len(vars(self.h))

    def __repr__(self):
        return f"{type(self.optimizer).__name__}: {len(self.parameters)} parameters, {vars(self.h)}"


def _of_dicts(name, owner, groups):
    """All parameters of an owner, and if that is a list of dicts, {id of each: (number of its dict, the dict)}."""
    if not isinstance(owner, (list, tuple)) or not any(isinstance(one, dict) for one in owner):
        return owner, {}
    if groups:
        raise ValueError(f"{name}: the owner is a list of dicts, which are groups already: leave out groups")
    parameters, found = {}, {}
    for number, one in enumerate(owner):
        if not isinstance(one, dict) or "params" not in one:
            raise TypeError(f"{name}: a list of groups has dicts with 'params', got {one!r:.60} as number {number}")
        given = one["params"]
        given = [given] if isinstance(given, Tensor) else given
        for key, p in named_parameters(given).items():
            key = key if hasattr(given, "named_parameters") or isinstance(given, dict) else f"{number}.{key}"
            if key in parameters or id(p) in found:
                raise ValueError(f"{name}: {key!r} of group {number} is in a group already: give each parameter once")
            parameters[key], found[id(p)] = p, (number, one)
    return parameters, found


def _matches(name, pattern):
    return name == pattern or fnmatchcase(name, pattern)


def _plain(value):
    """A hyperparameter as Python numbers: NumPy's scalars would promote float32 to float64."""
    if value is None:
        return None
    if isinstance(value, tuple | list):
        return tuple(map(float, value))
    return bool(value) if isinstance(value, bool | np.bool_) else float(value)


def at_least_zero(name, **values):
    for key, value in values.items():
        if not value >= 0.0 or not math.isfinite(value):
            raise ValueError(f"{name}: {key} is a finite number of at least 0, got {value}")


def below_one(name, **values):
    for key, value in values.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name}: {key} is in [0, 1), got {value}")


def regularized(g, w, weight_decay, l1, t, u, maximize=False):
    """g + weight_decay w + l1 sign(w), with -g for g if maximize.

    Computed in t, with scratch memory u; g itself if it is that.
    """
    n = xp[type(w)]
    if maximize:
        g = n.negative(g, out=t)
        if weight_decay:
            g += n.multiply(w, weight_decay, out=u)
    elif weight_decay:
        g = n.add(n.multiply(w, weight_decay, out=t), g, out=t)
    if l1:
        n.sign(w, out=u)
        u *= l1
        g = n.add(u, g, out=t)
    return g


def safe_eps(eps, dtype):
    """eps, but at least the smallest normal number, so that 0 / (0 + eps) is 0 where there never was a gradient."""
    return max(eps, SMALLEST_NORMAL[min(dtype.itemsize, 8)])


def no_decay(owner, **more):
    """Groups that switch off weight decay and L1 for parameters of at most one axis: biases, normalisation's weights.

    For `groups=` of an optimizer. `more` sets other hyperparameters of theirs: no_decay(model, adapt=False) leaves them
    out of the adaptation of LARS and LAMB.
    """
    arena = existing_arena(owner)
    named = named_parameters(owner) if arena is None else arena.parameters
    return {name: {"weight_decay": 0.0, "l1": 0.0, **more} for name, p in named.items() if p.ndim <= 1}
