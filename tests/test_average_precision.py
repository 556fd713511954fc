"""The average precision of boxes is COCO's, spelled out here step by step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.measures.average_precision import average_precision, match
from onnx_lowrank.measures.boxes import Boxes, overlaps

Array = NDArray[Any]
Pair = tuple[Boxes, Boxes]
"""The true boxes in an image, and those that were found."""


def pair(seed: int, classes: int = 2) -> Pair:
    """True boxes, some of them crowds, and found ones of which most are near a true one."""
    rng = np.random.default_rng(seed)
    true = int(rng.integers(0, 6))
    low = rng.uniform(0, 60, (true, 2))
    corners = np.concatenate([low, low + rng.uniform(8, 40, (true, 2))], axis=1)
    kinds = rng.integers(0, classes, true)
    truth = Boxes(corners, np.ones(true), kinds, rng.random(true) < 0.15)
    near = np.repeat(np.arange(true), rng.integers(0, 3, true))
    stray = int(rng.integers(0, 3))
    start = np.concatenate([corners[near, :2], rng.uniform(0, 60, (stray, 2))])
    side = np.concatenate(
        [
            (corners[near, 2:] - corners[near, :2]) * rng.uniform(0.8, 1.3, (len(near), 2)),
            rng.uniform(8, 40, (stray, 2)),
        ]
    )
    start = start + rng.normal(0, 2, start.shape)
    found = np.concatenate([start, start + side], axis=1)
    found_kinds = np.concatenate([kinds[near], rng.integers(0, classes, stray)])
    scores = rng.permutation(len(found)) / (len(found) + 1) + rng.uniform(0, 1e-3, len(found))
    return truth, Boxes(found, scores, found_kinds).best(0.0)


def spelled_out(pairs: Sequence[Pair], threshold: float, by_class: bool) -> float:
    precisions = []
    true_kinds = {int(kind) for truth, _ in pairs for kind in truth.classes[~truth.ignored]}
    together = [set(range(10))] if true_kinds else []
    for kinds in [{kind} for kind in true_kinds] if by_class else together:
        outcomes, wanted = list[tuple[float, bool]](), 0
        for truth, found in pairs:
            used = set[int]()
            wanted += sum(
                1 for place in range(len(truth)) if truth.classes[place] in kinds and not truth.ignored[place]
            )
            for index in range(len(found)):
                if found.classes[index] not in kinds:
                    continue
                shares = overlaps(found.corners[index : index + 1], truth.corners, truth.ignored)[0]
                same = [place for place in range(len(truth)) if truth.classes[place] == found.classes[index]]
                free = [p for p in same if not truth.ignored[p] and p not in used and shares[p] >= threshold]
                if free:
                    used.add(max(free, key=lambda place: float(shares[place])))
                    outcomes.append((float(found.scores[index]), True))
                elif not any(truth.ignored[p] and shares[p] >= threshold for p in same):
                    outcomes.append((float(found.scores[index]), False))
        outcomes.sort(key=lambda each: -each[0])
        points, hits = list[tuple[float, float]](), 0
        for tried, (_, hit) in enumerate(outcomes, 1):
            hits += hit
            points.append((hits / wanted, hits / tried))
        levels = np.linspace(0, 1, 101)
        precisions.append(np.mean([max((p for r, p in points if r >= level), default=0.0) for level in levels]))
    return float(np.mean(precisions)) if precisions else float("nan")


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([0.5, 0.75]), st.booleans())
def test_it_is_what_coco_defines(seed: int, count: int, threshold: float, by_class: bool) -> None:
    pairs = [pair(seed + number) for number in range(count)]
    matches = [match(truth, found, (0.5, 0.75)) for truth, found in pairs]
    row = (0.5, 0.75).index(threshold)
    (value,) = average_precision(matches, np.ones((1, count)), row, by_class=by_class)
    assert value == pytest.approx(spelled_out(pairs, threshold, by_class), nan_ok=True)


@pytest.mark.parametrize("by_class", [False, True])
def test_finding_everything_is_1_and_nothing_is_0(by_class: bool) -> None:
    pairs = [pair(seed) for seed in range(12)]
    exact = [match(truth, truth.best(0.0), (0.5,)) for truth, _ in pairs]
    nothing = [match(truth, truth[:0], (0.5,)) for truth, _ in pairs]
    weights = np.ones((1, 12))
    assert average_precision(exact, weights, 0, by_class=by_class) == pytest.approx([1.0])
    assert average_precision(nothing, weights, 0, by_class=by_class) == [0.0]


def test_boxes_of_another_class_are_no_hits() -> None:
    truth, _ = pair(3)
    wrong = Boxes(truth.corners, truth.scores, truth.classes + 1)
    assert average_precision([match(truth, wrong, (0.5,))], np.ones((1, 1)), 0) == [0.0]


def test_a_crowd_is_neither_hit_nor_missed() -> None:
    crowd = Boxes(np.array([[0.0, 0, 100, 100]]), np.ones(1), np.zeros(1, np.int64), np.array([True]))
    one = Boxes(np.array([[200.0, 0, 220, 20]]), np.ones(1), np.zeros(1, np.int64))
    truth = Boxes(
        *(
            np.concatenate([getattr(crowd, name), getattr(one, name)])
            for name in ("corners", "scores", "classes", "ignored")
        )
    )
    inside = Boxes(
        np.array([[10.0, 10, 20, 20], [30, 30, 40, 40], [200, 0, 220, 20]]),
        np.array([0.9, 0.8, 0.7]),
        np.zeros(3, np.int64),
    )
    assert average_precision([match(truth, inside, (0.5,))], np.ones((1, 1)), 0) == pytest.approx([1.0])


def test_of_boxes_that_repeat_each_other_one_is_left_in_each_class() -> None:
    corners = np.array([[0.0, 0, 20, 20], [1, 1, 21, 21], [0, 0, 20, 20], [40, 40, 60, 60]])
    boxes = Boxes(corners, np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 0]))
    assert boxes.suppressed().scores.tolist() == [0.9, 0.7, 0.6]
