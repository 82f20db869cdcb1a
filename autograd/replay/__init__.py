"""`ag.capture`: training steps of fixed structure, recorded once and replayed without a graph or new memory.

Read `program` (capture, and what a replay is), then `watch` (what is seen of a function, and refused), `effects` (draws
and running statistics), `recorded` (the array type that NumPy reports to), `recorder` (what becomes a step) and
`memory` (how a replay uses memory again).
"""

from allgrad.autograd.replay.program import capture
from allgrad.autograd.replay.watch import CannotReplay
