"""What the engine needs of an array library: NumPy's names, the kernels it lacks, arrays that are computed later."""

from allgrad.autograd.arrays.deferred import OuterProduct, Scattered
from allgrad.autograd.arrays.kernels import (
    aligned_zeros, ALIGNMENT, axes_of, axis_of, erf, logistic, mask_grad, max_keepdims, ones, pieces,
    record_as_one_step, sum_keepdims, sum_rows, unbroadcast,
)  # fmt: skip
from allgrad.autograd.arrays.namespace import (
    ARRAYS, as_operand, astype, cast_like, full, integers, is_torch, kind, like_arg, load_imported_backends, namespace,
    OPERANDS, to_backend_of, to_device, to_numpy, xp,
)  # fmt: skip
