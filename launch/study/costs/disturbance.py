"""Whether the machine was quiet while it was timed: blocks that agree, and a core for who works on it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from allgrad.launch.study.intervals import holm
from allgrad.launch.study.wording import MARGIN

PARTS = 5  # of a block, each of which counts once: steps that follow each other are alike
ALPHA = 0.01  # how likely a quiet machine is to be called disturbed
LEAST_SHARE = 0.9  # of a core that a rank has had which works by itself


class Agreement(NamedTuple):
    """spread: standard deviation of blocks as a share, less what the scatter within them explains; p: of the F test."""

    spread: float
    p: float


def agreement(blocks: Sequence[Any]) -> Agreement:
    """Whether the steps of some blocks take equally long: one-way analysis of variance of logarithms (Fisher 1925).

    The values of a block are the medians of its PARTS parts, of consecutive steps. nan if there are too few.
    """
    parts = min(PARTS, *(len(block) for block in blocks)) if len(blocks) > 1 else 0
    if parts < 2:
        return Agreement(math.nan, math.nan)
    y = np.log([[np.median(part) for part in np.array_split(np.asarray(block, float), parts)] for block in blocks])
    n = len(y)
    between = parts * y.mean(axis=1).var(ddof=1)
    within = y.var(axis=1, ddof=1).mean()
    if between == 0.0 or within == 0.0:
        return Agreement(math.sqrt(between / parts), 1.0 if between == 0.0 else 0.0)
    from scipy.special import fdtrc

    p = float(fdtrc(n - 1, n * (parts - 1), between / within))
    return Agreement(math.sqrt(max(0.0, between - within) / parts), p)


def reasons(timings: Mapping[str, Sequence[Any]], cores: Sequence[float]) -> list[str]:
    """Why the machine was not quiet, in words; [] if it was.

    timings  of each thing that was timed the seconds of its steps, by block
    cores    shares of its time in which a rank that worked by itself had a core, one of each block

    Blocks disagree if they do so beyond chance, and by more than this study calls equal.
    """
    found = [agreement(blocks) for blocks in timings.values()]
    apart = [
        (one.spread, name)
        for name, one, p in zip(timings, found, holm([one.p for one in found]))
        if p <= ALPHA and one.spread > MARGIN
    ]
    said = []
    if apart:
        spread, name = max(apart)
        said.append(
            f"{len(apart)} of {len(found)} timings differ between their blocks more than within them ({name} by "
            f"{f'{100.0 * spread:.2g} %' if spread < 0.5 else f'a factor of {math.exp(spread):.2g}'})"
        )
    if cores and min(cores) < LEAST_SHARE:
        said.append(f"a rank that worked by itself had a core in {100.0 * min(cores):.0f} % of the time only")
    return said
