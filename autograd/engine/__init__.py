"""Tensors, the graph behind them, primitives, and derivatives of functions."""

from allgrad.autograd.engine.graph import in_order, Leaf, Node
from allgrad.autograd.engine.instrument import (
    format_location,
    in_this_thread,
    instrumented,
    is_active,
    patched,
    users_line,
)
from allgrad.autograd.engine.modes import default_dtype, enable_grad, get_default_dtype, no_grad, switch
from allgrad.autograd.engine.primitive import operations, RULE_ARGUMENTS, primitive, shared
from allgrad.autograd.engine.stepped import SteppedFunction
from allgrad.autograd.engine.tensor import methods, reference_array, shape_of, Tensor, tensor, unwrap
from allgrad.autograd.engine.transforms import grad, hessian, hvp, jacobian, jvp, linear_map, unfused, vjp
