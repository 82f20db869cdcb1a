"""The house style of figures: what a reader of the printed page sees."""

import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import figures

COLUMN, PAGE = figures.COLUMN, figures.PAGE


def labels(figure, axis):
    """The words at the ticks as drawn, from left to right or bottom to top, and their boxes."""
    figure.draw_without_rendering()
    shown = [t for which in ("major", "minor") for t in axis.get_ticklabels(which=which) if t.get_text()]
    low, high = sorted(axis.get_view_interval())
    place = 0 if axis.axis_name == "x" else 1
    shown = sorted((t for t in shown if low <= t.get_position()[place] <= high), key=lambda t: t.get_position()[place])
    return [t.get_text() for t in shown], [t.get_window_extent() for t in shown]


@pytest.mark.parametrize("low, high", [(1e-300, 1e300), (1.0, np.inf), (np.nan, 8.0), (0.0, 8.0)])
def test_batch_sizes_on_an_axis_without_end_have_labels_or_none(low, high):
    _, axes = figures.new(x=figures.batches)
    label = axes.xaxis.get_major_formatter()
    axes.xaxis.get_view_interval = lambda: (low, high)
    assert label(4.0) in ("", "4") and (label(4.0) == "" or high < np.inf)


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("largest", [2, 1024, 4096, 2**24])
def test_batch_sizes_are_powers_of_two_that_do_not_touch(columns, largest):
    figure, axes = figures.new(1, columns, PAGE if columns > 1 else COLUMN)
    axes = np.ravel(axes)[0]
    figures.points_with_interval(axes, [1, largest], [1.0, 2.0])
    figures.batches(axes.xaxis)
    words, boxes = labels(figure, axes.xaxis)
    assert len(words) >= 2 and {*words} <= {str(2**k) for k in range(26)}
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_a_column_has_room_for_each_batch_size_from_4_to_1024():
    figure, axes = figures.new()
    figures.points_with_interval(axes, [4, 1024], [1.0, 2.0])
    figures.batches(axes.xaxis)
    axes.set(ylabel="steps")
    assert labels(figure, axes.xaxis)[0] == [str(2**k) for k in range(2, 11)]


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((15, 375), ["20", "50", "100", "200"]),
        ((0.001, 100), ["0.001", "0.01", "0.1", "1", "10", "100"]),
        ((1_000, 40_000), ["1,000", "2,000", "5,000", "10,000", "20,000"]),
        ((1e-6, 2e-5), ["$10^{-6}$", "$2\\times10^{-6}$", "$5\\times10^{-6}$", "$10^{-5}$", "$2\\times10^{-5}$"]),
    ],
)
def test_powers_of_ten_are_plain_numbers_where_these_are_short(ends, words):
    figure, axes = figures.new()
    figures.points_with_interval(axes, [1, 2], ends)
    figures.logarithmic(axes.yaxis)
    assert labels(figure, axes.yaxis)[0] == words


def test_close_values_have_ticks_that_can_be_told_apart():
    figure, axes = figures.new()
    figures.points_with_interval(axes, [1, 2], [0.0123, 0.0129])
    figures.logarithmic(axes.yaxis)
    words, boxes = labels(figure, axes.yaxis)
    assert len(words) > 2 and all(0.0122 < float(word) < 0.013 for word in words) and len({*words}) == len(words)
    assert all(low.y1 < high.y0 for low, high in pairwise(boxes))


def test_seven_series_differ_in_colour_in_marker_and_in_dashes():
    _, axes = figures.new()
    for i in range(7):
        figures.points_with_interval(axes, [1, 2], [1, 2], i=i, join=True)
    for look in ("get_color", "get_marker", "_unscaled_dash_pattern"):
        values = [getattr(line, look) for line in axes.lines]
        assert len({str(value() if callable(value) else value) for value in values}) == 7


def test_what_is_not_a_number_is_a_gap_and_an_estimate_outside_its_interval_is_drawn():
    figure, axes = figures.new()
    figures.points_with_interval(axes, [1, 2, 3], [1.0, None, np.inf], [1.1, None, 0.0], [1.2, None, np.inf])
    figures.line_with_interval(axes, [1, 2, 3], [1.0, np.nan, 2.0], [0.9, np.nan, 1.9], [1.1, np.nan, 2.1])
    assert np.array_equal(axes.lines[0].get_ydata(), [1.0, np.nan, np.nan], equal_nan=True)
    assert tuple(axes.collections[0].get_segments()[0][:, 1]) == (1.1, 1.2)
    figure.draw_without_rendering()


def test_winners_at_the_edge_of_their_grid_are_hollow():
    _, axes = figures.new()
    figures.points_with_interval(axes, [1, 2, 4], [1, 2, 3], hollow=[False, False, True])
    hollow = axes.lines[-1]
    assert hollow.get_markerfacecolor() == "white" and (*hollow.get_xdata(), *hollow.get_ydata()) == (4, 3)


@pytest.mark.parametrize(("slope", "below"), [(-1, False), (1, True), (0.5, False), (0, False)])
def test_a_guide_has_its_slope_goes_through_its_point_and_leaves_the_limits(slope, below):
    figure, axes = figures.new()
    figures.points_with_interval(axes, [4, 1024], [400, 10])
    figures.batches(axes.xaxis)
    figures.logarithmic(axes.yaxis)
    before = axes.get_xlim(), axes.get_ylim()
    figures.guide(axes, slope, (16, 50), "a slope", at=0.4, below=below)
    figure.draw_without_rendering()
    x, y = (np.log(values) for values in axes.lines[-1].get_data())
    assert np.isclose((y[1] - y[0]) / (x[1] - x[0]), slope)
    assert np.isclose(y[0] + slope * (np.log(16) - x[0]), np.log(50))
    assert (axes.get_xlim(), axes.get_ylim()) == before
    text = axes.texts[-1]
    box, room = text.get_window_extent(), axes.get_window_extent()
    assert room.contains(box.x0, box.y0) and room.contains(box.x1, box.y1)
    (left, low), (right, high) = axes.transData.transform(np.exp([[x[0], y[0]], [x[1], y[1]]]))
    angle = np.degrees(np.arctan2(high - low, right - left))
    assert text.get_rotation() % 360 == pytest.approx(angle % 360, abs=0.5)


def test_failures_are_crosses_above_the_axes_and_change_no_limit():
    _, axes = figures.new()
    figures.points_with_interval(axes, [4, 1024], [400, 10], i=2)
    before = axes.get_ylim()
    figures.failed(axes, [], 3)
    assert not axes.texts
    figures.failed(axes, [64, 128], 2)
    figures.failed(axes, [128], 4, row=1)
    first, second = axes.lines[-2:]
    assert first.get_marker() == "x" and first.get_color() == axes.lines[0].get_color() != second.get_color()
    assert 1 < first.get_ydata()[0] < second.get_ydata()[0] and list(first.get_xdata()) == [64, 128]
    assert axes.get_ylim() == before and [text.get_text() for text in axes.texts] == ["failed"]


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_band_covers_its_values(axis):
    figure, axes = figures.new()
    figures.points_with_interval(axes, [1, 1000], [1, 1000])
    figures.band(axes, 97, 110, "measured", axis)
    box = axes.patches[-1].get_bbox()
    assert (box.intervalx if axis == "x" else box.intervaly).tolist() == [97, 110]
    assert axes.texts[-1].get_text() == "measured"
    figure.draw_without_rendering()


def test_a_band_has_its_number_and_one_without_ends_is_a_line():
    _, axes = figures.new()
    figures.points_with_interval(axes, [1, 1000], [1, 1000])
    figures.band(axes, 80, 143, "B_crit", "x", i=1, value=107)
    assert [*axes.lines[-1].get_xdata()] == [107, 107] and axes.lines[-1].get_color() == figures.COLORS[1]
    count = len(axes.patches)
    figures.band(axes, np.nan, np.inf, "B_crit", "x", value=107)
    assert len(axes.patches) == count and axes.texts[-1].get_position()[0] == 107
    before = len(axes.lines), len(axes.texts)
    figures.band(axes, None, None, "nothing", value=np.nan)
    assert (len(axes.lines), len(axes.texts)) == before


def named(x, y, names, width=COLUMN, **more):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic, width=width)
    for i, level in enumerate(y):
        figures.points_with_interval(axes, x, level, i=i, names=names, join=True, **more)
    return figure, axes


def test_names_stand_beside_their_points_and_cover_no_point_line_or_name(tmp_path):
    sizes = [2**k for k in range(2, 11)]
    steps = [[14 * (1 + c / b) for b in sizes] for c in (100, 130)]
    figure, axes = named(steps[0], [[b * s for b, s in zip(sizes, one)] for one in steps], sizes)
    figures.save(figure, tmp_path / "named")
    figure.draw_without_rendering()
    shown = [text for text in axes.texts if text.get_visible()]
    boxes = [text.get_window_extent() for text in shown]
    assert len(shown) >= 14  # of 18
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    for line in axes.lines:
        ends = axes.transData.transform(line.get_xydata())
        along = np.concatenate([np.linspace(a, b, 200) for a, b in pairwise(ends)])
        assert not any(box.contains(*point) for box in boxes for point in along)
    near = [np.hypot(*(axes.transData.transform(t.xy) - np.mean(b.get_points(), 0))) for t, b in zip(shown, boxes)]
    assert max(near) < 20 * figure.dpi / 72


def test_a_name_without_room_is_left_out_and_a_point_that_is_not_there_has_none(tmp_path):
    def draw():
        figure, axes = named([1.0] * 30 + [9.0], [[1.0] * 30 + [None]], ["a long name"] * 31)
        figures.save(figure, tmp_path / "crowd")
        return axes.texts, (tmp_path / "crowd.svg").read_bytes()

    names, svg = draw()
    assert len(names) == 30 and 2 <= sum(text.get_visible() for text in names) <= 16  # around a single point
    assert draw()[1] == svg and b"name-of-a-point" not in svg


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_second_scale_is_so_many_times_the_first(axis):
    figure, axes = figures.new(x=figures.logarithmic, y=figures.logarithmic)
    figures.points_with_interval(axes, [10, 500], [10, 500])
    figures.second_scale(getattr(axes, f"{axis}axis"), 0.02, "seconds")
    second = axes.child_axes[0]
    figure.draw_without_rendering()
    ends = np.array(getattr(axes, f"get_{axis}lim")())
    assert np.allclose(getattr(second, f"get_{axis}lim")(), 0.02 * ends)
    assert getattr(second, f"get_{axis}label")() == "seconds" and getattr(second, f"get_{axis}scale")() == "log"
    assert labels(figure, getattr(second, f"{axis}axis"))[0] == ["0.2", "0.5", "1", "2", "5", "10"]


def test_a_legend_has_as_many_columns_as_there_is_room_for():
    for words, columns in ((["a", "b", "c"], 3), (["adam with decoupled decay", "momentum 0.9, nesterov", "sgd"], 2)):
        figure, axes = figures.new()
        for i, word in enumerate(words):
            figures.points_with_interval(axes, [1, 2], [1, 2], i=i, label=word)
        figures.legend(figure, 3)
        figure.draw_without_rendering()
        [made] = figure.legends
        assert made._ncols == columns and made.get_window_extent().width <= figure.bbox.width


def test_the_legend_names_each_series_once_and_lies_above_the_data():
    figure, (left, right) = figures.new(1, 2, PAGE)
    for axes in (left, right):
        figures.points_with_interval(axes, [1, 2], [1, 2], label="SGD")
    figures.line_with_interval(right, [1, 2], [1, 2], i=1, label="fit")
    figures.legend(figure)
    figure.draw_without_rendering()
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["SGD", "fit"]
    assert legend.get_window_extent().y0 >= max(axes.get_window_extent().y1 for axes in (left, right))


def test_saved_figures_are_as_wide_as_a_column_and_leave_matplotlib_as_it_was(tmp_path):
    before = dict(matplotlib.rcParams)
    figure, axes = figures.new()
    axes.plot([1, 2], [1, 2])
    png, svg = figures.save(figure, tmp_path / "a.b")
    assert (png.name, svg.name) == ("a.b.png", "a.b.svg")
    assert int.from_bytes(png.read_bytes()[16:20], "big") == round(200 * COLUMN)
    assert "<dc:date>" not in svg.read_text() and dict(matplotlib.rcParams) == before


def test_without_matplotlib_a_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(
        ConfigurationError, match=r"^matplotlib draws the figures and is not here: pip install 'allgrad"
    ):
        figures.new()


def test_a_figure_of_runs_that_all_failed_shows_their_crosses(tmp_path):
    figure, axes = figures.new()
    figures.points_with_interval(axes, [4, 8, 16], [None] * 3, [None] * 3, [None] * 3, label="SGD")
    figures.line_with_interval(axes, [], [], [], [])
    figures.batches(axes.xaxis)
    figures.logarithmic(axes.yaxis)
    figures.guide(axes, -1, (4, 100), "slope -1")
    figures.failed(axes, [4, 8, 16])
    figures.legend(figure)
    assert all(path.stat().st_size for path in figures.save(figure, tmp_path / "none"))
    assert labels(figure, axes.xaxis)[0] == ["4", "8", "16"] and labels(figure, axes.yaxis)[0] == []
