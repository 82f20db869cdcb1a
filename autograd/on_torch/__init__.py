"""torch tensors: NumPy's names for them, rules by torch's own kernels, and updates by its fused optimizers.

Nothing imports this room: `arrays.namespace` loads it when the first torch tensor comes along. Begin with `namespace`,
which is all that is needed; `rules`, `attention` and `optimizers` make operations faster. torch.autograd is never used.
`recorder`, `program` and `graphs` are `ag.capture` for them.
"""

from allgrad.autograd.on_torch import attention, graphs, namespace, optimizers, rules
