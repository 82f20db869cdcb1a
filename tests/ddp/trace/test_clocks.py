"""Clocks of all ranks: a line through two measurements, and none through noise; stopwatches of host and device."""

import pytest
import torch

from allgrad.ddp.trace import Event, Stopwatch, aligned, settled
from tests.device.pretend import pretend


def test_events_are_moved_by_a_line_through_both_measurements():
    events = [Event("step", "step", "main", 10.0, 15.0), Event("step", "step", "main", 20.0, 30.0)]
    moved = aligned(events, [(10.0, 1.0, 0.0), (20.0, 2.0, 0.0)])
    assert [(e.begin, e.end) for e in moved] == [(11.0, 16.5), (22.0, 33.0)]


@pytest.mark.parametrize("one_host, add, used", [(True, 2e-6, False), (True, 9e-6, True), (False, 2e-6, True)])
def test_the_clock_of_one_host_is_not_corrected_by_what_may_be_noise(one_host, add, used):
    found = settled([(1.0, add, 5e-6), (2.0, -add, 5e-6)], one_host)
    assert [pair[1] for pair in found] == ([add, -add] if used else [0.0, 0.0])


class Late:
    """A lap whose device is not over with it until it is told so."""

    def __init__(self, seconds):
        self.seconds, self.over, self.on_host = seconds, False, 0.5

    def stop(self):
        return self

    def __float__(self):
        assert self.over, "somebody waits for the device"
        return self.seconds


def test_a_stopwatch_tells_what_a_device_is_over_with_and_waits_for_nothing():
    watch, laps = Stopwatch(), [Late(seconds) for seconds in (1.0, 2.0, 4.0, 8.0)]
    assert watch.stop(laps[0]) == 0.5 and watch.total == 0.0
    laps[0].over = True
    assert watch.stop(laps[1]) == 1.0 == watch.total
    laps[2].over = True  # of a later one the host may hear first
    assert watch.stop(laps[2]) == 1.0 == watch.total
    laps[1].over = True
    assert watch.stop(laps[3]) == 4.0 and watch.total == 7.0
    laps[3].over = True
    assert watch.total == 15.0 and watch.latest == 8.0


def test_on_the_host_a_stopwatch_knows_at_once():
    watch = Stopwatch()
    found = [watch.stop(watch.start()) for _ in range(3)]
    assert min(found) > 0.0 and watch.total == pytest.approx(sum(found))
    assert watch.end(watch.start()) > 0.0 and watch.total == pytest.approx(sum(found))


def test_on_a_device_it_sets_events_and_waits_for_none_until_it_is_asked(monkeypatch):
    with pretend() as device:
        watch = Stopwatch(on_device=True)
        with device.no_waits():
            lap = watch.start()
            torch.ones(3, device="cuda").add_(1.0)
            assert watch.stop(lap) > 0.0 and watch.total > 0.0
        lap = watch.end(watch.start())
        monkeypatch.setattr(torch.cuda.Event, "query", lambda event: False)
        watch.stop(watch.start())
        assert not device.waits and float(lap) > 0.0 and {what for what, _ in device.waits} == {"Event.synchronize"}
