"""Arguments of every odd type: each is taken for what it clearly means, or refused by the name of its option."""

import inspect
import io
import json
import math
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import photo, three_convs

from onnx_lowrank import compress
from onnx_lowrank.errors import LowRankError, UsageError
from onnx_lowrank.options import Options


class Program:
    """What an exporter may return: an object with the model inside."""

    model_proto = three_convs()


ODD: tuple[Any, ...] = (
    None, "", "two", "2", b"2", True, -1, 0, 2.5, 10**400, -math.inf, math.nan, 2j, [], [2], (2, 3), {}, {"a": 1}, {2},
    object(), Program, len, np.zeros(3), np.float32(2.5), np.int64(3), np.datetime64("2026-01-01"), Fraction(5, 2),
    Path("file"), io.BytesIO(b"2"), ["cpu", 3], {"x": "1,3"}, {"x": 3}, {3: (1, 2)}, {"x": (1.5, 2)},
)  # fmt: skip
OPTIONS = [field.name for field in fields(Options)]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_an_odd_value_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    try:
        Options(**{name: value})
    except UsageError as error:
        assert name in str(error)
        assert "\n" not in str(error)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(OPTIONS),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=4,
    ),
)
def test_no_value_is_answered_with_another_error(name: str, value: Any) -> None:
    try:
        Options(**{name: value})
    except UsageError as error:
        assert name in str(error)


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("images", np.int64(20), 20), ("seed", np.uint8(3), 3), ("memory", 4e9, 4_000_000_000),
        ("speedup", np.float32(2.5), 2.5), ("speedup", 2, 2.0), ("speedup", Fraction(5, 2), 2.5),
        ("rank_multiple", np.int32(8), 8), ("latency_table", Path("table.json"), "table.json"), ("refit", 0, False),
        ("residual", np.True_, True),
    ],
)  # fmt: skip
def test_numbers_of_other_libraries_become_numbers_of_python(name: str, given: Any, meant: Any) -> None:
    value = getattr(Options(**{name: given}), name)
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("name", ["model", "preprocess", "plan", "test", "progress", "warn"])
def test_an_odd_argument_of_the_function_is_refused_by_name(name: str, value: Any) -> None:
    meant: tuple[type, ...] = {
        "model": (str, Path), "preprocess": (str,), "plan": (type(None),), "test": (str, Path, type(None)),
        "progress": (), "warn": (),
    }[name]  # fmt: skip
    if isinstance(value, meant) or (name in ("progress", "warn") and callable(value)):
        return
    arguments: dict[str, Any] = {"model": three_convs(), "data": photo(shape=(4, 3, 12, 10)), name: value}
    with pytest.raises(UsageError, match=f"^{name} is "):
        compress(**arguments)


@pytest.mark.parametrize("value", [value for value in ODD if value is not None], ids=range(len(ODD) - 1))
def test_odd_calibration_data_are_refused_in_one_line(value: Any) -> None:
    with pytest.raises(LowRankError) as caught:
        compress(three_convs(), value)
    assert "\n" not in str(caught.value)


def test_the_object_of_an_exporter_is_refused_with_the_way_to_its_model() -> None:
    with pytest.raises(UsageError, match="model_proto"):
        compress(Program())


def test_several_paths_are_refused_as_paths() -> None:
    with pytest.raises(LowRankError, match="a single path"):
        compress(three_convs(), ["a.npy", "b.npy"])


def test_a_single_provider_as_text_is_refused_by_the_name_of_the_option() -> None:
    with pytest.raises(UsageError, match=r"^providers is 'cpu'"):
        compress(three_convs(), providers="cpu")  # type: ignore[arg-type]


def test_a_report_holds_plain_numbers_whatever_was_given() -> None:
    options: dict[str, Any] = {
        "speedup": np.float32(1.2),
        "images": np.int64(8),
        "seed": np.uint8(1),
        "refit": np.False_,
    }
    report = compress(three_convs(), photo(shape=(12, 3, 12, 10)), **options).report
    assert json.loads(report.to_json())["options"]["images"] == 8


@pytest.mark.parametrize(
    ("name", "hint"), [("speed", "did you mean .*speedup"), ("input_shape", "input_shapes"), ("xyz", "the options are")]
)
def test_an_unknown_option_is_refused_with_the_nearest_one(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} is not an option of compress: .*{hint}"):
        compress(three_convs(), **{name: 2})  # type: ignore[arg-type]


def test_editors_still_see_every_option() -> None:
    assert {field.name for field in fields(Options)} <= inspect.signature(compress).parameters.keys()
