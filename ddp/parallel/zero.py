"""ZeRO, stage 1: what an optimizer keeps is shared out over the ranks. Rajbhandari et al. 2020."""

from itertools import pairwise

from allgrad.autograd import optim
from allgrad.autograd.arrays import full
from allgrad.ddp.comm import Communicator
from allgrad.ddp.errors import ConfigurationError

ALIGNMENT_ELEMENTS = 64  # of a part: it begins where a cache line and a vector register do, whatever the dtype


class Zero:
    """An optimizer of which each rank has the state of one contiguous part of the parameters, and updates that part.

    The updated parts are then sent to all ranks: the same bits as without, for 1 / ranks of the memory. `state_dict`
    puts the state together and is collective; with `load_state_dict` it goes to any number of ranks, and to plain ones.
    """

    def __init__(self, optimizer: optim.Optimizer, comm: Communicator):
        self.optimizer, self.comm, self.arena = optimizer, comm, optimizer.arena
        size = len(self.arena.data)
        self.each = size // comm.size // ALIGNMENT_ELEMENTS * ALIGNMENT_ELEMENTS  # elements; the last part has more
        self.parts = [slice(*pair) for pair in pairwise([*(r * self.each for r in range(comm.size)), size])]
        try:
            optimizer.shard_state(self.parts[comm.rank])
        except ValueError as error:
            raise ConfigurationError("{zero}: {why.value}", zero=True, why=error) from None

    @property
    def lr(self):
        """The learning rate, a number or a function of the step."""
        return self.optimizer.lr

    @property
    def current_lr(self):
        """The learning rate of the next step."""
        return self.optimizer.current_lr

    @property
    def param_groups(self):
        """The groups of the optimizer."""
        return self.optimizer.param_groups

    @property
    def state(self):
        """The state arrays of this rank's part."""
        return self.optimizer.state

    def step(self, skip=None):
        """Update every parameter once, see `Optimizer.step`. Collective."""
        self.optimizer.step(skip=skip)
        self._gather_parameters()

    @property
    def progress(self):
        """What the optimizer's steps have counted on the host."""
        return self.optimizer.progress

    @progress.setter
    def progress(self, counted):
        self.optimizer.progress = counted

    def eval(self) -> bool:
        """As of the optimizer. Collective."""
        changed = self.optimizer.eval()
        if changed:
            self._gather_parameters()
        return changed

    def train(self) -> bool:
        """As of the optimizer. Collective."""
        changed = self.optimizer.train()
        if changed:
            self._gather_parameters()
        return changed

    def _gather_parameters(self):
        self._gather(self.arena.data)
        self.arena.bump_versions()

    def state_dict(self):
        """As of the optimizer alone, on every rank. Collective."""
        held = self.optimizer.state
        whole = {name: full((len(self.arena.data),), 0, flat) for name, flat in held.items()}
        for name, flat in whole.items():
            flat[self.optimizer.part] = held[name]
            self._gather(flat)
        self.optimizer.state = whole
        try:
            return self.optimizer.state_dict()
        finally:
            self.optimizer.state = held

    def load_state_dict(self, state):
        """Restore what `state_dict` returned, with or without ZeRO."""
        held, part = self.optimizer.state, self.optimizer.part
        size = len(self.arena.data)
        self.optimizer.replace_state({name: full((size,), 0, a) for name, a in held.items()}, slice(0, size))
        try:
            self.optimizer.load_state_dict(state)
            for name, flat in self.optimizer.state.items():
                held[name][...] = flat[part]
        finally:
            self.optimizer.replace_state(held, part)

    def _gather(self, flat):
        """Every rank's part of a flat array, on all of them."""
        rank, size = self.comm.rank, self.comm.size
        if size > 1 and self.comm.uses_collectives(flat):
            whole = size * self.each
            if whole:
                self.comm.all_gather(flat[rank * self.each :][: self.each], flat[:whole])
            if whole < len(flat):
                self.comm.broadcast(flat[whole:], size - 1)
            return
        others = [r for r in range(size) if r != rank]
        own = flat[self.parts[rank]]
        sends = [(own, r) for r in others if len(own)]
        receives = [(part, r) for r in others if len(part := flat[self.parts[r]])]
        if sends or receives:
            self.comm.exchange(sends, receives)
