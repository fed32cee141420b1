"""Goal: the table of `make bench` tells met from missed, and hides nothing that was not measured.

Method: rows made by hand, on both sides of each target.
"""

import msgspec
import pytest

from ops.bench import rows
from ops.bench.rows import Row, Target, at_least, at_most


def row(figure: float | None, target: Target | None, floor: float | None = 2.0) -> Row:
    return Row(what="x", figure=figure, unit="ms", floor=floor, floor_of="bare", target=target)


@pytest.mark.parametrize(
    ("figure", "target", "verdict"),
    [
        (2.6, at_most(1.3), "met"),
        (2.61, at_most(1.3), "missed"),
        (1.8, at_least(0.9), "met"),
        (1.79, at_least(0.9), "missed"),
        (1.0, at_most(1.0, "figure"), "met"),
        (1.1, at_most(1.0, "figure"), "missed"),
        (0.0, at_most(0.0, "figure"), "met"),
        (1.0, at_most(0.0, "figure"), "missed"),
        (9.9, None, ""),
        (None, at_most(1.3), "not measured"),
        (None, None, "not measured"),
    ],
)
def test_a_target_is_met_up_to_its_bound_and_missed_beyond(figure, target, verdict):
    assert row(figure, target).verdict == verdict


def test_without_a_floor_a_ratio_is_no_verdict():
    assert row(2.0, at_most(1.3), floor=None).verdict == "not measured"
    assert row(2.0, at_most(1.3), floor=0.0).ratio is None


def test_the_page_shows_figure_floor_ratio_target_and_verdict():
    lost = Row(what="y", who="taskiq", figure=None, note="not installed")
    page = rows.markdown([row(2.61, at_most(1.3)), lost]).splitlines()
    assert page[2] == "| x | mmg | 2.61 ms | bare 2 | 1.30x | ≤ 1.3x | missed |"
    assert page[3] == "| y | taskiq | - |  |  |  | not measured |"
    assert page[-1] == "- y, taskiq: not installed"


@pytest.mark.parametrize(
    ("figure", "text"),
    [(0.03572, "0.0357"), (2.0, "2"), (99.94, "99.9"), (1386.4, "1,386"), (0.0, "0")],
)
def test_figures_have_three_digits_that_count(figure, text):
    assert rows.shown(figure) == text


def test_rows_come_back_from_json_with_ratio_and_verdict_beside_them():
    made = [row(2.61, at_most(1.3)), row(None, None)]
    data = msgspec.json.encode(rows.encode(made))
    assert rows.decode(data) == made
    assert [one["verdict"] for one in msgspec.json.decode(data)] == ["missed", "not measured"]
    assert msgspec.json.decode(data)[0]["ratio"] == pytest.approx(1.305)
