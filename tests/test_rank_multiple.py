"""Ranks fill blocks of channels: which ranks a layer has by default, and what happens where blocks are too wide."""

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from choices_for_tests import square
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import build, conv, photo, relu, three_convs, weights

from onnx_lowrank.errors import TargetError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.rank_multiple import BLOCKS, EVERY_RANK, RankMultiple, from_wide_to_narrow
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import plan_only
from onnx_lowrank.plan.cost import lowest_macs
from onnx_lowrank.report.plan_schema import PlanReport
from onnx_lowrank.stages.request import Request

CHANNEL, SPATIAL, CP = (FORMS[name] for name in ("channel", "spatial", "cp"))

SHAPES = st.builds(
    ConvShape,
    st.integers(1, 96),
    st.integers(1, 96),
    st.sampled_from([(3, 3), (1, 1), (5, 5), (1, 7), (3,)]),
    st.just((6, 6)),
    st.sampled_from([(6, 6), (3, 3)]),
    st.sampled_from([1, 1, 4]),
)


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        (square(8, 64, 64, 3), 16),
        (square(8, 64, 128, 1), 16),  # rank 42 costs as much as the layer
        (square(8, 144, 24, 1), 8),  # 20
        (square(8, 96, 16, 1), None),  # 13: a single rank is no choice
        (square(8, 3, 12, 3), None),
    ],
)
def test_a_layer_takes_the_widest_block_that_leaves_it_a_choice(shape: ConvShape, block: int | None) -> None:
    assert BLOCKS.of(CHANNEL, shape) == block
    ranks = BLOCKS.ranks(CHANNEL, shape)[:, 0].tolist()
    assert ranks == ([] if block is None else list(range(block, CHANNEL.highest_ranks(shape)[0] + 1, block)))


@given(shape=SHAPES)
@settings(max_examples=60, deadline=None)
def test_from_wide_to_narrow_the_lowest_cost_never_rises_and_the_last_has_every_rank(shape: ConvShape) -> None:
    rules = list(from_wide_to_narrow())
    assert rules[0] == BLOCKS and rules[-1] == EVERY_RANK and len(set(rules)) == len(rules)
    # Among those with the same blocks, more and more ranks below a block are added.
    for kind in filter(lambda kind: kind.takes(shape), FORMS):
        of_kind = [{tuple(ranks) for ranks in rule.ranks(kind, shape).tolist()} for rule in rules]
        assert all(ranks <= of_kind[-1] for ranks in of_kind)
        same = [ranks for rule, ranks in zip(rules, of_kind, strict=True) if rule.block == BLOCKS.block and rule.least]
        assert all(wide <= narrow for wide, narrow in itertools.pairwise(same))
    lowest = [lowest_macs([shape], FORMS, rule) for rule in rules if rule.block == BLOCKS.block]
    assert lowest == sorted(lowest, reverse=True)
    assert lowest[-1] == lowest_macs([shape], FORMS, EVERY_RANK)


@given(shape=SHAPES, rule=st.sampled_from(list(from_wide_to_narrow())))
@settings(max_examples=60, deadline=None)
def test_the_lowest_cost_is_that_of_some_ranks_that_a_layer_may_have(shape: ConvShape, rule: RankMultiple) -> None:
    costs = [kind.macs(shape, rule.ranks(kind, shape)) for kind in FORMS if kind.takes(shape)]
    assert lowest_macs([shape], FORMS, rule) == min([shape.macs, *np.concatenate(costs).tolist()])
    for kind in FORMS:
        assert not (rule.ranks(kind, shape) % rule.narrowest).any()


SPEEDUP = 4.716
"""What the chain has if half of its layers have rank 8 and the others 16."""


def planned(speedup: float, channels: int = 64, **choices: Any) -> PlanReport:
    options = Options(speedup=speedup, images=20, threads=1, width="none", **choices)
    return plan_only(Request(three_convs(channels, (8, 8)), photo(0, (20, 3, 8, 8)), options))


def deep(layers: int = 10, channels: int = 64) -> onnx.ModelProto:
    """Build a chain of convolutions of the same size behind a first one."""
    stored = {f"w{i}": weights(i, channels, channels if i else 3, 3, 3) for i in range(layers + 1)}
    nodes, x = [], "x"
    for i in range(layers + 1):
        nodes += [conv(f"conv{i}", x, f"w{i}", f"c{i}"), relu(f"c{i}", "y" if i == layers else f"r{i}")]
        x = f"r{i}"
    return build(nodes, stored, input_shape=("N", 3, 8, 8), output_shape=("N", channels, 8, 8))


def ranks_of(report: PlanReport) -> set[int]:
    return {rank for site in report.sites for rank in site.ranks.values()}


@pytest.mark.parametrize("speedup", [1.5, 2.0, 4.0])
def test_by_default_ranks_fill_blocks_at_the_same_macs(speedup: float) -> None:
    report, exact = planned(speedup), planned(speedup, rank_multiple=1)
    assert not any(rank % 16 for rank in ranks_of(report))
    assert speedup <= report.macs.speedup <= 1.01 * max(speedup, exact.macs.speedup)
    assert planned(speedup, rank_multiple=16).plan == report.plan


def test_one_gives_every_rank_again() -> None:
    assert any(rank % 8 for rank in ranks_of(planned(2.0, form="channel", rank_multiple=1)))


def test_beyond_the_reach_of_blocks_ranks_below_one_block_are_taken_and_the_others_fill_blocks() -> None:
    model, data = deep(), photo(0, (20, 3, 8, 8))
    with pytest.raises(TargetError, match="at the lowest multiples of 16 as ranks this model gets 3"):
        plan_only(Request(model, data, Options(speedup=SPEEDUP, width="none", form="channel", rank_multiple=16)))
    report = plan_only(Request(model, data, Options(speedup=SPEEDUP, width="none", form="channel")))
    assert SPEEDUP <= report.macs.speedup <= 1.01 * SPEEDUP
    assert ranks_of(report) == {8, 16} and report.rank_multiple == 8


@pytest.mark.parametrize("channels", [8, 12, 20])
@pytest.mark.parametrize("form", ["auto", "channel"])
def test_networks_of_few_channels_come_as_close_to_a_speedup_as_with_every_rank(channels: int, form: str) -> None:
    report, exact = (planned(2.0, channels, form=form, rank_multiple=multiple) for multiple in ("blocks", 1))
    assert 2 <= report.macs.speedup <= max(2.02, exact.macs.speedup)


def test_a_speedup_that_no_ranks_reach_is_refused_for_the_best_of_all_ranks() -> None:
    refusals = []
    for multiple in ("blocks", 1):
        with pytest.raises(TargetError) as refusal:
            planned(100.0, form="channel", rank_multiple=multiple)
        refusals.append(str(refusal.value))
    assert refusals[0] == refusals[1] and "rank-multiple" not in refusals[0]
