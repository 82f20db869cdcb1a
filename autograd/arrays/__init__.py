"""What the engine needs of an array library: NumPy's names for any of them, a few kernels, arrays computed later.

Rules of operations call these functions, and so work on NumPy arrays, torch tensors and Tensors alike. Begin with
`namespace` (which library computes on an array: `xp`), then `kernels`; `deferred` is an optimisation of `backward`.
"""

from allgrad.autograd.arrays.deferred import INTO_AN_ARRAY, OuterProduct, RowSum, Scattered
from allgrad.autograd.arrays.kernels import (
    aligned_zeros, ALIGNMENT_BYTES, cache_blocks, erf, logistic, LONG_SUM, mask_grad, max_keepdims, maxima_of_rows,
    mean_over, narrow, normalize_axes, normalize_axis, ones, positive_part, record_as_one_step, running_sum, sign,
    sum_keepdims, sum_over, sum_rows, unbroadcast, widen,
)  # fmt: skip
from allgrad.autograd.arrays.namespace import (
    as_operand, astype, beside_torch, cast_like, counted, full, integers, is_torch, kind, like_arg,
    load_imported_backends, lower_triangle, namespace, NUMPY_TYPES, on_cpu, OPERAND_TYPES, promoted, to_backend_of,
    to_device, to_numpy, xp,
)  # fmt: skip
