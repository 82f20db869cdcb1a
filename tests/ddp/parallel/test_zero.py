"""ZeRO-1: the same bits as without, for a part of the memory, and checkpoints that are the same."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.autograd.random import generator
from allgrad.ddp import Communicator, ConfigurationError, DataLoader, DistributedDataParallel, Trainer, Zero
from allgrad.ddp.trainer import checkpoint as checkpoints

X = generator("zero").standard_normal((50, 6)).astype("f4")
LABELS = np.arange(50) % 3
RULES = {
    "sgd": lambda p: optim.SGD(p, 0.1, 0.9, weight_decay=0.01, groups=optim.no_decay(p)),
    "adam": lambda p: optim.Adam(p, 0.01),
    "rmsprop": lambda p: optim.RMSprop(p, 0.01, momentum=0.5),
    "lion": lambda p: optim.Lion(p, 0.01, weight_decay=0.1),
    "schedule-free": lambda p: optim.ScheduleFreeAdamW(p, 0.05, groups={"*.bias": {"betas": (0.5, 0.9)}}),
    "plain": lambda p: optim.SGD(p, 0.1),
}


def trainer_of(comm, rule, zero, steps=9, out=None, hidden=40):
    ag.manual_seed(comm.rank)
    model = nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 3))
    parallel = DistributedDataParallel(model, comm, 7)
    optimizer = RULES[rule](parallel)
    loader = DataLoader((X, LABELS), 13, comm, 7)
    metrics = lambda x, y: {"loss": ag.cross_entropy(model(x), y, "none")}
    return Trainer(
        parallel, Zero(optimizer, comm) if zero else optimizer, loader, lambda x, y: ag.cross_entropy(model(x), y),
        metrics, steps=steps, out=out, resumes=True, clip=0.5,
    )  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("hidden", [1, 40])
def test_the_bits_are_those_without(rule, hidden, simulate):
    plain = trainer_of(Communicator(), rule, False, hidden=hidden).fit()["weights_sha256"]
    for ranks in (1, 2, 3, 5, 7):
        run = lambda comm: trainer_of(comm, rule, True, hidden=hidden).fit()["weights_sha256"]
        assert {*simulate(ranks, run)} == {plain}


@pytest.mark.parametrize("ranks, hidden", [(2, 40), (3, 41), (5, 300), (7, 1)])
def test_the_bits_are_those_without_by_collectives(ranks, hidden, simulate):
    """Parts of equal length, a rest, and less than a part for each rank."""

    def run(comm):
        comm.collectives = True
        return trainer_of(comm, "adam", True, hidden=hidden).fit()["weights_sha256"]

    plain = trainer_of(Communicator(), "adam", False, hidden=hidden).fit()["weights_sha256"]
    assert {*simulate(ranks, run)} == {plain}


def test_each_rank_holds_a_part(simulate):
    def held(comm):
        trainer = trainer_of(comm, "adam", True, hidden=400)
        return [len(flat) for flat in trainer.optimizer.state.values()], len(trainer.parallel.arena.data)

    for ranks in (1, 2, 3, 4):
        found = simulate(ranks, held)
        for i in range(2):
            assert sum(lengths[i] for lengths, _ in found) == found[0][1]
            assert all(lengths[i] <= found[0][1] / ranks + 64 * ranks for lengths, _ in found)


@pytest.mark.parametrize("before, after", [((2, True), (3, True)), ((3, True), (1, False)), ((1, False), (2, True))])
@pytest.mark.parametrize("rule", ["sgd", "adam", "schedule-free"])
def test_a_checkpoint_is_that_of_any_ranks_with_or_without(before, after, rule, tmp_path, simulate):
    plain = trainer_of(Communicator(), rule, False, out=tmp_path / "plain").fit()["weights_sha256"]
    trainer_of(Communicator(), rule, False, 4, tmp_path / "four").fit()
    simulate(before[0], lambda comm: trainer_of(comm, rule, before[1], 4, tmp_path / "out").fit())
    one, other = (
        (tmp_path / name / "checkpoints" / "step-00000004" / "optimizer.safetensors").read_bytes()
        for name in ("four", "out")
    )
    assert one == other

    def go_on(comm):
        trainer = trainer_of(comm, rule, after[1])
        trainer.restore(checkpoints.load_latest(tmp_path / "out" / "checkpoints"))
        return trainer.fit()["weights_sha256"]

    assert {*simulate(after[0], go_on)} == {plain}


def test_torch_tensors_too(simulate):
    pytest.importorskip("torch")

    def run(comm, zero):
        ag.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 333), nn.Tanh(), nn.Linear(333, 3)).to(device="cpu")
        parallel = DistributedDataParallel(model, comm, comm.size)
        optimizer = optim.Adam(parallel, 0.01)
        optimizer = Zero(optimizer, comm) if zero else optimizer
        rng = generator("gradients")
        for _ in range(5):
            parallel.arena.zero_grad()
            parallel.arena.zero_missing_grads()
            for p in model.parameters():
                p.grad[...] = ag.tensor(rng.standard_normal(p.shape).astype("f4"), device="cpu").data
            optimizer.step()
        return parallel.arena.sha256()

    found = [simulate(ranks, lambda c: run(c, zero)) for ranks in (1, 2, 3, 5) for zero in (False, True)]
    assert len({sha for hashes in found for sha in hashes}) == 1


def test_rules_that_need_whole_parameters_are_refused():
    for rule in (optim.LARS, optim.LAMB, optim.SOAP):
        with pytest.raises(ConfigurationError, match=r"Zero: .*A.* works on whole parameters: it cannot"):
            Zero(rule(nn.Linear(2, 2), 0.1), Communicator())
