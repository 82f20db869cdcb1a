"""Tensors, the graph behind them, primitives, and derivatives of functions: the engine, without any operation.

Read `tensor` (an array and its node), `graph` (nodes, leaves, the walk of `backward`), `primitive` (how an operation
records a node) and `transforms` (grad, jvp, hessian and so on). `modes` are the engine's few switches,
`instrument` is how tools look on, and `stepped` runs functions in turns.
"""

from allgrad.autograd.engine.graph import topological_order, Leaf, Node
from allgrad.autograd.engine.instrument import (
    format_location,
    in_this_thread,
    instrumented,
    is_active,
    patched,
    users_line,
)
from allgrad.autograd.engine.modes import (
    declare_modes,
    default_dtype,
    enable_grad,
    get_default_dtype,
    here,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
    setting,
)
from allgrad.autograd.engine import numpy_calls as _numpy_calls  # Tensor.__array_function__
from allgrad.autograd.engine.primitive import operations, ARGUMENT_TYPES, primitive, shared
from allgrad.autograd.engine.recomputation import checkpoint, remembered
from allgrad.autograd.engine.stepped import SteppedFunction
from allgrad.autograd.engine.tensor import (
    as_tensor, attach_methods, constant, from_numpy, is_mean_of, number, own_copy, reference_array, shape_of, Tensor,
    tensor, unwrap,
)  # fmt: skip
from allgrad.autograd.engine.transforms import grad, hessian, hvp, jacobian, jvp, linear_map, unfused, vjp
