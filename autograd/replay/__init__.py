"""Training steps of fixed structure, recorded once and replayed."""

from allgrad.autograd.replay.program import capture
