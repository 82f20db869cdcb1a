"""A chart as SVG: where its points are, and that it is well formed."""

import re
from xml.etree import ElementTree

import pytest

from allgrad.launch.study.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Point, legend, steps_against_batch


def line(points, name="sgd"):
    return steps_against_batch({name: points}, "batch", "steps")


def places(svg):
    """(x, y) of the marks."""
    return [tuple(map(float, at)) for at in re.findall(r'class="mark[^>]*translate\(([\d.]+),([\d.]+)\)', svg)]


def test_points_lie_evenly_on_logarithmic_axes_and_inside_the_margins():
    svg = line([Point(4 * 2**i, 800.0 / 2**i, 700.0 / 2**i, 900.0 / 2**i, i == 2) for i in range(3)])
    (x0, y0), (x1, y1), (x2, y2) = places(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y1 - y0 == pytest.approx(y2 - y1, abs=0.2) and y1 > y0
    assert x0 > LEFT and x2 < WIDTH - RIGHT and y0 > TOP and y2 < HEIGHT - BOTTOM
    assert svg.count("hollow") == 1 and ElementTree.fromstring(svg).tag == "svg"
    ideal = re.search(r'class="ideal" d="M([\d.]+),([\d.]+)L([\d.]+),([\d.]+)', svg)
    assert (float(ideal[1]), float(ideal[2])) == (x0, y0)
    slope = (float(ideal[4]) - y0) / (float(ideal[3]) - x0)
    assert slope == pytest.approx((y1 - y0) / (x1 - x0), rel=0.01)  # these points halve the steps


def test_names_are_no_markup():
    svg = line([Point(4, 8.0, 8.0, 8.0, True)], '<b title="x">&')
    assert "<b " not in svg and "<b " not in legend(['<b title="x">']) and ElementTree.fromstring(svg).tag == "svg"


def test_no_point_no_chart_and_a_single_one_is_a_chart():
    assert line([]) == "" and len(places(line([Point(64, 20.0, 20.0, 20.0, True)]))) == 1
