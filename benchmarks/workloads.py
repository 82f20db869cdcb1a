"""What is measured: networks, batches and optimizers that every peer builds from the same numbers."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Workload:
    """A multilayer perceptron with ReLU, trained with cross-entropy: layer widths, samples a step, update rule."""

    name: str
    widths: tuple[int, ...]
    batch: int
    optimizer: str  # "sgd" (momentum 0.9) or "adam"

    @property
    def lr(self):
        return 0.01 if self.optimizer == "sgd" else 0.001

    @property
    def label(self):
        return f"{self.name} {'-'.join(map(str, self.widths))}, {self.optimizer}, batch {self.batch}"

    def weights(self):
        """[(weight (out, in), bias (out,)), ...] in float32: Gaussian with variance 2/in, and zeros."""
        rng = np.random.default_rng(0)
        pairs = zip(self.widths, self.widths[1:])
        return [(rng.normal(0, np.sqrt(2 / i), (o, i)).astype("f"), np.zeros(o, "f")) for i, o in pairs]

    def data(self, steps):
        """A batch for each of the steps: x (batch, in) in float32, y (batch,) labels."""
        rng = np.random.default_rng(1)
        shape = (self.batch, self.widths[0])
        return [(rng.random(shape, dtype="f"), rng.integers(0, self.widths[-1], self.batch)) for _ in range(steps)]


M1, M2 = (784, 128, 10), (784, 512, 512, 10)
WORKLOADS = (
    *(Workload("M1", M1, batch, "sgd") for batch in (8, 64, 256)),
    *(Workload("M2", M2, batch, "sgd") for batch in (8, 64, 256)),
    *(Workload("M2", M2, batch, "adam") for batch in (8, 64, 256)),
)
