"""Recurrent layers over sequences x (T, N, C), or (N, T, C) with batch_first, or one sequence (T, C); and their cells.

Weights have torch's names and layouts: weight_ih_l0 (gates * hidden, inputs), weight_hh_l0 (gates * hidden, hidden),
bias_ih_l0 and bias_hh_l0, with l1, l2, ... for further layers and _reverse for the backward direction; those of cells
are named without the suffix.
"""

import math

import numpy as np

from allgrad.autograd.arrays import full
from allgrad.autograd.engine import Tensor, shape_of, unwrap
from allgrad.autograd.nn.module import Module, Parameter
from allgrad.autograd.nn.placement import placed
from allgrad.autograd.ops import (
    chunk,
    concatenate,
    dropout,
    linear,
    permute,
    relu,
    sigmoid,
    stack,
    tanh,
    unsqueeze,
)  # fmt: skip
from allgrad.autograd.random import draw


def _elman(activation, x, w, b, state):
    return (activation(x + linear(state[0], w, b)),)


def _lstm(x, w, b, state):
    h, c = state
    i, f, g, o = chunk(x + linear(h, w, b), 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def _gru(x, w, b, state):
    h = state[0]
    xr, xz, xn = chunk(x, 3, -1)
    hr, hz, hn = chunk(linear(h, w, b), 3, -1)
    z = sigmoid(xz + hz)
    n = tanh(xn + sigmoid(xr + hr) * hn)
    return (n + z * (h - n),)


def _activation(name, nonlinearity):
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f'{name}: nonlinearity is "tanh" or "relu", got {nonlinearity!r}')
    return tanh if nonlinearity == "tanh" else relu


class _Gates(Module):
    """What layers and cells share: a rule of gates, sizes, and a state that is h, or the pair (h, c)."""

    gates = 1
    pair = False

    def _matrix(self, rng, rows, columns, bound):
        return Parameter(np.asfortranarray(rng.uniform(-bound, bound, (rows, columns))))  # as nn.Linear's

    def _check_input(self, x, weight, wanted, ndims):
        """ValueError if x has not one of these numbers of axes, or does not fit the weight (gates * hidden, C)."""
        name, shape = type(self).__name__, tuple(x.shape)
        if x.ndim not in ndims or shape[-1] != weight.shape[1] or 0 in shape[:-1]:
            raise ValueError(f"{name}: needs {wanted} with C = {weight.shape[1]}, none of them 0, got {shape}")
        ours, theirs = (str(a.dtype).removeprefix("torch.") for a in (weight, x))
        if ours != theirs:
            todo = f'convert x, or the layer by to("{theirs}")'
            raise ValueError(f"{name}: x is {theirs}, and the weights are {ours}: {todo}")

    def _states(self, state, shapes):
        """The state as a tuple of tensors, or None; ValueError if one has not its shape."""
        if state is None:
            return None
        if isinstance(state, (tuple, list)) != self.pair:
            raise TypeError(f"{type(self).__name__}: the state is a pair (h, c) for an LSTM, and h alone otherwise")
        states = tuple(state) if self.pair else (state,)
        got, wanted = [shape_of(s) for s in states], [*map(tuple, shapes)]
        if got != wanted:
            raise ValueError(f"{type(self).__name__}: the state is of shapes {wanted} for this x, got {got}")
        return states


class _Recurrent(_Gates):
    @placed
    def __init__(
        self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False,
        proj_size=0, rng=None,
    ):  # fmt: skip
        name = type(self).__name__
        if min(input_size, hidden_size, num_layers) < 1:
            got = f"{input_size}, {hidden_size}, {num_layers}"
            raise ValueError(f"{name}: sizes and layers are at least 1, got {got}")
        if not isinstance(batch_first, bool) or not isinstance(bidirectional, bool):
            raise TypeError(f"{name}: batch_first and bidirectional are bool, got {batch_first!r}, {bidirectional!r}")
        if not 0 <= proj_size < hidden_size or (proj_size and not self.pair):
            raise ValueError(f"{name}: proj_size is for an LSTM, and below hidden_size {hidden_size}, got {proj_size}")
        rng = rng or np.random.Generator(draw())
        self.input_size, self.hidden_size, self.num_layers, self.dropout = input_size, hidden_size, num_layers, dropout
        self.batch_first, self.bidirectional, self.proj_size = batch_first, bidirectional, proj_size
        self.directions = ("", "_reverse") if bidirectional else ("",)
        bound, rows, outputs = 1.0 / math.sqrt(hidden_size), self.gates * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else outputs * len(self.directions)
            for direction in self.directions:
                for kind, columns in (("ih", width), ("hh", outputs)):
                    weight = self._matrix(rng, rows, columns, bound)
                    setattr(self, f"weight_{kind}_l{layer}{direction}", weight)
                for kind in ("ih", "hh"):
                    vector = Parameter(rng.uniform(-bound, bound, rows)) if bias else None
                    setattr(self, f"bias_{kind}_l{layer}{direction}", vector)
                if proj_size:
                    weight = self._matrix(rng, proj_size, hidden_size, bound)
                    setattr(self, f"weight_hr_l{layer}{direction}", weight)

    def __call__(self, x, state=None):
        """The last layer's outputs at all times, (T, N, directions * hidden), and the state at the end.

        The state is h (layers * directions, N, hidden), for LSTM the pair (h, c); zeros at the start if None. With
        proj_size, outputs and h have its length in the place of hidden. For one sequence (T, C) there is no N.
        """
        sequences = "sequences (N, T, C) or (T, C)" if self.batch_first else "sequences (T, N, C) or (T, C)"
        self._check_input(x, self.weight_ih_l0, sequences, (2, 3))
        single = x.ndim == 2
        if single:
            x = unsqueeze(x, 1)
        elif self.batch_first:
            x = permute(x, 1, 0, 2)
        lead = (self.num_layers * len(self.directions), *(() if single else (x.shape[1],)))
        shapes = [(*lead, self.proj_size or self.hidden_size), (*lead, self.hidden_size)][: 1 + self.pair]
        state = self._states(state, shapes)
        if single and state is not None:
            state = tuple(unsqueeze(s, 1) for s in state)
        finals = []
        for layer in range(self.num_layers):
            outputs = []
            for i, direction in enumerate(self.directions):
                which = layer * len(self.directions) + i
                ys, final = self._run(x, f"l{layer}{direction}", self._initial(x, state, which), bool(direction))
                outputs.append(ys)
                finals.append(final)
            x = outputs[0] if len(outputs) == 1 else concatenate(outputs, -1)
            if layer < self.num_layers - 1:
                x = dropout(x, self.dropout, self.training)
        states = tuple(stack(parts) for parts in zip(*finals))
        if single:
            x, states = x[:, 0], tuple(s[:, 0] for s in states)
        elif self.batch_first:
            x = permute(x, 1, 0, 2)
        return x, states if self.pair else states[0]

    def _run(self, x, suffix, state, backward):
        """One layer in one direction: outputs (T, N, hidden) and the last state."""
        kinds = "weight_ih", "bias_ih", "weight_hh", "bias_hh"
        w_ih, b_ih, w_hh, b_hh = (getattr(self, f"{kind}_{suffix}") for kind in kinds)
        w_hr = getattr(self, f"weight_hr_{suffix}") if self.proj_size else None
        inputs = linear(x, w_ih, b_ih)  # (T, N, gates * hidden): all times in one product
        ys: list = [None] * x.shape[0]
        for t in reversed(range(x.shape[0])) if backward else range(x.shape[0]):
            state = self.cell(inputs[t], w_hh, b_hh, state)
            if w_hr is not None:
                state = (linear(state[0], w_hr), *state[1:])
            ys[t] = state[0]
        return stack(ys), state

    def _initial(self, x, state, which):
        if state is not None:
            return tuple(s[which] for s in state)
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: 1 + self.pair]
        return tuple(Tensor(full((x.shape[1], width), 0.0, unwrap(x))) for width in widths)


class RNN(_Recurrent):
    """h = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of it. Elman 1990."""

    @placed
    def __init__(self, input_size, hidden_size, num_layers=1, nonlinearity="tanh", *arguments, **options):
        self.activation = _activation("RNN", nonlinearity)
        super().__init__(input_size, hidden_size, num_layers, *arguments, **options)

    def cell(self, x, w, b, state):
        return _elman(self.activation, x, w, b, state)


class LSTM(_Recurrent):
    """Long short-term memory with gates in torch's order i, f, g, o; the state is (h, c). Hochreiter et al. 1997.

    c = sigmoid(f) c + sigmoid(i) tanh(g),   h = sigmoid(o) tanh(c)

    With proj_size, weight_hr_l0 (proj_size, hidden) multiplies h. Sak et al. 2014.
    """

    gates = 4
    pair = True
    cell = staticmethod(_lstm)


class GRU(_Recurrent):
    """Gated recurrent unit with gates in torch's order r, z, n. Cho et al. 2014.

    n = tanh(W_in x + b_in + r (W_hn h + b_hn)),   h = (1 - z) n + z h
    """

    gates = 3
    cell = staticmethod(_gru)


class _Cell(_Gates):
    @placed
    def __init__(self, input_size, hidden_size, bias=True, rng=None):
        if min(input_size, hidden_size) < 1:
            raise ValueError(f"{type(self).__name__}: sizes are at least 1, got {input_size}, {hidden_size}")
        rng, bound, rows = rng or np.random.Generator(draw()), 1.0 / math.sqrt(hidden_size), self.gates * hidden_size
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = self._matrix(rng, rows, input_size, bound)
        self.weight_hh = self._matrix(rng, rows, hidden_size, bound)
        self.bias_ih, self.bias_hh = (Parameter(rng.uniform(-bound, bound, rows)) if bias else None for _ in range(2))

    def __call__(self, x, state=None):
        """The next state for x (N, C) or (C,): h (N, hidden) or (hidden,), for LSTMCell the pair (h, c).

        state: that before, of the same form; zeros if None.
        """
        self._check_input(x, self.weight_ih, "x (N, C) or (C,)", (1, 2))
        shapes = [(*x.shape[:-1], self.hidden_size)] * (1 + self.pair)
        state = self._states(state, shapes)
        if state is None:
            state = tuple(Tensor(full(shape, 0.0, unwrap(x))) for shape in shapes)
        if x.ndim == 1:
            x, state = unsqueeze(x, 0), tuple(unsqueeze(s, 0) for s in state)
            new = tuple(s[0] for s in self.cell(linear(x, self.weight_ih, self.bias_ih), *self._hidden(), state))
        else:
            new = self.cell(linear(x, self.weight_ih, self.bias_ih), *self._hidden(), state)
        return new if self.pair else new[0]

    def _hidden(self):
        return self.weight_hh, self.bias_hh


class RNNCell(_Cell):
    """One step of `RNN`."""

    @placed
    def __init__(self, input_size, hidden_size, bias=True, nonlinearity="tanh", **options):
        self.activation = _activation("RNNCell", nonlinearity)
        super().__init__(input_size, hidden_size, bias, **options)

    def cell(self, x, w, b, state):
        return _elman(self.activation, x, w, b, state)


class LSTMCell(_Cell):
    """One step of `LSTM`."""

    gates = 4
    pair = True
    cell = staticmethod(_lstm)


class GRUCell(_Cell):
    """One step of `GRU`."""

    gates = 3
    cell = staticmethod(_gru)
