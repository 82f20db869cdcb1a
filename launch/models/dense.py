"""Networks of fully connected layers: mlp, softmax, autoencoder."""

import itertools
import math

from allgrad.autograd import nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


def mlp(hidden, data, init, dropout, activation="relu"):
    """Linear layers with an activation and dropout between them; flattens samples of more than one axis."""
    layers: list[nn.Module] = [nn.Flatten()] if len(data.features) > 1 else []
    widths = [data.inputs, *hidden, data.outputs]
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(inputs, outputs, init=init))
        if i < len(hidden):
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


class Autoencoder(nn.Module):
    """Reconstructs samples through narrower layers, the last of `hidden` the code. Hinton and Salakhutdinov 2006.

    encoder and decoder mirror each other, with ReLU between layers; the code and the reconstruction are linear.
    """

    def __init__(self, hidden, data, init, dropout):
        widths = [data.inputs, *hidden]
        self.encoder, self.decoder = _stack(widths, init), _stack(widths[::-1], init)
        self.features = data.features

    def __call__(self, x):  # (N, ...) -> (N, ...)
        flat = x.reshape(-1, math.prod(self.features))
        return self.decoder(self.encoder(flat)).reshape(-1, *self.features)


def _stack(widths, init):
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs, init=init), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
