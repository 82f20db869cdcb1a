"""The training loop, and what it writes."""

from allgrad.ddp.trainer.callbacks import Callback, StepRecord
from allgrad.ddp.trainer.checkpoint import FILES, MARKER
from allgrad.ddp.trainer.locks import LOCK, locked
from allgrad.ddp.trainer.metrics_log import screen
from allgrad.ddp.trainer.signals import Interrupted, interrupting, name_of, SIGNALS, Stopped, StopOnSignal
from allgrad.ddp.trainer.trainer import Trainer
