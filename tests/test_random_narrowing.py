"""Channels found and removed in networks drawn at random, of blocks of every kind.

The normal run draws a few of them, and this one twelve thousand:

    python -m pytest -m slow -n 2 tests/test_random_narrowing.py
"""

import numpy as np
import onnx
import pytest
from full_rank import differences
from hypothesis import assume, given, seed, settings
from hypothesis import strategies as st
from models_for_tests import run_model
from narrowing_for_tests import ignoring, network_of, with_other_filters, zeroed_and_narrowed
from random_graphs import RandomModel, quick, random_block_models, random_models

from onnx_lowrank.graph.files.validate import validate
from onnx_lowrank.graph.find.hidden_channels import find_hidden_channels

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@quick(40)
@given(random_block_models(), st.integers(0, 99))
def test_channels_are_hidden_and_can_be_removed(case: RandomModel, seed: int) -> None:
    check(case, seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_twelve_thousand_networks_can_be_narrowed(part: int) -> None:
    @seed(part)
    @settings(quick(2000), derandomize=False, database=None)
    @given(st.one_of(random_block_models(), random_models()), st.integers(0, 99))
    def of_part(case: RandomModel, number: int) -> None:
        check(case, number)

    of_part()


def check(case: RandomModel, seed: int) -> None:
    """Check that channels which readers ignore are seen by nobody, and that they can be removed."""
    model, feeds, rng = case.still, case.feeds(1), np.random.default_rng(seed)
    sets = find_hidden_channels(network_of(model)[0])
    keep = [(one, sorted(rng.permutation(one.count)[: rng.integers(1, one.count)].tolist())) for one in sets]
    zeroed, narrowed = zeroed_and_narrowed(model, keep)
    validate(narrowed, model)
    onnx.checker.check_model(narrowed, full_check=True)
    expected = run_model(zeroed, feeds)
    assume(all(np.isfinite(value).all() for value in expected.values()))
    assert not differences(run_model(narrowed, feeds), expected)
    for channels in sets:
        channel = int(rng.integers(channels.count))
        blind = ignoring(model, [(channels, [channel])])
        changed = with_other_filters(blind, channels, channel)
        assert not differences(run_model(changed, feeds), run_model(blind, feeds))
