"""The scale of the loss: how it halves, doubles and is restored."""

from allgrad.ddp import LossScale


def test_the_scale_grows_after_so_many_good_steps_and_survives_a_resume():
    scale = LossScale(8.0, patience=3)
    for finite in (True, True, False, True, True, True, True):
        scale.update(finite)
    again = LossScale()
    again.load_state_dict(scale.state_dict())
    assert (scale.value, scale.good) == (again.value, again.good) == (8.0, 1)
