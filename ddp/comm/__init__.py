"""Ranks: how they are started, what they say to each other, and who watches that they do."""

from allgrad.ddp.comm.activity import activity, user_location
from allgrad.ddp.comm.communicator import Communicator, KNOWN
from allgrad.ddp.comm.launcher import BACKENDS, detect, Launch, refuse_to_share, speaks, torchrun, VARIABLES
from allgrad.ddp.comm.shared_memory import share
from allgrad.ddp.comm.world import connect, connected, end_all_ranks, init, on_rank, use_gpus, wait_turn
