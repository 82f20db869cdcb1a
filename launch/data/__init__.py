"""Data sets by name, ready to train on: `load("digits")`, `load("mnist")`, `load("houses.csv?label=price")`."""

from allgrad.launch.data.dataset import Data, meaning, placeholder, scale_of
from allgrad.launch.data.sources import KNOWN, TABLES, load, parse_spec
