"""For editors and type checkers: under this name `allgrad.names` finds the module `allgrad.launch.study`."""

from typing import Any

from allgrad.launch.study import *  # noqa: F403


def __getattr__(name: str) -> Any: ...  # the experiments
