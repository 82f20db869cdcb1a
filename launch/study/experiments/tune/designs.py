"""Spaces of hyper-parameters, and the designs that a search tries of them.

Random rather than grid search: Bergstra and Bengio 2012 (JMLR 13:281); quasi-random: Halton's sequence, scrambled
(Owen 2017, arXiv 1706.02808); successive halving: Jamieson and Talwalkar 2016 (AISTATS), the inner loop of Hyperband
(Li et al. 2018, JMLR 18:185).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from allgrad.autograd import random
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.models import ACTIVATIONS, INITS
from allgrad.launch.options import SCHEDULES, length

SEARCHES = "grid", "random", "quasi", "halving"
BEST, MORE_SEEDS = 6, 2  # trials that are confirmed, and with how many more seeds
EDGE = 0.05  # share of a range, at either end, in which a best value says that a better one may lie beyond
BOUNDS = {  # of numbers: least, and what they must stay below
    "lr": (0.0, math.inf), "batch": (1, math.inf), "depth": (1, math.inf), "width": (1, math.inf),
    "momentum": (0.0, 1.0), "weight_decay": (0.0, math.inf), "l1": (0.0, math.inf), "dropout": (0.0, 1.0),
}  # fmt: skip
WHOLE = "batch", "depth", "width"
WORDS = {"activation": ACTIVATIONS, "init": INITS, "schedule": [re.split(r"\W", kind)[0] for kind in SCHEDULES]}
NAMES = (*BOUNDS, *WORDS, "optimizer", "warmup", "model")
FORM = "A..B, log:A..B, int:A..B or choices A,B,C (with | between them if they have commas)"


@dataclass(frozen=True)
class Dimension:
    """A hyper-parameter: a range from low to high, on the scale "lin" or "log", or the choices if there are any."""

    name: str
    choices: tuple = ()
    low: float = 0.0
    high: float = 0.0
    scale: str = "lin"

    @property
    def fixed(self) -> bool:
        """Whether there is one value only."""
        return len(self.choices) == 1

    @property
    def ordered(self) -> bool:
        """Whether its values are numbers."""
        return self.name in BOUNDS

    def at(self, u: float):
        """The value at a share u, from 0 to 1, of the space: numbers of 4 digits, or whole ones."""
        if self.choices:
            return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]
        if self.name in WHOLE:  # as if each had the same share of the range around it
            low, high = self._scaled(self.low - 0.5), self._scaled(self.high + 0.5)
            return int(np.clip(round(self._unscaled(low + u * (high - low))), self.low, self.high))
        low, high = self._scaled(self.low), self._scaled(self.high)
        return min(max(float(f"{self._unscaled(low + u * (high - low)):.4g}"), self.low), self.high)

    def place(self, value) -> float:
        """Where a value lies in a range, from 0 to 1."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def points(self, n: int) -> list:
        """The choices, or n values from low to high."""
        return list(self.choices) or list(dict.fromkeys(self.at(u) for u in np.linspace(0.0, 1.0, n)))

    def at_edge(self, value) -> bool:
        """Whether a better value may lie beyond: the last of several numbers, where the numbers do not have to end."""
        if not self.ordered or value is None or self.fixed:
            return False
        low, high = (min(self.choices), max(self.choices)) if self.choices else (self.low, self.high)
        if self.choices:
            least, most = value == low, value == high
        else:
            least, most = self.place(value) <= EDGE, self.place(value) >= 1.0 - EDGE
        return most or (least and low > BOUNDS[self.name][0])

    def _scaled(self, value):
        return math.log(value) if self.scale == "log" else value

    def _unscaled(self, value):
        return math.exp(value) if self.scale == "log" else value


def parse(name: str, spec: Any) -> Dimension:
    """The hyper-parameter of "log:1e-3..1", "16,32,64", "int:32..256", or of a sequence of choices."""
    if name not in NAMES:
        raise ConfigurationError(f"--space {name} is not one of {', '.join(NAMES)}")
    several = isinstance(spec, list | tuple)
    text = "|".join(map(str, spec)) if several else str(spec)
    scale, _, rest = text.rpartition(":")
    first, ranged, last = rest.partition("..")
    if not ranged or name not in BOUNDS:
        parts = text.split("|" if several or "|" in text else ",")
        values = tuple(_value(name, part.strip(), text) for part in parts)
        if len({*values}) < len(values):
            raise ConfigurationError(f"--space {name}={text} has a value twice: give each of them once")
        return Dimension(name, values)
    if scale not in ("", "lin", "log", "int"):
        raise ConfigurationError(f"--space {name}={text}: {scale!r} is not lin, log or int; write {FORM}")
    if scale == "int" and name not in WHOLE:
        raise ConfigurationError(f"--space {name}={text}: {name} is no whole number; write {name}=lin:{rest}")
    low, high = (_value(name, part, text) for part in (first, last))
    scale = "log" if scale == "log" else "lin"
    if not low < high or (scale == "log" and low <= 0):
        least = "0 < A < B" if scale == "log" else "A < B"
        raise ConfigurationError(f"--space {name}={text}: a range A..B needs {least}, got {low:g} and {high:g}")
    return Dimension(name, low=low, high=high, scale=scale)


def _value(name, word, text):
    """A value in its type, within its bounds."""
    try:
        if name == "warmup":
            return length(word)
        if name not in BOUNDS:
            known = WORDS.get(name)
            kind = word.partition(":")[0] if name == "schedule" else word
            if not word or (known is not None and kind not in known):
                raise ConfigurationError(
                    f"--space {name}={text}: {word!r} is not one of {', '.join(known)}"
                    if known is not None
                    else f"--space {name}={text} has an empty value; write {FORM}"
                )
            return word
        value = int(word) if name in WHOLE else float(word)
        low, high = BOUNDS[name]
        if not low <= value < high or (name == "lr" and value == 0):
            most = f" and below {high:g}" if high < math.inf else ""
            raise ConfigurationError(
                f"--space {name}={text}: {name} is {'above' if name == 'lr' else 'at least'} {low:g}{most}, got {word}"
            )
        return value
    except ConfigurationError:
        raise
    except ValueError:
        kind = "a length (100, 2ep)" if name == "warmup" else "a whole number" if name in WHOLE else "a number"
        raise ConfigurationError(f"--space {name}={text}: {word!r} is not {kind}; write {FORM}") from None


def spaces(given: Mapping[str, Any] | Sequence[str]) -> dict[str, Dimension]:
    """The space of {name: specification}, or of words "name=specification", in this order."""
    if not isinstance(given, Mapping):
        pairs = [word.partition("=") for word in ([given] if isinstance(given, str) else given)]
        for name, equals, spec in pairs:
            if not (equals and spec.strip()):
                raise ConfigurationError(f"--space {name}{equals} has no values: write NAME=SPEC, SPEC being {FORM}")
        names = [_name(name) for name, _, _ in pairs]
        if twice := [name for k, name in enumerate(names) if name in names[:k]]:
            raise ConfigurationError(f"--space {twice[0]} is given twice: give all its values at once")
        given = {name: spec.strip() for name, (_, _, spec) in zip(names, pairs)}
    return {_name(name): parse(_name(name), spec) for name, spec in given.items()}


def _name(name):
    return name.strip().replace("-", "_")


# --- designs ---------------------------------------------------------------------------------------------------------


def design(space: Mapping[str, Dimension], search: str, trials: int, seed: int = 0) -> list[dict]:
    """What to try: at most so many trials, each a value of every hyper-parameter.

    grid     all choices of all, and of each range the same number of points, as many as there is room for
    random   independent draws; quasi and halving: Halton's sequence, scrambled with the seed
    The first of random and quasi are the same, however many trials follow.
    """
    if search not in SEARCHES:
        raise ConfigurationError(f"--search {search} is not one of {', '.join(SEARCHES)}")
    if trials < 2:
        raise ConfigurationError(f"--trials is at least 2, got {trials}")
    if all(d.fixed for d in space.values()):
        raise ConfigurationError("--space has nothing to search: give at least one hyper-parameter several values")
    if search == "grid":
        return _grid(space, trials)
    free = [d for d in space.values() if not d.fixed]
    if search == "random":
        shares = random.generator("search", seed).random((trials, len(free)))
    else:
        from scipy.stats import qmc

        seeded: dict[str, Any] = {"seed": np.random.default_rng(seed)}  # which pyright knows by its newer name, rng
        shares = qmc.Halton(len(free), scramble=True, **seeded).random(trials)
    drawn = [dict(zip((d.name for d in free), row)) for row in shares]
    return [{d.name: d.choices[0] if d.fixed else d.at(float(row[d.name])) for d in space.values()} for row in drawn]


def _grid(space, trials):
    def points(n):
        return {d.name: d.points(n) for d in space.values()}

    def size(n):
        return math.prod(map(len, points(n).values()))

    ranged = any(not d.choices for d in space.values())
    n = 2
    if size(n) > trials:
        most = " with 2 points a range" if ranged else ""
        raise ConfigurationError(f"--search grid has {size(n):,} trials{most}, and --trials is {trials}: give more")
    while ranged and n < trials and size(n + 1) <= trials:
        n += 1
    found: list[dict] = [{}]
    for name, values in points(n).items():
        found = [{**one, name: value} for one in found for value in values]
    return found


def part(budget, divisor):
    """A part of a budget: steps, epochs as "10ep" or samples as "20000samples"."""
    if divisor == 1:
        return budget
    if isinstance(budget, int):
        return math.ceil(budget / divisor)
    if budget.endswith("ep"):
        return f"{max(float(budget[:-2]) / divisor, 1e-4):.4f}ep"
    return f"{math.ceil(int(budget.removesuffix('samples')) / divisor)}samples"


class Rung(NamedTuple):
    """One level of successive halving: how many trials have which share 1 / divisor of the whole budget."""

    trials: int
    divisor: int


def rungs(trials: int, eta: int = 3, most: float = math.inf) -> list[Rung]:
    """The levels of successive halving: from each, the best 1/eta go on to eta times the budget.

    The last has at least 2 trials, and the first at least 1/most of the budget.
    """
    if eta < 2:
        raise ConfigurationError(f"--eta is at least 2, got {eta}")
    last = 0
    while trials // eta ** (last + 1) >= 2 and eta ** (last + 1) <= most:
        last += 1
    return [Rung(trials // eta**k, eta ** (last - k)) for k in range(last + 1)]


def promoted(scores: Mapping[int, float], count: int) -> list[int]:
    """The `count` trials of the smallest scores, ties by their number; none whose score is not finite."""
    return sorted(sorted((k for k in scores if math.isfinite(scores[k])), key=lambda k: (scores[k], k))[:count])


def halving(levels: Sequence[Rung], trials: Sequence[int], score: Callable[[Sequence[int], Rung], Mapping[int, float]]):
    """Run the levels on these trials; score(trials, level) -> {trial: score}. Returns [{trial: score}] by level."""
    found = []
    for level in levels:
        trials = trials if not found else promoted(found[-1], level.trials)
        found.append(dict(score(trials, level)) if trials else {})
    return found
