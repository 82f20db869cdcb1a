"""What a data set that cannot be had says."""

import pytest

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.data import load


def refuses(spec, *fragments, **options):
    """Loading fails with one sentence that has all the fragments."""
    with pytest.raises(ConfigurationError) as caught:
        load(str(spec), **options)
    text = str(caught.value)
    assert "\n" not in text and ". " not in text and not text.endswith(".")
    for fragment in fragments:
        assert fragment in text, text
