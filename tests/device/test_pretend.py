"""The pretended device itself: it counts what is done, and refuses what CUDA refuses."""

import threading

import pytest
import torch

from tests.device import pretend as module
from tests.device.real import REAL
from tests.device.streams import Race

pytestmark = pytest.mark.skipif(REAL, reason="there is a real device")


@pytest.fixture(name="pretended")
def pretended_fixture():
    with module.pretend(memory=1 << 20) as device:
        yield device


def test_values_are_those_of_the_processor_and_launches_are_counted(pretended):
    x = torch.arange(6.0, device="cuda").reshape(2, 3)
    pretended.reset()
    y = (2.0 * x).sum(1) @ torch.ones(2, device="cuda")
    assert (x.device.type, x.is_cuda, y.shape) == ("cuda", True, ())
    assert pretended.launches == {"mul": 1, "sum": 1, "ones": 1, "dot": 1} and not pretended.waits
    assert y.item() == 30.0 and [what for what, _ in pretended.waits] == ["_local_scalar_dense"]


def test_views_launch_nothing(pretended):
    x = torch.zeros(4, 6, device="cuda")
    pretended.reset()
    x.mT.reshape(24)[1:].view(-1)
    x[1:, ::2].unsqueeze(0)
    assert set(pretended.launches) <= {"clone"}


@pytest.mark.parametrize(
    "waits, do",
    [
        (1, lambda x: float(x[0])),
        (1, lambda x: bool((x > 0).all())),
        (1, lambda x: x.cpu()),
        (1, lambda x: x.tolist()),
        (1, lambda x: torch.tensor([1.0], device="cuda")),
        (1, lambda x: x[x > 0]),
        (1, lambda x: torch.allclose(x, x)),
        (1, lambda x: torch.linalg.inv(x.diag())),
        (1, lambda x: torch.linalg.eigh(x.diag())),
        (0, lambda x: x.__setitem__(x > 0, 2.0)),
        (1, lambda x: x.__setitem__(x > 0, x[:1])),
        (1, lambda x: x[torch.tensor([0, 1])]),
        (1, lambda x: x.nonzero()),
        (0, lambda x: x[torch.arange(2, device="cuda")]),
        (0, lambda x: x.new_full((), 2.0) * x),
        (0, lambda x: torch.where(x > 0, x, torch.tensor(1.0))),
        (0, lambda x: torch.empty(3, pin_memory=True).copy_(x, non_blocking=True)),
        (1, lambda x: torch.empty(3).copy_(x, non_blocking=True)),
        (0, lambda x: torch.zeros(3).pin_memory().to("cuda", non_blocking=True)),
        (1, lambda x: torch.zeros(3).pin_memory().to("cuda")),
        (1, lambda x: torch.cuda.synchronize()),
    ],
)
def test_what_makes_the_host_wait(waits, do, pretended):
    x = torch.ones(3, device="cuda")
    pretended.reset()
    do(x)
    assert sum(pretended.waits.values()) == waits


def test_waits_can_be_forbidden(pretended):
    x = torch.ones(3, device="cuda")
    with pretended.no_waits():
        x += 1.0
        with pytest.raises(module.Waited, match="_local_scalar_dense makes the host wait"):
            float(x[0])


def test_host_and_device_do_not_mix(pretended):
    x = torch.ones(3, device="cuda")
    with pytest.raises(module.Mixed, match=r"a tensor \(3,\) of the host beside tensors of the device"):
        x + torch.ones(3)
    assert (x + torch.tensor(1.0)).tolist() == [2.0] * 3  # a number may come from the host


def test_kernels_that_are_not_deterministic_are_refused_on_demand(pretended):
    x = torch.ones(3, device="cuda")
    torch.use_deterministic_algorithms(False)
    torch.cumsum(x, 0)
    torch.use_deterministic_algorithms(True)
    with pytest.raises(module.NotDeterministic, match="cumsum"):
        torch.cumsum(x, 0)
    torch.cumsum(x.long(), 0)


@pytest.mark.parametrize(
    "use",
    [
        lambda x, i: torch.nn.functional.nll_loss(x, i),
        lambda x, i: torch.embedding(x, i),
        lambda x, i: x[i],
        lambda x, i: x.gather(0, i[None]),
        lambda x, i: x.index_add_(0, i, x.clone()),
        lambda x, i: x.index_select(0, i),
        lambda x, i: x.take(10 * i),
    ],
)
def test_a_label_or_index_out_of_range_ends_the_context(use, pretended):
    x = torch.zeros(2, 2, device="cuda")
    use(x, torch.tensor([0, 0]).pin_memory().to("cuda"))
    with pytest.raises(module.DeviceAssert, match=r"out of (range|bounds)"):
        use(x, torch.tensor([0, 2]).pin_memory().to("cuda"))


def test_memory_is_followed_and_has_an_end(pretended):
    x = torch.zeros(50_000, device="cuda")
    y = x + 1.0
    assert (pretended.live_bytes, pretended.peak_bytes) == (400_384, 400_384)
    del x
    assert (pretended.live_bytes, pretended.peak_bytes) == (200_192, 400_384)
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 0\.95 MiB.*has a total capacity"):
        torch.zeros(250_000, device="cuda")
    del y
    assert pretended.live_bytes == 0 and torch.cuda.mem_get_info() == (1 << 20, 1 << 20)


def test_shapes_alone_count_models_of_any_size():
    with module.pretend(values=False) as device:
        x = torch.zeros(1 << 20, 1 << 10, device="cuda", dtype=torch.bfloat16)
        y = x @ x.new_zeros(1 << 10, 1 << 10)
        assert y.shape == x.shape and device.flops["mm"] == 2 << 40 and device.live_bytes == (4 << 30) + (0)


def test_a_stream_has_to_wait_for_what_another_writes(pretended):
    x, side = torch.ones(3, device="cuda"), torch.cuda.Stream()
    with torch.cuda.stream(side), pytest.raises(Race, match="add uses memory that another stream writes"):
        x + 1.0
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = x + 1.0
    with pytest.raises(Race, match="mul_ overwrites memory that another stream reads"):
        x *= 2.0
    over = torch.cuda.Event()
    over.record(side)
    torch.cuda.current_stream().wait_event(over)
    x *= 2.0
    assert (x + y).tolist() == [4.0] * 3  # what was refused has changed nothing


def test_a_copy_to_the_host_is_there_after_its_event(pretended):
    x, host, over = torch.ones(3, device="cuda"), torch.empty(3, pin_memory=True), torch.cuda.Event()
    host.copy_(x, non_blocking=True)
    over.record()
    assert host.isnan().all()
    x += 1.0
    over.synchronize()
    assert host.tolist() == [1.0] * 3
    assert not pretended.waits and pretended.behind == {("Event.synchronize", ""): 1}  # the device had more to do
    over.record()
    over.synchronize()
    assert pretended.waits == {("Event.synchronize", ""): 1}


def test_pinned_memory_must_stay_until_it_is_copied(pretended):
    host = torch.ones(3).pin_memory()
    host.to("cuda", non_blocking=True)
    host += 1.0
    with pytest.raises(Race, match="pinned memory was overwritten while it was copied"):
        torch.cuda.synchronize()


def test_threads_compute_on_it_too(pretended):
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.ones(2, device="cuda").sum().item()))
    thread.start()
    thread.join()
    assert found == [2.0] and pretended.launches == {"ones": 1, "sum": 1}


def test_afterwards_there_is_none():
    with module.pretend():
        x = torch.ones(2, device="cuda")
    assert not torch.cuda.is_available()
    with pytest.raises(RuntimeError, match="a pretended device that is no more"):
        x + 1.0
