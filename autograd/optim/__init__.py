"""Optimizers: rules that update all parameters in place, on the flat arrays of an arena (`autograd.arena`).

Each takes a module, an arena, anything with an `.arena` (a DistributedDataParallel) or a collection of parameters.
`lr` is a number or a function of the step, counted from 0 (see `autograd.schedule`). `step()` uses the gradients
that `backward` has accumulated; a parameter that got none has gradient zero. Begin reading with SGD in `optimizers`,
then `base`, which walks the arrays in chunks that fit into the processor's cache.

`weight_decay` c is L2 regularisation, which adds c w to the gradient, unless the rule says otherwise; `l1` adds
l1 sign(w), the subgradient of l1 |w|_1. In the formulas, g is the gradient after such additions.

`optimizer.eval()` lets the parameters be what is evaluated and saved, and `optimizer.train()` what training goes on
from: for schedule-free rules they differ. An `EMA` keeps an average of the weights of any rule, and has both too.

`groups` gives some parameters other hyperparameters, by patterns of their names (those of `fnmatch`):

    groups={"*.bias": {"weight_decay": 0.0}, "head.*": {"lr_scale": 10.0}}

Any of an optimizer's hyperparameters may be named, and `lr_scale`, a factor of the learning rate. Every pattern that
matches a parameter counts; where two set the same hyperparameter, the later one does. `no_decay(model)` makes the most
usual groups. As in torch, a list of dicts with "params" makes groups too, and `optimizer.param_groups` has them: what
is set there, as in `optimizer.param_groups[0]["lr"] = 0.01`, holds from the next step on.
"""

from allgrad.autograd.optim.averages import EMA
from allgrad.autograd.optim.base import Optimizer, no_decay
from allgrad.autograd.optim.clip import clip_grad_norm, clip_grad_value, clip_grads_with_norm, grad_norm
from allgrad.autograd.optim.optimizers import (
    LAMB,
    LARS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    Muon,
    RAdam,
    RMSprop,
)
from allgrad.autograd.optim.schedule_free import ScheduleFree, ScheduleFreeAdamW, ScheduleFreeSGD
from allgrad.autograd.optim.soap import SOAP
