"""Convolutional networks for images: lenet5, cnn, vgg-small, resnet. Their names and layouts are those of torch.nn."""

import itertools
import math

import numpy as np

from allgrad.autograd import matmul, nn, pad, relu
from allgrad.autograd.arrays import cast_like
from allgrad.autograd.engine import checkpoint, unwrap
from allgrad.ddp.errors import ConfigurationError


class ImageNetwork(nn.Sequential):
    """Layers applied to images (C, H, W), which may come flat, resized to `size` x `size` if that is given."""

    def __init__(self, image, *layers, size=None):
        super().__init__(*layers)
        self.image, self.size = tuple(image), size
        self.resizes = size is not None and self.image[1:] != (size, size)

    def __call__(self, x):
        x = x.reshape(-1, *self.image)
        return super().__call__(resized(x, self.size) if self.resizes else x)


def resized(x, size):
    """Images (N, C, H, W) at size x size, bilinear, as torch's interpolate with align_corners=False."""
    rows, columns = (cast_like(_interpolation(n, size), unwrap(x)) for n in x.shape[2:])
    return matmul(matmul(rows, x), columns.T)


def _interpolation(n, size):
    """Matrix (size, n) that interpolates n values linearly at the centres of `size` pixels."""
    at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(n)))


def lenet5(sizes, data, init, dropout):
    """LeNet-5 of LeCun et al. 1998 as it is taught today: two 5x5 convolutions with average pooling, 120-84, sigmoids.

    Images are resized to 28x28.
    """
    channels = data.image[0]
    return ImageNetwork(
        data.image,
        nn.Conv2d(channels, 6, 5, padding=2, init=init), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5, init=init), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120, init=init), nn.Sigmoid(),
        nn.Linear(120, 84, init=init), nn.Sigmoid(),
        nn.Linear(84, data.outputs, init=init),
        size=28,
    )  # fmt: skip


def cnn(filters, data, init, dropout):
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling, one for each number of filters; linear head."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([data.image[0], *filters]):
        layers += [*_convolution(inputs, outputs, init), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), *([nn.Dropout(dropout)] if dropout else [])]
    features = _flat(f"cnn:{','.join(map(str, filters))}", data.image, filters)
    return ImageNetwork(data.image, *layers, nn.Linear(features, data.outputs, init=init))


def vgg_small(sizes, data, init, dropout):
    """VGG's blocks of two 3x3 convolutions and max pooling (Simonyan and Zisserman 2015) with 32, 64 and 128 filters.

    Batch norm after each convolution; 256 hidden units, with dropout, before the linear head.
    """
    filters = (32, 64, 128)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([data.image[0], *filters]):
        layers += [*_convolution(inputs, outputs, init), *_convolution(outputs, outputs, init), nn.MaxPool2d(2)]
    hidden = nn.Linear(_flat("vgg-small", data.image, filters), 256, init=init)
    layers += [nn.Flatten(), hidden, nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    return ImageNetwork(data.image, *layers, nn.Linear(256, data.outputs, init=init))


def _convolution(inputs, outputs, init):
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, init=init)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


def _flat(model, image, filters):
    """Numbers that are left of an image when it has been halved once for each number of filters."""
    side = 2 ** len(filters)
    if min(image[1:]) < side:
        raise ConfigurationError(
            f"model {model} halves an image {len(filters)} times, and needs {side}x{side} pixels or more, got "
            f"{image[1]}x{image[2]}: give fewer blocks, as in cnn:32, or larger images"
        )
    return filters[-1] * math.prod(n // side for n in image[1:])


class ResNet(nn.Module):
    """The residual network of He et al. 2016, section 4.2, with 6n + 2 layers: widths 16, 32, 64, n blocks each.

    Shortcuts that halve the image take every other pixel and pad the new channels with zeros (option A), so that they
    have no parameters. Names as in torchvision: conv1, bn1, layer1.0.conv1, ..., fc.
    """

    checkpoints = False  # whether blocks go by `ag.checkpoint`

    def __init__(self, sizes, data, init, dropout):
        (depth,) = sizes
        n = (depth - 2) // 6
        if depth < 8 or depth != 6 * n + 2:
            nearest = 6 * max(1, round((depth - 2) / 6)) + 2
            raise ConfigurationError(
                f"model resnet:{depth}: it has 6n + 2 layers, 8, 14, 20 and so on: the nearest is resnet:{nearest}"
            )
        self.image = data.image
        self.conv1 = nn.Conv2d(data.image[0], 16, 3, padding=1, bias=False, init=init)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            [Residual(outputs if i else inputs, outputs, 1 if i else stride, init) for i in range(n)]
            for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.fc = nn.Linear(64, data.outputs, init=init)

    def __call__(self, x):
        y = relu(self.bn1(self.conv1(x.reshape(-1, *self.image))))
        for block in (*self.layer1, *self.layer2, *self.layer3):
            y = checkpoint(block, y) if self.checkpoints else block(y)
        return self.fc(y.mean((2, 3)))


class Residual(nn.Module):
    """relu(x + F(x)) with two 3x3 convolutions in F."""

    def __init__(self, inputs, outputs, stride, init):
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False, init=init)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False, init=init)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def __call__(self, x):
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return relu(x + y)
