"""NumPy by hand: no graph, every large array made once, the optimizer in place on flat arrays, one Allreduce a step.

A layer has `forward(x)` and `backward(g)`, which overwrite arrays of its own, and its parameters' gradients. Images are
held in the order (H, C, W, N): only the KW horizontal shifts of a convolution's patches are copied, into rows (C, KW),
and KH rows one below the other are a matrix (KH * C * KW, OW * N) of columns that overlaps with the next one.
"""

import math

import numpy as np

from allgrad.ddp.comm import detect
from benchmarks.peers import Unavailable

CHUNK = 1 << 16  # elements that the optimizer updates at once: they and their temporaries stay in the cache


class Flat:
    """Parameters in one array, their gradients in another; `take` gives the next ones as views."""

    def __init__(self, size):
        self.w, self.g = np.zeros(size, "f"), np.zeros(size, "f")
        self.used = 0

    def take(self, value):
        span = slice(self.used, self.used + value.size)
        self.used = span.stop
        self.w[span] = value.reshape(-1)
        return self.w[span].reshape(value.shape), self.g[span].reshape(value.shape)


class Linear:
    """x (N, inputs), weight (inputs, outputs)."""

    def __init__(self, flat, weight, bias, batch, first):
        (self.w, self.dw), (self.b, self.db) = flat.take(weight), flat.take(bias)
        self.y, self.ones = np.empty((batch, len(bias)), "f"), np.ones(batch, "f")
        self.dx = None if first else np.empty((batch, len(weight)), "f")

    def forward(self, x):
        self.x = x
        np.matmul(x, self.w, out=self.y)
        self.y += self.b
        return self.y

    def backward(self, g):
        np.matmul(self.x.T, g, out=self.dw)
        np.matmul(self.ones, g, out=self.db)
        return None if self.dx is None else np.matmul(g, self.w.T, out=self.dx)


class ReLU:
    """max(x, 0), in place."""

    def __init__(self, shape):
        self.positive = np.empty(shape, bool)

    def forward(self, x):
        np.greater(x, 0.0, out=self.positive)
        return np.maximum(x, 0.0, out=x)

    def backward(self, g):
        g *= self.positive
        return g


class Sigmoid:
    """1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2, in place."""

    def forward(self, x):
        x *= 0.5
        np.tanh(x, out=x)
        x += 1.0
        x *= 0.5
        self.y = x
        return x

    def backward(self, g):
        g *= self.y
        np.subtract(1.0, self.y, out=self.y)
        g *= self.y
        return g


class AvgPool2d:
    """Means of 2x2 pixels."""

    def __init__(self, shape):
        h, c, w, n = shape
        self.y, self.dx = np.empty((h // 2, c, w // 2, n), "f"), np.empty(shape, "f")

    def forward(self, x):
        a, b, c, d = _corners(x)
        np.add(a, b, out=self.y)
        self.y += c
        self.y += d
        self.y *= 0.25
        return self.y

    def backward(self, g):
        g *= 0.25
        for corner in _corners(self.dx):
            corner[...] = g
        return self.dx


def _corners(x):
    return x[0::2, :, 0::2], x[0::2, :, 1::2], x[1::2, :, 0::2], x[1::2, :, 1::2]


class Conv2d:
    """x (H, C, W, N), weight (O, KH, C, KW), which is (O, KH * C * KW) as a matrix."""

    def __init__(self, flat, weight, bias, shape, padding, first):
        (self.w, self.dw), (self.b, self.db) = flat.take(weight), flat.take(bias)
        h, c, w, n = shape
        o, k, p = len(bias), weight.shape[1], padding
        self.columns = Columns((h + 2 * p, c, w + 2 * p, n), k)
        self.y = np.empty((h + 2 * p - k + 1, o, w + 2 * p - k + 1, n), "f")
        self.inside = self.columns.image[p : p + h, :, p : p + w]
        self.each = np.empty((len(self.y), o, self.dw.size // o), "f")  # the gradient, a row of the image each
        if not first:
            # dX is the correlation of g with the kernel turned by 180 degrees, g with zeros around it.
            around, (oh, _, ow, _) = k - 1 - p, self.y.shape
            self.back = Columns((oh + 2 * around, o, ow + 2 * around, n), k)
            self.g = self.back.image[around : around + oh, :, around : around + ow]
            self.turned = self.w[:, ::-1, :, ::-1].transpose(2, 1, 0, 3)  # (C, KH, O, KW)
            self.dx = np.empty(shape, "f")
        self.first = first

    def forward(self, x):
        self.inside[...] = x
        self.columns.shift()
        np.matmul(self.w.reshape(len(self.w), -1), self.columns.matrices, out=_rows(self.y))
        self.y += self.b[:, None, None]
        return self.y

    def backward(self, g):
        np.matmul(_rows(g), self.columns.matrices.mT, out=self.each)
        self.each.sum(0, out=self.dw.reshape(len(self.dw), -1))
        _rows(g).sum((0, 2), out=self.db)
        if self.first:
            return None
        self.g[...] = g
        self.back.shift()
        np.matmul(self.turned.reshape(len(self.turned), -1), self.back.matrices, out=_rows(self.dx))
        return self.dx


class Columns:
    """image (H, C, W, N), to be filled; after `shift`, matrices (H - K + 1, K * C * K, OW * N) of its patches."""

    def __init__(self, shape, k):
        h, c, w, n = shape
        ow, strided = w - k + 1, np.lib.stride_tricks.as_strided
        self.image = np.zeros(shape, "f")
        *_, line, one = strides = self.image.strides
        self.windows = strided(self.image, (h, c, k, ow, n), (*strides[:2], line, line, one))
        self.shifted = np.empty((h, c, k, ow, n), "f")
        row, _, step, *_ = self.shifted.strides
        self.matrices = strided(self.shifted, (h - k + 1, k * c * k, ow * n), (row, step, one))

    def shift(self):
        self.shifted[...] = self.windows


def _rows(image):
    """(H, C, W, N) as H matrices (C, W * N)."""
    return image.reshape(*image.shape[:2], -1)


class Flatten:
    """(H, C, W, N) to (N, H * C * W), a view."""

    def forward(self, x):
        self.shape = x.shape
        return x.reshape(-1, x.shape[-1]).T

    def backward(self, g):
        return g.T.reshape(self.shape)


class CrossEntropy:
    """The mean over the samples of -log softmax(z)[y]; `samples` are those of all ranks."""

    def __init__(self, batch, samples):
        self.at, self.samples = np.arange(batch), samples

    def __call__(self, z, y):
        """The loss of this rank's samples; z becomes the gradient of the loss of all."""
        z -= z.max(1, keepdims=True)
        true = z[self.at, y]
        np.exp(z, out=z)
        total = z.sum(1, keepdims=True)
        loss = float((np.log(total[:, 0]) - true).mean())
        z /= total
        z[self.at, y] -= 1.0
        z *= 1.0 / self.samples
        return loss


def _chunks(*arrays):
    return [tuple(a[i : i + CHUNK] for a in arrays) for i in range(0, len(arrays[0]), CHUNK)]


def _sgd(flat, lr):
    chunks = _chunks(flat.w, flat.g, np.zeros_like(flat.w))
    t = np.empty(CHUNK, "f")

    def update():
        for w, g, m in chunks:
            m *= 0.9
            m += g
            w -= np.multiply(m, lr, out=t[: len(w)])

    return update


def _adam(flat, lr):
    chunks = _chunks(flat.w, flat.g, np.zeros_like(flat.w), np.zeros_like(flat.w))
    buffer, steps = np.empty(CHUNK, "f"), 0

    def update():
        nonlocal steps
        steps += 1
        root = math.sqrt(1 - 0.999**steps)  # m / (1 - b1^t) / (sqrt(v) / root + eps) with all numbers in front
        for w, g, m, v in chunks:
            t = buffer[: len(w)]
            m *= 0.9
            m += np.multiply(g, 0.1, out=t)
            v *= 0.999
            np.multiply(g, g, out=t)
            v += np.multiply(t, 0.001, out=t)
            np.sqrt(v, out=t)
            t += 1e-8 * root
            np.divide(m, t, out=t)
            t *= lr * root / (1 - 0.9**steps)
            w -= t

    return update


def make(workload, settings):
    launch, comm = detect(), None
    if launch.size > 1:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
    if workload.text or any(layer.kind == "BatchNorm2d" for layer in workload.network):
        raise Unavailable(f"{workload.name} has not been written by hand")
    weights = workload.weights()
    flat = Flat(sum(w.size for w in weights.values()))
    layers = _network(workload, weights, flat)
    cross_entropy = CrossEntropy(workload.batch, workload.batch * launch.size)
    update = {"sgd": _sgd, "adam": _adam}[workload.optimizer](flat, workload.lr)

    def step(batch):
        x, y = batch
        if x.ndim == 4:
            x = x.transpose(2, 1, 3, 0)
        for layer in layers:
            x = layer.forward(x)
        loss, g = cross_entropy(x, y), x
        for layer in reversed(layers):
            g = layer.backward(g)
        if comm is not None:
            comm.Allreduce(MPI.IN_PLACE, flat.g)
        update()
        return loss

    return lambda x, y: (x, y), step


def _network(workload, weights, flat):
    batch, layers = workload.batch, []
    if len(workload.inputs) == 3:
        c, h, w = workload.inputs
        shape = h, c, w, batch  # of the image so far
    for i, layer in enumerate(workload.network):
        weight, bias = weights.get(f"{i}.weight"), weights.get(f"{i}.bias")
        if layer.kind == "Linear":
            if layers and isinstance(layers[-1], Flatten):  # its inputs come in the order (H, C, W)
                h, c, w, _ = shape
                weight = weight.reshape(-1, c, h, w).transpose(0, 2, 1, 3).reshape(len(weight), -1)
            layers.append(Linear(flat, weight.T, bias, batch, first=not layers))
        elif layer.kind == "Conv2d":
            padding = layer.options.get("padding", 0)
            layers.append(Conv2d(flat, weight.transpose(0, 2, 1, 3), bias, shape, padding, first=not layers))
            shape = layers[-1].y.shape
        elif layer.kind == "AvgPool2d":
            layers.append(AvgPool2d(shape))
            shape = layers[-1].y.shape
        elif layer.kind == "ReLU":
            layers.append(ReLU(layers[-1].y.shape))
        else:
            layers.append({"Sigmoid": Sigmoid, "Flatten": Flatten}[layer.kind]())
    return layers
