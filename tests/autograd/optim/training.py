"""What the optimizers' tests train: a small network and its twin of torch, by every rule with every option."""

import numpy as np
import pytest
import torch

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.arrays import cast_like
from allgrad.autograd.random import generator

X = generator("optim").standard_normal((12, 6))
LABELS = np.arange(12) % 3


def rule(name, **options):
    return name, options


OF_TORCH = [
    rule("SGD", lr=0.3),
    rule("SGD", lr=0.3, weight_decay=0.1),
    rule("SGD", lr=0.1, momentum=0.9),
    rule("SGD", lr=0.1, momentum=0.9, weight_decay=0.1),
    rule("SGD", lr=0.1, momentum=0.9, nesterov=True),
    rule("SGD", lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.1),
    rule("Adam"),
    rule("Adam", lr=0.05, betas=(0.8, 0.95), eps=1e-3),
    rule("Adam", lr=0.05, weight_decay=0.1),
    rule("AdamW"),
    rule("AdamW", lr=0.05, weight_decay=0.3, betas=(0.0, 0.9)),
    rule("AdamW", lr=0.05, weight_decay=0.0),
    rule("SGD", lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
    rule("SGD", lr=0.003, momentum=0.9, nesterov=True, maximize=True, weight_decay=0.1),
    rule("SGD"),
    rule("Adam", lr=0.05, amsgrad=True),
    rule("Adam", lr=0.003, amsgrad=True, maximize=True, weight_decay=0.1),
    rule("AdamW", lr=0.05, amsgrad=True, betas=(0.5, 0.6)),
    rule("AdamW", lr=0.003, maximize=True),
    rule("RAdam"),
    rule("RAdam", lr=0.05, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1),
    rule("RAdam", lr=0.003, weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    rule("Adadelta"),
    rule("Adadelta", lr=0.5, rho=0.8, eps=1e-4, weight_decay=0.1),
    rule("Adadelta", lr=0.1, maximize=True),
    rule("Adagrad"),
    rule("Adagrad", lr=0.1, lr_decay=0.05, initial_accumulator_value=0.3),
    rule("Adagrad", lr=0.003, maximize=True, weight_decay=0.1),
    rule("RMSprop", lr=0.001, maximize=True, momentum=0.5),
    rule("Adagrad", lr=0.1, eps=1e-3, weight_decay=0.1),
    rule("RMSprop"),
    rule("RMSprop", alpha=0.9, eps=1e-3, weight_decay=0.1),
    rule("RMSprop", momentum=0.9, weight_decay=0.1),
    rule("RMSprop", alpha=0.9, centered=True),
    rule("RMSprop", alpha=0.9, eps=1e-6, momentum=0.5, centered=True, weight_decay=0.1),
]
OF_PAPERS = [
    rule("LARS", lr=20.0, momentum=0.0),
    rule("LARS", lr=20.0, weight_decay=0.1),
    rule("LARS", lr=0.5, momentum=0.5, trust=0.1, weight_decay=0.01),
    rule("LARS", lr=0.1, weight_decay=0.01, adapt=False),
    rule("LAMB", lr=0.01),
    rule("LAMB", lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.0),
    rule("LAMB", lr=0.05, weight_decay=0.3, adapt=False),
    rule("Lion", lr=0.01),
    rule("Lion", lr=0.02, betas=(0.8, 0.95), weight_decay=0.3),
    rule("Lion", lr=0.01, betas=(0.0, 0.5)),
    rule("Muon", lr=0.02),
    rule("Muon", lr=0.02, nesterov=False, momentum=0.8, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
]
WITH_TESTS_OF_THEIR_OWN = [  # beside their papers, in test_soap.py and test_schedule_free.py
    rule("SOAP", lr=0.02, frequency=2),
    rule("SOAP", lr=0.02, frequency=1, max_dim=6, l1=0.01, groups={"*.bias": {"weight_decay": 0.0}}),
    rule("ScheduleFreeSGD", lr=0.5, weight_decay=0.1),
    rule("ScheduleFreeSGD", lr=0.5, beta=0.5, l1=0.01, groups={"2.*": {"beta": 0.8}, "*.bias": {"lr_scale": 0.5}}),
    rule("ScheduleFreeAdamW", lr=0.02),
    rule("ScheduleFreeAdamW", lr=0.02, betas=(0.8, 0.9), weight_decay=0.1, l1=0.01),
]
GROUPS = {"*.bias": {"weight_decay": 0.0}, "2.*": {"lr_scale": 0.5, "weight_decay": 0.2}, "4.bias": {"lr_scale": 3.0}}
FIRST = dict(reversed(OF_TORCH + OF_PAPERS))  # row of each rule
WITH_L1 = [OF_TORCH[i] for i in (0, 5, 8, 10, 13, 18)] + OF_PAPERS[1:9:4]
WITH_L1 += [(name, FIRST[name]) for name in sorted(FIRST.keys() - {name for name, _ in WITH_L1})]
RULES = [
    *OF_TORCH,
    *OF_PAPERS,
    *WITH_TESTS_OF_THEIR_OWN,
    *[rule(name, **options, l1=0.01) for name, options in WITH_L1],
    rule("SGD", lr=0.1, groups={"*.bias": {"momentum": 0.9, "nesterov": True}, "0.*": {"l1": 0.01}}),
    rule("RMSprop", groups=GROUPS | {"4.*": {"centered": True}}),
    rule("AdamW", groups=GROUPS),
    rule("Lion", lr=0.01, groups=GROUPS),
    rule("LARS", lr=1.0, groups=GROUPS),
    rule("LAMB", groups=GROUPS),
]
UNGROUPED = [row for row in OF_TORCH + OF_PAPERS + WITH_TESTS_OF_THEIR_OWN if "groups" not in row[1]]
WITHOUT_NORMS = [row for row in UNGROUPED if not getattr(optim, row[0]).layerwise]
of_torch = pytest.mark.parametrize("name, options", OF_TORCH, ids=lambda x: str(x).replace(" ", ""))
elementwise = pytest.mark.parametrize("name, options", WITHOUT_NORMS, ids=lambda x: str(x).replace(" ", ""))
each_rule = pytest.mark.parametrize("name, options", RULES, ids=lambda x: str(x).replace(" ", ""))


def mlp(n):
    return n.Sequential(n.Linear(6, 8), n.Tanh(), n.Linear(8, 5), n.ReLU(), n.Linear(5, 3))


def model_and_twin():
    ag.manual_seed(7)
    model, twin = mlp(nn).to("float64"), mlp(torch.nn).double()
    twin.load_state_dict({name: torch.tensor(a) for name, a in model.state_dict().items()})
    return model, twin


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        ag.cross_entropy(model(cast_like(X, optimizer.arena.data)), LABELS).backward()
        optimizer.step()


def train_torch(model, optimizer, steps, scheduler=None):
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.tensor(X)), torch.tensor(LABELS)).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def close(model, twin):
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.detach(), rtol=1e-12, atol=1e-12)


def make(name, options, dtype="float64"):
    model = model_and_twin()[0].to(dtype)
    return model, getattr(optim, name)(model, **options)
