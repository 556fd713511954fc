"""Several samples share a run only where its outputs are those of each sample alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from inputs_for_tests import Array, build, traced, voice, voices
from models_for_tests import photo, plain, run_model
from onnx import TensorProto, helper

from onnx_lowrank import compress
from onnx_lowrank.calibration.together import Together, run_together
from onnx_lowrank.data.arrays import ArraySource
from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.preprocess import PRESETS
from onnx_lowrank.errors import ModelError, UsageError
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import inputs
from onnx_lowrank.graph.find.sample_axes import with_axes
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.progress import ignore
from onnx_lowrank.runtime.session import opener

IMAGES = photo(1, (40, 3, 8, 8))
ALONE = ("fails", "mixes", "flattens", "normalises")
"""The models of which every run takes one sample."""


def tried(model: onnx.ModelProto, data: object) -> Together:
    network, specs = normalise(model), with_axes(model, inputs(model))
    source = open_source(data, specs, preprocess=PRESETS["raw"], count=40, seed=0, on_warning=ignore)
    found = find_sites(network)
    reads = [site.input for site in (*found.sites, *found.first)]
    return run_together(network, source, opener(("cpu",), 1, spinning=False), reads)


@pytest.mark.parametrize("kind", [*ALONE, "broadcasts"])
def test_a_model_with_the_batch_of_its_export_runs_on_one_sample(kind: str) -> None:
    model = traced(kind)
    assert tried(model, IMAGES).runs == (kind == "broadcasts")
    plan = Plan((SitePlan("conv2", "channel", (12,)), SitePlan("conv3", "channel", (6,))))
    result = compress(model, IMAGES, plan=plan, include="conv[23]", threads=1)
    for image in IMAGES[:4]:
        before, after = (run_model(each, {"x": image[None]})["y"] for each in (model, result.model))
        np.testing.assert_allclose(after, before, atol=1e-5)
    output = result.report.outputs["y"]
    assert output.samples == 8 and output.relative_error < 1e-9 and not result.report.warnings


@pytest.mark.parametrize("kind", ALONE)
def test_a_batch_is_only_blamed_on_the_model_where_it_was_asked_for(kind: str) -> None:
    with pytest.raises(UsageError, match="the model takes batches of 1: drop --latency-batch 4"):
        compress(traced(kind), IMAGES, 1.5, latency_batch=4, threads=1)
    if kind == "fails":
        with pytest.raises(ModelError, match="cannot run the model"):
            compress(traced(kind), IMAGES, 1.5, input_shapes="x:4,3,8,8", threads=1)


def test_the_result_is_that_of_a_batch_that_was_asked_for() -> None:
    for kind in ("fails", "mixes"):
        results = [
            compress(traced(kind), IMAGES, 1.5, threads=1, require="none", solver="linear", **options)  # type: ignore[arg-type]
            for options in ({}, {"input_shapes": "x:1,3,8,8"})
        ]
        assert results[0].model == results[1].model


@pytest.mark.parametrize("images", [IMAGES, IMAGES + 1000, np.repeat(IMAGES[:1], 9, axis=0)])
def test_an_ordinary_model_takes_several_samples(images: Array) -> None:
    assert tried(plain(), images) == Together(True, {"y": 0})


def test_the_dimension_of_every_output_is_found() -> None:
    data = {name: np.stack([sample[name] for sample in voices(9)]) for name in ("audio", "state", "rate")}
    assert tried(voice(), data) == Together(True, {"score": 0, "state_out": 1})


def outputs_of(nodes: Sequence[Any], stored: dict[str, Array]) -> onnx.ModelProto:
    return build(nodes, stored, {"x": (TensorProto.FLOAT, ["N", 3, 8, 8])}, {"y": None})


@pytest.mark.parametrize(
    ("operators", "stored", "found"),
    [
        ([("Identity", ["x"], {})], {}, Together(True, {"y": 0})),
        ([("Transpose", ["x"], {"perm": [1, 2, 0, 3]})], {}, Together(True, {"y": 2})),
        ([("ConstantOfShape", ["s"], {})], {"s": np.array([3, 4])}, Together(True, {"y": None})),
        ([("ReduceMean", ["x"], {"keepdims": 0})], {}, Together(False, {})),
        ([("ReduceMean", ["x"], {"axes": [0]})], {}, Together(False, {})),
        ([("Reshape", ["x", "s"], {})], {"s": np.array([-1, 8, 8])}, Together(True, {"y": 0})),
        ([("Softmax", ["x"], {"axis": 0})], {}, Together(False, {})),
        ([("Transpose", ["x"], {"perm": [1, 0, 2, 3]}), ("Reshape", ["t0", "s"], {})], {"s": np.array([-1, 3, 8, 8])},
         Together(False, {})),
    ],
)  # fmt: skip
def test_outputs_tell_whether_samples_are_mixed(
    operators: list[tuple[str, list[str], dict[str, Any]]], stored: dict[str, Array], found: Together
) -> None:
    last = len(operators) - 1
    nodes = [
        helper.make_node(kind, reads, ["y" if place == last else f"t{place}"], **attributes)
        for place, (kind, reads, attributes) in enumerate(operators)
    ]
    assert tried(outputs_of(nodes, stored), IMAGES) == found


def test_layers_that_do_not_see_every_sample_tell_as_well() -> None:
    """The outputs are those of each sample alone, but the layer in between reads all samples as one."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 2, 0, 3]), helper.make_node("Reshape", ["t", "s"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"], "conv", kernel_shape=[1, 1]),
        helper.make_node("Reshape", ["c", "back"], ["u"]),
        helper.make_node("Transpose", ["u"], ["y"], perm=[2, 0, 1, 3]),
    ]  # fmt: skip
    stored = {"s": np.array([1, 3, 8, -1]), "back": np.array([4, 8, -1, 8]), "w": photo(2, (4, 3, 1, 1))}
    network = normalise(outputs_of(nodes, stored))
    source, open_session = ArraySource({"x": IMAGES}), opener(("cpu",), 1, spinning=False)
    assert run_together(network, source, open_session, []) == Together(True, {"y": 0})
    assert not run_together(network, source, open_session, ["r"]).runs
