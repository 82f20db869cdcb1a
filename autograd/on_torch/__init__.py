"""torch's tensors under NumPy's names, and rules that torch has kernels of its own for.

Nothing imports this room: `arrays.namespace` loads it, by name, with the first of torch's tensors.
"""

from allgrad.autograd.on_torch import namespace, optimizers, rules
