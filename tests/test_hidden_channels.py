"""Finding channels that can be removed: sets are complete, and the others stay for a reason."""

from collections.abc import Sequence

import numpy as np
import pytest
from models_for_tests import run_model
from narrowing_for_tests import feed, ignore, ignoring, network_of, with_other_filters
from networks_of_hidden_channels import CASES, STAYING, Case, Staying

from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.find.hidden_channels import HiddenChannels, Reader, find_hidden_channels, survey_channels

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_case
def test_the_sets_of_a_network_are_all_that_it_has(case: Case) -> None:
    network, _ = network_of(case.model)
    assert find_hidden_channels(network) == case.expected


@every_case
def test_nobody_sees_a_channel_that_the_readers_ignore(case: Case) -> None:
    for channels in case.expected:
        for channel in range(channels.count):
            blind = ignoring(case.model, [(channels, [channel])])
            changed = with_other_filters(blind, channels, channel)
            inputs = feed(case.model)
            assert np.array_equal(run_model(blind, inputs)["y"], run_model(changed, inputs)["y"])


@every_case
def test_every_reader_sees_channels_that_all_others_ignore(case: Case) -> None:
    for channels in case.expected:
        for reader in channels.readers:
            others = [other for other in channels.readers if other != reader]
            assert any(changes(case, channels, others, channel) for channel in range(channels.count))


def changes(case: Case, channels: HiddenChannels, ignoring_it: Sequence[Reader], channel: int) -> bool:
    """Whether a channel that some readers ignore still has a say in the output."""
    network, loaded = network_of(case.model)
    ignore(network, ignoring_it, [channel])
    before = export(network, loaded)
    after = with_other_filters(before, channels, channel)
    first, second = (run_model(model, feed(case.model))["y"] for model in (before, after))
    return not np.array_equal(first, second)


@pytest.mark.parametrize("case", STAYING.values(), ids=STAYING)
def test_channels_that_anything_else_sees_stay(case: Staying) -> None:
    network, _ = network_of(case.model)
    survey = survey_channels(network)
    assert case.reason in survey.reasons[case.layer]
    assert all(case.layer not in channels.makers for channels in survey.sets)


def test_a_set_with_an_untouchable_layer_stays() -> None:
    case = CASES["squeeze and excitation"]
    network, _ = network_of(case.model)
    outer, squeezed = case.expected
    for layer in (*outer.makers, *outer.carriers, *(reader.output for reader in outer.readers)):
        survey = survey_channels(network, [layer])
        assert outer not in survey.sets
        assert all(f"{layer!r} stays as it is" in survey.reasons[maker] for maker in outer.makers)
    assert find_hidden_channels(network, ["y"]) == (squeezed,)


def test_every_layer_is_in_a_set_or_has_a_reason() -> None:
    for model in (*(case.model for case in CASES.values()), *(case.model for case in STAYING.values())):
        network, _ = network_of(model)
        survey = survey_channels(network)
        made = {maker for channels in survey.sets for maker in channels.makers}
        assert made.isdisjoint(survey.reasons)
        layers = [node for node in network.nodes if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
        carried = {carrier for channels in survey.sets for carrier in channels.carriers}
        missing = [node for node in layers if node.outputs[0].name not in {*made, *carried, *survey.reasons}]
        assert missing == []
