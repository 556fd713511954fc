"""The task measures of the tools: what a perfect answer gets, and cases that are worked out by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))

from task_measures import AP50, PSNR, TEXT_F1, TOP1, Boxes, anchor_free_boxes, overlaps, text_boxes


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Boxes:
    values = np.array(rows, np.float64).reshape(-1, 6)
    return Boxes(values[:, :4], values[:, 4], values[:, 5].astype(int))


FIRST, SECOND, FAINT = (0, 0, 10, 10, 0.9, 1), (20, 0, 30, 10, 0.8, 1), (40, 0, 50, 10, 0.1, 1)


def test_overlap_is_intersection_over_union() -> None:
    a, b = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
    assert overlaps(a, b)[0] == pytest.approx([1, 1 / 3, 0])


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (boxes(FIRST, SECOND, FAINT), 1.0),  # what is faint in the original is neither wanted nor in the way
        (boxes(FIRST), 0.5),
        (boxes(), 0.0),
        (boxes((0, 0, 10, 10, 0.9, 2), SECOND), 0.25),  # a wrong class, and then a precision of a half
        (boxes((100, 0, 110, 10, 0.05, 1), FIRST, SECOND), 1.0),  # a false box behind all true ones
        (boxes(FIRST, (1, 0, 10, 10, 0.85, 1), SECOND), 0.5 + 0.5 * 2 / 3),  # the second on one box is false
    ],
)
def test_average_precision(new: Boxes, expected: float) -> None:
    assert AP50.compare([boxes(FIRST, SECOND, FAINT)], [new], ()) == pytest.approx(expected)


def test_boxes_of_a_head_without_anchors_are_decoded_and_suppressed() -> None:
    output = np.zeros((8 * 8 + 4 * 4 + 2 * 2, 7), np.float32)
    output[9] = (0.5, 0.5, np.log(2), np.log(2), 1, 0.1, 0.9)  # cell (1, 1) of the stride 8
    output[10] = (-0.4, 0.5, np.log(2), np.log(2), 1, 0.1, 0.8)  # almost the same place, from its neighbour
    found = anchor_free_boxes(output, size=64)
    assert found.places.tolist() == [pytest.approx([4, 4, 20, 20])]
    assert found.scores.tolist() == [pytest.approx(0.9)] and found.kinds.tolist() == [1]


def test_text_boxes_are_connected_parts_with_a_peak() -> None:
    maps = np.zeros((2, 20, 30), np.float32)
    maps[0, 2:6, 3:8], maps[0, 3, 4] = 0.5, 0.8
    maps[1, 4, 8:12], maps[0, 2:6, 12:16] = 0.5, 0.5  # a link joins two parts
    maps[0, 12:16, 20:26] = 0.6  # without a peak
    found = text_boxes(maps)
    assert found.tolist() == [[3, 2, 16, 6]]
    assert TEXT_F1.compare([found], [found], ()) == 1
    assert TEXT_F1.compare([found], [found[:0]], ()) == 0
    assert TEXT_F1.compare([found], [np.concatenate([found, found + 100])], ()) == pytest.approx(2 / 3)


def test_psnr_and_top1() -> None:
    ramp = np.linspace(0, 1, 100).reshape(1, 10, 10)
    assert PSNR.compare([ramp], [ramp + 0.01], ()) == pytest.approx(40)
    assert PSNR.compare([ramp], [ramp], ()) == np.inf
    assert TOP1.read(np.array([0.1, 0.7, 0.2])) == 1
    assert TOP1.compare([], [1, 2, 3, 3], (1, 2, 3, 4)) == 75
