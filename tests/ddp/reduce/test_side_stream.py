"""Work beside the main stream: what waits for what, on the pretended device; races are seen in tests/device."""

import numpy as np
import pytest

from allgrad.ddp.reduce.side_stream import SideStream


def test_in_the_memory_of_the_cpu_work_is_done_at_once():
    side = SideStream(np.zeros(1))
    assert side.run(lambda a, b: a + b, 1, 2) == 3
    side.join()


def test_the_streams_of_a_device_wait_for_each_other():
    torch = pytest.importorskip("torch")

    from tests.device.pretend import pretend
    from tests.device.streams import Race

    with pretend():
        x = torch.ones(3, device="cuda")
        side, other = SideStream(x), SideStream(x)
        y = side.run(torch.add, x, 1.0)
        with pytest.raises(Race):
            y + 1.0
        side.join()
        assert (y + 1.0).tolist() == [3.0] * 3
        x += 1.0  # which the other stream has read by then
        z = side.run(torch.add, x, 1.0)
        with pytest.raises(Race):
            other.run(torch.add, z, 1.0)
