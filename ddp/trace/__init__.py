"""A timeline of all ranks, and what it says in words."""

from allgrad.ddp.trace.analysis import Event, length, minus, PARTS, parts, suggestion, union, verdict, waits
from allgrad.ddp.trace.clocks import aligned, settled
from allgrad.ddp.trace.timeline import Timeline
