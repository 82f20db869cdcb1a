"""Recorded backwards: their order is that of the graph, and replaying them is the recursion of the cost model."""

import numpy as np
import pytest
from pytest import approx

import allgrad as ag
from allgrad import nn
from allgrad.launch.study.costs import cost_model, replay
from allgrad.launch.study.costs.replay import Recording

THREE = Recording(("c", "b", "a"), (600, 300, 200), (14.0, 18.0, 22.0), 10.0, 22.0)


def test_overlap_by_hand():
    found = replay.replay(THREE, lambda n: n / 100, bucket=1)
    assert found.events == ((600, 14.0, 14.0, 20.0), (300, 18.0, 20.0, 23.0), (200, 22.0, 23.0, 25.0))
    assert (found.backward, found.step, found.exposed) == (22.0, 25.0, 3.0)
    whole = replay.replay(THREE, lambda n: n / 100, optimizer=2.0)
    assert whole.events == ((1100, 22.0, 22.0, 33.0),)
    assert (whole.step, whole.exposed) == (35.0, 11.0)


def test_exchange_that_is_done_before_backward_costs_nothing():
    late = Recording(("b", "a"), (8, 8), (1.0, 2.0), 0.5, 10.0)
    found = replay.replay(late, lambda n: 1.0, bucket=8)
    assert (found.step, found.exposed) == (10.0, 0.0)


def test_buckets_are_filled_in_order():
    assert THREE.buckets(1) == [(14.0, 600), (18.0, 300), (22.0, 200)]
    assert THREE.buckets(899) == [(14.0, 600), (22.0, 500)]
    assert THREE.buckets(900) == [(18.0, 900), (22.0, 200)]
    assert THREE.buckets(float("inf")) == [(22.0, 1100)]


def test_a_straggler_delays_every_gradient():
    found = replay.replay(THREE, lambda n: 0.0, bucket=1, slowdown=1.5)
    assert [ready for _, ready, _, _ in found.events] == [21.0, 27.0, 33.0]
    assert found.step == 33.0
    both = replay.replayed(THREE, lambda n: n / 100, [1.0, 2.0])
    assert both.tolist() == [[33.0, 11.0], [55.0, 11.0]]


def test_the_slowest_of_many():
    relative = [1.0, 1.1, 1.3]
    drawn = replay.slowest(relative, 4, 20000)
    assert set(drawn) == set(relative)
    assert drawn.mean() == approx(cost_model.expected_maximum(relative, 4), abs=2e-3)
    assert replay.slowest(relative, 1, 5, seed=1).tolist() == replay.slowest(relative, 1, 5, seed=1).tolist()
    assert set(replay.slowest(relative, 4096, 100)) == {1.3}


def test_gradients_are_final_from_the_last_layer_to_the_first():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    x, y = np.ones((6, 3), np.float32), np.zeros(6, int)
    called = []
    leaf = model[0].weight.node
    leaf.hook = called.append
    found = replay.record(model, lambda x, y: ag.cross_entropy(model(x), y), (x, y), passes=3)
    assert [name.split(".")[0] for name in found.names] == ["4", "4", "2", "2", "0", "0"]
    assert sorted(found.sizes) == [8, 16, 20, 40, 48, 80]
    assert 0.0 < found.forward < found.ready[0]
    assert list(found.ready) == sorted(found.ready)
    assert found.ready[-1] <= found.backward
    assert leaf.hook == called.append
    assert len(called) == 4
    assert model[2].weight.node.hook is None


def test_hooks_are_put_back_after_an_error():
    model = nn.Linear(3, 2)

    def loss(x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replay.record(model, loss, (np.ones((1, 3), np.float32),))
    assert model.weight.node.hook is None


def test_a_parameter_that_is_not_used_is_final_at_the_end():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    found = replay.record(model, lambda x: model[1](x), (np.ones((4, 2), np.float32),), passes=2)
    assert [name.split(".")[0] for name in found.names] == ["1", "1", "0", "0"]


def test_scaled_recordings_keep_their_course():
    found = THREE.scaled(11.0)
    assert (found.ready, found.forward, found.backward) == ((7.0, 9.0, 11.0), 5.0, 11.0)
