"""Which of several rehearsed plans is taken: its course, with fewer channels or without, and its exponent."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnx_lowrank.stages.scoring import Score, telling
from onnx_lowrank.stages.trials import FAR, NEAR, Course, compare

RANKS, WIDTHS = "ranks alone", "fewer channels"


def chosen(errors: Mapping[str, Mapping[float, float]]) -> tuple[str, float, list[tuple[str, float]]]:
    """Return the course and the exponent that are taken if the plans have these errors, and what was rehearsed."""
    rehearsed: list[tuple[str, float]] = []

    def rehearse(course: Course, exponent: float) -> None:
        name = cast(str, course.terms)
        rehearsed.append((name, exponent))
        course.scores[exponent] = Score((errors[name][exponent] / 8,) * 8)

    courses = [Course(cast(Any, name), {}) for name in errors]
    for course in courses:
        rehearse(course, 0.0)
    course, exponent = compare(courses, rehearse)
    return cast(str, course.terms), exponent, rehearsed[len(courses) :]


@pytest.mark.parametrize(
    ("ranks", "widths", "taken"),
    [
        # Fewer channels lose more by the energies, and less once the layers are weighed.
        ({0.0: 0.034, 0.5: 0.031, 1.0: 0.058}, {0.0: 0.042, 0.5: 0.019, 1.0: 0.037}, (WIDTHS, 0.5)),
        ({0.0: 0.034, 0.5: 0.020, 1.0: 0.010}, {0.0: 0.030, 0.5: 0.025, 1.0: 0.001}, (RANKS, 1.0)),
        ({0.0: 0.034, 0.5: 0.036, 0.25: 0.030}, {0.0: 0.040, 0.5: 0.041}, (RANKS, 0.25)),
        # Nothing is clearly better than the better plan of the energies.
        ({0.0: 0.034, 0.5: 0.050}, {0.0: 0.042, 0.5: 0.033, 1.0: 0.040}, (RANKS, 0.0)),
        ({0.0: 0.040, 0.5: 0.060}, {0.0: 0.034, 0.5: 0.033, 1.0: 0.033}, (WIDTHS, 0.0)),
        ({0.0: 0.034, 0.5: 0.100}, {0.0: 0.034, 0.5: 0.100}, (RANKS, 0.0)),
    ],
)
def test_the_course_and_the_exponent_are_chosen_together(
    ranks: Mapping[float, float], widths: Mapping[float, float], taken: tuple[str, float]
) -> None:
    assert chosen({RANKS: ranks, WIDTHS: widths})[:2] == taken


def test_a_course_that_is_far_behind_is_given_up() -> None:
    ranks, widths = {0.0: 0.1, 0.5: 0.2}, {0.0: 0.1 * FAR + 0.01, 0.5: 0.01}
    assert chosen({RANKS: ranks, WIDTHS: widths}) == (RANKS, 0.0, [(RANKS, 0.5)])
    assert chosen({RANKS: widths | {0.0: float("inf")}, WIDTHS: ranks}) == (WIDTHS, 0.0, [(WIDTHS, 0.5)])


@pytest.mark.parametrize(("half", "next_tried"), [(0.09, 1.0), (0.1 * NEAR - 0.001, 0.25), (0.1 * NEAR + 0.001, None)])
def test_half_of_the_weights_tells_which_exponent_to_try_next(half: float, next_tried: float | None) -> None:
    *_, rehearsed = chosen({RANKS: {0.0: 0.1, 0.25: 0.09, 0.5: half, 1.0: 0.08}})
    assert rehearsed == [(RANKS, 0.5), *([(RANKS, next_tried)] if next_tried else [])]


@given(
    arrays(np.float32, st.integers(1, 60), elements=st.floats(-1, 1, width=16)),
    st.sampled_from([0.5, 4.0]),
    st.integers(-8, 8),
)
def test_how_many_elements_tell_depends_on_no_unit_and_is_never_more_than_there_are(
    values: np.ndarray, unit: float, zero: int
) -> None:
    assert 1 <= telling(values) <= len(values)
    assert abs(telling(np.float64(unit) * values + zero) - telling(values.astype(np.float64))) <= 1


def test_few_elements_of_a_sparse_output_tell() -> None:
    rng = np.random.default_rng(0)
    assert telling(rng.normal(size=20_000)) == pytest.approx(20_000, rel=0.1)
    one_hot = np.zeros((40, 6_000))
    one_hot[range(40), rng.integers(0, 6_000, 40)] = 1.0
    assert 100 <= telling(one_hot) <= 120
    assert telling(np.full(5, np.nan)) == telling(np.zeros(0)) == telling(np.ones(9)) == 1
