"""What the engine needs of an array library: NumPy's names, the kernels it lacks, arrays that are computed later."""

from allgrad.autograd.arrays.deferred import OuterProduct, Scattered
from allgrad.autograd.arrays.kernels import (
    aligned_zeros, ALIGNMENT, axes_of, axis_of, erf, kept, logistic, ones, pieces, sum_rows, top_of, total,
    unbroadcast, whole,
)  # fmt: skip
from allgrad.autograd.arrays.namespace import (
    ARRAYS, as_like, as_operand, astype, beside, full, integers, is_torch, kind, load_known, namespace, OPERANDS,
    template, to_device, to_numpy, xp,
)  # fmt: skip
