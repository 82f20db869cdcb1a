"""What CUDA does that a CPU does not: which of torch's operations wait for the device, launch nothing, are refused.

The sets name operations of `torch.ops.aten`. They were read from torch's sources and its list of operations that have
no deterministic kernel (torch.use_deterministic_algorithms).
"""

import torch

aten = torch.ops.aten

WAITS = {  # the host waits until the device has computed the result
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.is_nonzero, aten.equal, aten._unique2,
    aten.unique_dim, aten.unique_consecutive, aten.unique_dim_consecutive, aten.bincount, aten.histc,
    aten.linalg_eigvals, aten.linalg_eig, aten._linalg_eigh, aten._linalg_svd, aten._linalg_check_errors, aten.allclose,
}  # fmt: skip

INDEXED = {  # host indices are copied to the device, and those by a mask are counted there
    aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_, aten._unsafe_index,
}  # fmt: skip

COPIES = {aten._to_copy, aten.copy_, aten._copy_from}  # between host and device, or on one of them

NOT_DETERMINISTIC = {  # have no deterministic kernel for CUDA, and raise if one was asked for
    aten.nll_loss2d_forward, aten.adaptive_max_pool2d_backward, aten._adaptive_avg_pool2d_backward, aten.histc,
    aten._adaptive_avg_pool3d_backward, aten.adaptive_max_pool3d_backward, aten.fractional_max_pool2d_backward,
    aten.avg_pool3d_backward, aten.max_pool3d_with_indices_backward, aten.upsample_linear1d_backward,
    aten.upsample_bilinear2d_backward, aten.upsample_bicubic2d_backward, aten.upsample_trilinear3d_backward,
    aten.upsample_nearest1d_backward, aten.reflection_pad1d_backward, aten.reflection_pad2d_backward,
    aten.reflection_pad3d_backward, aten.replication_pad1d_backward, aten.replication_pad3d_backward, aten.put_,
    aten.max_unpool2d, aten.max_unpool3d, aten.kthvalue, aten.median, aten._embedding_bag, aten._ctc_loss_backward,
    aten.grid_sampler_2d_backward, aten.bincount,
}  # fmt: skip
NOT_DETERMINISTIC_FOR_FLOATS = {aten.cumsum, aten.cumsum_}

# What kernels of the CPU raise for the values of labels and indices, which kernels of CUDA find out by themselves.
OUT_OF_RANGE = r"index out of range in self|is out of bounds|tried to access index"

NO_LAUNCH = {  # views, empty arrays and questions about them
    "view", "reshape", "permute", "transpose", "t", "detach", "slice", "select", "unsqueeze", "squeeze", "expand",
    "as_strided", "alias", "split", "split_with_sizes", "unbind", "_unsafe_view", "_reshape_alias", "diagonal",
    "unfold", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "mT", "mH", "narrow",
    "sym_size", "sym_stride", "is_pinned", "chunk", "view_as", "numpy_T", "lift_fresh", "resize_", "expand_as",
    "_has_compatible_shallow_copy_type", "view_as_real", "view_as_complex", "movedim", "adjoint", "set_", "lift",
}  # fmt: skip
