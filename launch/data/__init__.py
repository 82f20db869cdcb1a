"""Data sets by name, in memory and ready to train on: `load("digits")`, `load("mnist")`, `load("csv:houses.csv")`."""

from allgrad.launch.data.dataset import Data, placeholder
from allgrad.launch.data.sources import KNOWN, load, parse_spec
