"""For editors and type checkers: under this name `allgrad.names` finds the module `allgrad.autograd.nn`."""

from allgrad.autograd.nn import *  # noqa: F403
