"""Recurrent layers over sequences x (T, N, C), or (N, T, C) with batch_first.

Weights have torch's names and layouts: weight_ih_l0 (gates * hidden, inputs), weight_hh_l0 (gates * hidden, hidden),
bias_ih_l0 and bias_hh_l0, with l1, l2, ... for further layers and _reverse for the backward direction.
"""

import math

import numpy as np

from allgrad.autograd.arrays import full
from allgrad.autograd.engine import Tensor, unwrap
from allgrad.autograd.nn.module import Module, Parameter
from allgrad.autograd.ops import chunk, concatenate, dropout, linear, permute, relu, sigmoid, stack, tanh
from allgrad.autograd.random import draw


class _Recurrent(Module):
    gates = 1

    def __init__(
        self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False,
        rng=None,
    ):  # fmt: skip
        if min(input_size, hidden_size, num_layers) < 1:
            got = f"{input_size}, {hidden_size}, {num_layers}"
            raise ValueError(f"{type(self).__name__}: sizes and layers are at least 1, got {got}")
        rng = rng or np.random.Generator(draw())
        self.hidden_size, self.num_layers, self.dropout = hidden_size, num_layers, dropout
        self.batch_first, self.directions = batch_first, ("", "_reverse") if bidirectional else ("",)
        bound, rows = 1.0 / math.sqrt(hidden_size), self.gates * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * len(self.directions)
            for direction in self.directions:
                for name, columns in (("ih", width), ("hh", hidden_size)):
                    weight = np.asfortranarray(rng.uniform(-bound, bound, (rows, columns)))  # as nn.Linear's
                    setattr(self, f"weight_{name}_l{layer}{direction}", Parameter(weight))
                for name in ("ih", "hh"):
                    vector = Parameter(rng.uniform(-bound, bound, rows)) if bias else None
                    setattr(self, f"bias_{name}_l{layer}{direction}", vector)

    def __call__(self, x, state=None):
        """The last layer's outputs at all times, (T, N, directions * hidden), and the state at the end.

        The state is h (layers * directions, N, hidden), for LSTM the pair (h, c); zeros at the start if None.
        """
        if x.ndim != 3 or 0 in x.shape:
            raise ValueError(f"{type(self).__name__}: needs sequences (T, N, C), none of them 0, got {tuple(x.shape)}")
        if self.batch_first:
            x = permute(x, 1, 0, 2)
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
        return permute(x, 1, 0, 2) if self.batch_first else x, states if isinstance(self, LSTM) else states[0]

    def _run(self, x, suffix, state, backward):
        """One layer in one direction: outputs (T, N, hidden) and the last state."""
        kinds = "weight_ih", "bias_ih", "weight_hh", "bias_hh"
        w_ih, b_ih, w_hh, b_hh = (getattr(self, f"{kind}_{suffix}") for kind in kinds)
        inputs = linear(x, w_ih, b_ih)  # (T, N, gates * hidden): all times in one product
        ys: list = [None] * x.shape[0]
        for t in reversed(range(x.shape[0])) if backward else range(x.shape[0]):
            state = self.cell(inputs[t], w_hh, b_hh, state)
            ys[t] = state[0]
        return stack(ys), state

    def _initial(self, x, state, which):
        if state is not None:
            if isinstance(state, tuple) != isinstance(self, LSTM):
                raise TypeError(f"{type(self).__name__}: the state is a pair (h, c) for an LSTM, and h alone otherwise")
            return tuple(s[which] for s in (state if isinstance(state, tuple) else (state,)))
        zeros = Tensor(full((x.shape[1], self.hidden_size), 0.0, unwrap(x)))
        return (zeros, zeros)


class RNN(_Recurrent):
    """h = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of it. Elman 1990."""

    def __init__(self, input_size, hidden_size, num_layers=1, nonlinearity="tanh", **options):
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f'RNN: nonlinearity is "tanh" or "relu", got {nonlinearity!r}')
        super().__init__(input_size, hidden_size, num_layers, **options)
        self.activation = tanh if nonlinearity == "tanh" else relu

    def cell(self, x, w, b, state):
        return (self.activation(x + linear(state[0], w, b)),)


class LSTM(_Recurrent):
    """Long short-term memory with gates in torch's order i, f, g, o; the state is (h, c). Hochreiter et al. 1997.

    c = sigmoid(f) c + sigmoid(i) tanh(g),   h = sigmoid(o) tanh(c)
    """

    gates = 4

    def cell(self, x, w, b, state):
        h, c = state
        i, f, g, o = chunk(x + linear(h, w, b), 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c


class GRU(_Recurrent):
    """Gated recurrent unit with gates in torch's order r, z, n. Cho et al. 2014.

    n = tanh(W_in x + b_in + r (W_hn h + b_hn)),   h = (1 - z) n + z h
    """

    gates = 3

    def cell(self, x, w, b, state):
        h = state[0]
        xr, xz, xn = chunk(x, 3, -1)
        hr, hz, hn = chunk(linear(h, w, b), 3, -1)
        z = sigmoid(xz + hz)
        n = tanh(xn + sigmoid(xr + hr) * hn)
        return (n + z * (h - n),)
