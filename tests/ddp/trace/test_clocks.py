"""Clocks of all ranks: a line through two measurements, and none through noise."""

import pytest

from allgrad.ddp.trace import Event, aligned, settled


def test_events_are_moved_by_a_line_through_both_measurements():
    events = [Event("step", "step", "main", 10.0, 15.0), Event("step", "step", "main", 20.0, 30.0)]
    moved = aligned(events, [(10.0, 1.0, 0.0), (20.0, 2.0, 0.0)])
    assert [(e.begin, e.end) for e in moved] == [(11.0, 16.5), (22.0, 33.0)]


@pytest.mark.parametrize("one_host, add, used", [(True, 2e-6, False), (True, 9e-6, True), (False, 2e-6, True)])
def test_the_clock_of_one_host_is_not_corrected_by_what_may_be_noise(one_host, add, used):
    found = settled([(1.0, add, 5e-6), (2.0, -add, 5e-6)], one_host)
    assert [pair[1] for pair in found] == ([add, -add] if used else [0.0, 0.0])
