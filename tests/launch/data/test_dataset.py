"""What a data set says of itself."""

import numpy as np

from allgrad.launch.data import Data

RNG = np.random.default_rng(0)


# Data
def test_data_describes_itself():
    labels = Data("d", np.zeros((4, 2, 3), "f4"), np.zeros(4, int), np.zeros((1, 2, 3), "f4"), np.zeros(1, int), 7)
    assert (labels.features, labels.inputs, labels.outputs) == ((2, 3), 6, 7)
    targets = Data("d", np.zeros((4, 2), "f4"), np.zeros((4, 5), "f4"), np.zeros((1, 2), "f4"), np.zeros((1, 5)), None)
    assert (targets.features, targets.inputs, targets.outputs) == ((2,), 2, 5)


def test_sha256_depends_on_values_shapes_and_types_and_not_on_memory_layout():
    x, y = RNG.normal(size=(6, 4)).astype("f4"), np.arange(6)
    made = [
        Data("d", x, y, x, y, 6),
        Data("other name", np.asfortranarray(x), y.astype(">i8"), x.astype(">f4"), y, 6),
        Data("d", x.reshape(6, 2, 2), y, x, y, 6),
        Data("d", x, y, x + 1, y, 6),
        Data("d", x, y.astype("i4"), x, y, 6),
    ]
    assert made[0].sha256 == made[1].sha256
    assert len({data.sha256 for data in made}) == 4


def test_inputs_that_are_not_of_size_1_are_worth_a_remark():
    def remark(scale, dtype="f4"):
        x, y = (scale * RNG.normal(size=(50, 4))).astype(dtype), np.zeros(50, int)
        return Data("d", x, y, x, y, 2).size_remark

    assert remark(1.0) is remark(3.0) is remark(100.0, int) is None
    assert "inputs are of size" in (told := remark(100.0)) and "lower --lr" in told
