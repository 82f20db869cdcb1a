"""How the command line spells the options that messages are about."""

import pytest

from allgrad import nn
from allgrad.ddp import ConfigurationError, DistributedDataParallel
from allgrad.ddp.errors import Message
from allgrad.launch.flags import as_flag, told


@pytest.mark.parametrize(
    "name, value, flag",
    [
        ("shards", 4, "--shards 4"),
        ("sync_every", None, "--sync-every"),
        ("capture", "on", "--capture"),
        ("capture", "off", "--capture off"),
        ("bucket_bytes", 3000, "--bucket-size 3000"),
        ("rule", "linear", "--lr-rule linear"),
        ("place", "here", "place='here'"),  # for which there is no option
    ],
)
def test_options_are_spelt_as_the_command_line_has_them(name, value, flag):
    assert as_flag(name, value) == flag


def test_a_message_is_told_with_flags_and_any_other_text_as_it_is():
    assert told(Message("{wire} and {reduce}", wire="float16", reduce="native")) == "--wire float16 and --reduce native"
    assert told("{wire}") == "{wire}"
    with pytest.raises(ConfigurationError) as caught:
        DistributedDataParallel(nn.Linear(2, 2), wire="float16", reduce="native")
    assert "wire='float16'" in str(caught.value) and "--wire float16" in caught.value.told(as_flag)
