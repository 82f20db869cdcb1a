"""For editors and type checkers: under this name `allgrad.names` finds the module `allgrad.autograd.optim`."""

from allgrad.autograd.optim import *  # noqa: F403
