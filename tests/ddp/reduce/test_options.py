"""The options of the exchange: what they can be."""

import pytest

from allgrad.ddp import ConfigurationError, Exchange


def test_ways_that_do_not_exist_are_refused():
    with pytest.raises(ConfigurationError, match="reduce is canonical, native or adasum, got 'sum'"):
        Exchange("sum")
    with pytest.raises(ConfigurationError, match=r"wire is one of .*, got 'int8'"):
        Exchange(wire="int8")
    with pytest.raises(ConfigurationError, match="a bucket has at least 1 byte, got 0"):
        Exchange(bucket_bytes=0)
