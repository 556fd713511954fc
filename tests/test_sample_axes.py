"""Inputs whose samples do not lie along the first dimension, or along none, from every source and in every layout."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs_for_tests import (
    Array,
    Inputs,
    Reader,
    as_folder,
    as_npz,
    as_zoo,
    detector,
    flagged,
    stacked,
    time_major,
    traced,
    voice,
    voices,
)
from models_for_tests import conv, photo, plain, relu, run_model, weights
from onnx import TensorProto, helper
from PIL import Image

from onnx_lowrank import compress
from onnx_lowrank.bench.benchmark import Settings, benchmark
from onnx_lowrank.bench.turns import Budget
from onnx_lowrank.data.arranged import samples_first
from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.preprocess import PRESETS
from onnx_lowrank.errors import DataError
from onnx_lowrank.graph.files.load import inputs
from onnx_lowrank.graph.find.sample_axes import with_axes
from onnx_lowrank.interface import Feeds, TensorSpec
from onnx_lowrank.pipeline import Result
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.progress import ignore

COUNT = 24
JUDGING = 5
VOICES = voices(COUNT)
IMAGES = photo(3, (COUNT, 3, 10, 12))


def full_rank(model: onnx.ModelProto, data: object, **options: Any) -> Result:
    """Factorise conv2 and conv3 at a rank that loses nothing."""
    kernels = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    sites = tuple(SitePlan(f"conv{i}", "channel", (kernels[f"w{i}"][0],)) for i in (2, 3))
    return compress(model, data, plan=Plan(sites), include="conv[23]", threads=1, **options)


def check(model: onnx.ModelProto, result: Result, samples: Sequence[Inputs], judging: int = JUDGING) -> None:
    """Assert that a result reproduces the model on samples run one by one, and that the report counts them right."""
    for sample in samples[:4]:
        before, after = run_model(model, sample), run_model(result.model, sample)
        for name, value in before.items():
            np.testing.assert_allclose(after[name], value, atol=1e-4)
    for output in result.report.outputs.values():
        assert output.samples == judging and output.relative_error < 1e-9
    assert result.report.cost.images == len(samples)
    assert result.report.data["calibration"] == len(samples) - judging


# ---- one image without a batch

DETECTOR_DATA: dict[str, Callable[[Array, Path], object]] = {
    "array": lambda x, folder: x,
    "dict": lambda x, folder: {"image": x},
    "list": lambda x, folder: list(x),
    "reader": lambda x, folder: Reader([{"image": image} for image in x]),
    "reader of batches of one": lambda x, folder: Reader([{"image": image[None]} for image in x]),
    "generator": lambda x, folder: (image for image in x),
    "npz": lambda x, folder: as_npz({"image": x}, folder),
    "npz of another name": lambda x, folder: as_npz({"arr_0": x, "labels": np.arange(len(x))}, folder),
    "folder of npy": lambda x, folder: as_folder(list(x), folder / "arrays"),
    "folder of npy with a batch": lambda x, folder: as_folder(list(x[:, None]), folder / "arrays"),
    "zoo": lambda x, folder: as_zoo([{"image": image} for image in x], folder / "zoo"),
}


@pytest.mark.parametrize("source", DETECTOR_DATA)
def test_an_image_without_a_batch_comes_from_every_source(source: str, tmp_path: Path) -> None:
    model = detector()
    result = full_rank(model, DETECTOR_DATA[source](IMAGES, tmp_path))
    check(model, result, [{"image": image} for image in IMAGES])
    assert result.report.outputs["scores"].top1_agreement == 1


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((3, 10, 12), False),
        ((3, None, None), False),
        (("H", "W", 3), True),
        ((10, 12, 3), True),
        ((None, None, 3), True),
    ],
)
def test_an_image_without_a_batch_has_any_layout(shape: tuple[Any, ...], last: bool) -> None:
    model, x = detector(shape, last=last), IMAGES.transpose(0, 2, 3, 1) if last else IMAGES
    check(model, full_rank(model, x), [{"image": image} for image in x])


@pytest.mark.parametrize(("photos", "last"), [(True, False), (True, True), (False, True)])
def test_photos_and_made_up_images_feed_an_image_without_a_batch(photos: bool, last: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / f"{number}.png")
    model = detector((10, 12, 3) if last else (3, 10, 12), last=last)
    result = full_rank(model, tmp_path if photos else None, images=COUNT)
    image = photo(5, (10, 12, 3) if last else (3, 10, 12))
    check(model, result, [{"image": image}] * COUNT)


def test_labels_measure_an_image_without_a_batch(tmp_path: Path) -> None:
    model = detector()
    labels = [int(run_model(model, {"image": image})["scores"].argmax()) for image in IMAGES]
    stored = as_npz({"image": IMAGES, "labels": np.array(labels)}, tmp_path)
    accuracy = full_rank(model, IMAGES, test=stored).report.accuracy
    assert accuracy is not None and accuracy.before == accuracy.after == 1 and accuracy.samples == COUNT


# ---- several inputs


def in_front(samples: Sequence[Inputs]) -> Inputs:
    arrays = stacked(samples)
    return arrays | {"audio": arrays["audio"][:, 0], "state": arrays["state"][:, :, 0]}


def as_the_model_takes_them(samples: Sequence[Inputs]) -> Inputs:
    arrays = in_front(samples)
    return arrays | {"state": np.moveaxis(arrays["state"], 0, 1)}


def one_rate(samples: Sequence[Inputs]) -> Inputs:
    return as_the_model_takes_them(samples) | {"rate": samples[0]["rate"]}


def rates_in_columns(samples: Sequence[Inputs]) -> Inputs:
    return in_front(samples) | {"rate": stacked(samples)["rate"][:, None]}


def with_what_nobody_reads(samples: Sequence[Inputs]) -> Inputs:
    return in_front(samples) | {"unread": np.ones((len(samples), 3), np.float32)}


LAYOUTS = (stacked, in_front, as_the_model_takes_them, one_rate, rates_in_columns, with_what_nobody_reads)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stored", [False, True])
def test_states_and_rates_come_in_every_layout(
    layout: Callable[[Sequence[Inputs]], Inputs], stored: bool, tmp_path: Path
) -> None:
    arrays = layout(VOICES)
    check_voice(as_npz(arrays, tmp_path) if stored else arrays, VOICES)


VOICE_DATA: dict[str, Callable[[Path], object]] = {
    "zoo": lambda folder: as_zoo(VOICES, folder / "zoo"),
    "reader": lambda folder: Reader(VOICES),
    "reader without batches": lambda folder: Reader(
        [{"audio": v["audio"][0], "state": v["state"][:, 0], "rate": v["rate"]} for v in VOICES]
    ),
    "list of dicts": lambda folder: VOICES,
    "generator of batches": lambda folder: (one_rate(VOICES[i : i + 5]) for i in range(0, COUNT, 5)),
    "list of rates": lambda folder: in_front(VOICES) | {"rate": [16000] * COUNT},
}


@pytest.mark.parametrize("source", VOICE_DATA)
def test_states_and_rates_come_from_every_source(source: str, tmp_path: Path) -> None:
    check_voice(VOICE_DATA[source](tmp_path), VOICES)


def check_voice(data: object, samples: Sequence[Inputs]) -> None:
    model = voice()
    result = full_rank(model, data)
    check(model, result, [sample | {"unread": np.zeros((1, 1), np.float32)} for sample in samples])
    assert not result.report.warnings
    # Samples of one rate share a run, so that the outputs are compared in batches.
    low = result.report.outputs["state_out"].centred_low
    assert low is not None


def test_samples_of_two_rates_do_not_share_a_run() -> None:
    samples = voices(COUNT, (16000, 8000, 8000))
    check_voice(stacked(samples), samples)
    specs = with_axes(voice(), inputs(voice()))
    source = open_source(stacked(samples), specs, preprocess=PRESETS["raw"], count=99, seed=0, on_warning=ignore)
    rates = [int(source.feeds([row])["rate"]) for row in range(COUNT)]
    groups = source.groups.tolist()  # type: ignore[attr-defined]
    assert all((groups[i] == groups[j]) == (rates[i] == rates[j]) for i in range(COUNT) for j in range(COUNT))


@pytest.mark.parametrize("samples", ["batch", 1])
def test_nothing_is_needed_to_make_up_states_and_rates(samples: int | str) -> None:
    result = full_rank(voice(samples), None, images=COUNT)
    assert result.report.outputs["score"].samples == JUDGING
    assert "1 for 'rate'" in result.report.data["description"]


def test_a_model_with_states_is_timed(tmp_path: Path) -> None:
    onnx.save(voice(), str(tmp_path / "voice.onnx"))
    report = benchmark(
        [tmp_path / "voice.onnx"], settings=Settings(batches=(1, 3), threads=(1,), budget=Budget(rounds=2, seconds=0.1))
    )
    assert [measurement.batch for measurement in report.measurements] == [1, 3]
    benchmark(
        [tmp_path / "voice.onnx"], in_front(VOICES),
        settings=Settings(batches=(2,), threads=(1,), budget=Budget(rounds=2, seconds=0.1)),
    )  # fmt: skip


@pytest.mark.parametrize("flag", [(), (1,), (1, 1)])
@pytest.mark.parametrize("each", [False, True])
def test_a_flag_is_one_for_all_or_one_for_each(flag: tuple[int, ...], each: bool) -> None:
    gains = np.linspace(1, 2, COUNT, dtype=np.float32) if each else np.full(flag, 2, np.float32)
    model = flagged(flag)
    result = full_rank(model, {"x": IMAGES, "gain": gains})
    values = gains if each else np.full(COUNT, 2, np.float32)
    check(model, result, [{"x": x[None], "gain": np.full(flag, g)} for x, g in zip(IMAGES, values, strict=True)])


def test_what_fits_no_layout_is_named() -> None:
    arrays = in_front(VOICES)
    for changed, message in (
        ({"state": arrays["state"][:, :, :5]}, "'state' has shape 24x2x5, but input 'state' takes 2xNx6 (N samples)"),
        ({"state": arrays["state"][:7]}, "different numbers of samples for the inputs (audio: 24, state: 7, rate: 24)"),
        ({"rate": np.zeros(5, np.int64)}, "(audio: 24, state: 24, rate: 5)"),
    ):
        with pytest.raises(DataError) as refusal:
            full_rank(voice(), arrays | changed)
        assert message in str(refusal.value) and "\n" not in str(refusal.value)
    del arrays["state"]
    with pytest.raises(DataError, match="the model has the inputs audio, state, rate: use those names"):
        full_rank(voice(), arrays)


# ---- the dimension that counts samples


def axes(model: onnx.ModelProto) -> dict[str, int | None]:
    return {spec.name: spec.axis for spec in with_axes(model, inputs(model))}


def fused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make the first convolution one of ONNX Runtime's own, of which ONNX knows nothing."""
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    first.op_type, first.domain = "FusedConv", "com.microsoft"
    model.opset_import.add(domain=first.domain, version=1)
    return model


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (plain(), {"x": 0}),
        (detector(), {"image": None}),
        (detector((10, 12, 3), last=True), {"image": None}),
        (detector((None, None, 3), last=True), {"image": None}),
        (time_major("T", "N"), {"x": 1}),
        (time_major("length", "who"), {"x": 1}),
        (time_major(None, None), {"x": 1}),
        (time_major(24, 1), {"x": 1}),
        (fused(time_major(24, 1)), {"x": 1}),
        (voice(), {"audio": 0, "state": 1, "rate": None, "unread": 0}),
        (voice("unk__12"), {"audio": 0, "state": 1, "rate": None, "unread": 0}),
        (voice(1), {"audio": 0, "state": 1, "rate": None, "unread": 0}),
        (voice(4), {"audio": 0, "state": 1, "rate": None, "unread": 0}),
        (flagged(), {"x": 0, "gain": None}),
        (traced("mixes"), {"x": 0}),
    ],
)
def test_the_dimension_of_the_samples_is_found(model: onnx.ModelProto, found: dict[str, int | None]) -> None:
    assert axes(model) == found
    assert all(spec.read == (spec.name != "unread") for spec in with_axes(model, inputs(model)))


def test_without_convolutions_names_and_sizes_tell() -> None:
    def found(*shapes: tuple[Any, ...]) -> list[int | None]:
        values = [helper.make_tensor_value_info(f"i{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)]
        nodes = [relu(value.name, f"o{value.name}") for value in values]
        model = helper.make_model(helper.make_graph(nodes, "net", values, []))
        return [spec.axis for spec in with_axes(model, inputs(model))]

    assert found(("N", 512), (2, "N", 64), (), (1,)) == [0, 1, None, None]
    assert found(("unk__1", 5), ("unk__2", 6), (1,)) == [0, 0, None]
    assert found((1, 512), (2, 1, 64), (5,), ()) == [0, 1, None, None]
    assert found((4, 3), (4, 2)) == [0, 0]
    assert found(("N", "T", 80), ("T",), ("N",)) == [0, None, 0]


@settings(deadline=None, max_examples=60)
@given(
    rank=st.integers(1, 4),
    axis=st.integers(0, 3) | st.none(),
    name=st.sampled_from(["N", "batch", "batch_size", "unk__3", "anything", 1, 2]),
)
def test_the_dimension_is_found_wherever_it_is(rank: int, axis: int | None, name: int | str) -> None:
    """A second input, whose samples lie along any dimension, is added to what the convolution makes of the first."""
    axis = None if axis is None else axis % rank
    shape: list[Any] = [5, 7, 3, 4][:rank]
    if axis is not None:
        shape[axis] = name
    nodes = [conv("c", "x", "w", "y"), relu("other", "z")]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [name, 3, 8, 8]),
         helper.make_tensor_value_info("other", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
         helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weights(1, 4, 3, 3, 3), "w")],
    )  # fmt: skip
    assert axes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])) == {"x": 0, "other": axis}


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_every_layout_of_every_input_gives_the_same_runs(data: st.DataObject) -> None:
    """Any number of inputs, each with its samples along any dimension and stored in any way."""
    count = data.draw(st.integers(3, 6))
    specs, stored, runs = [], {}, {}
    for number in range(data.draw(st.integers(1, 3))):
        sample = tuple(data.draw(st.lists(st.sampled_from([7, 8, 9]), max_size=3)))
        # Some input says how many samples there are.
        axis = data.draw(st.sampled_from([*range(len(sample) + 1), *([None] if number else [])]))
        values = np.arange(count * int(np.prod(sample)), dtype=np.float32).reshape(count, *sample) + number
        name = f"input{number}"
        run = [value if axis is None else np.expand_dims(value, axis) for value in values]
        declared: tuple[int | str, ...] = sample if axis is None else (*sample[:axis], "N", *sample[axis:])
        specs.append(TensorSpec(name, np.dtype(np.float32), declared, axis))
        options = [values, np.stack(run)]
        if axis is not None:
            options.append(np.moveaxis(values, 0, axis))
        stored[name], runs[name] = data.draw(st.sampled_from(options)), run
    source = open_source(stored, tuple(specs), preprocess=PRESETS["raw"], count=count, seed=1, on_warning=ignore)
    assert len(source) == count
    order = [int(feed[specs[0].name].reshape(-1)[0]) for feed in (source.feeds([row]) for row in range(count))]
    rows = [next(i for i in range(count) if runs[specs[0].name][i].reshape(-1)[0] == first) for first in order]
    for row, original in enumerate(rows):
        for name, value in source.feeds([row]).items():
            np.testing.assert_array_equal(value, runs[name][original])
            assert value.flags.c_contiguous
    together: Feeds = source.feeds([0, 1])
    for spec in specs:
        if spec.axis is not None:
            assert together[spec.name].shape[spec.axis] == 2
            assert samples_first(spec).shape == ("N", *runs[spec.name][0].squeeze(spec.axis).shape)


@pytest.mark.parametrize(("sizes", "front"), [(("T", "N"), False), ((None, None), False), ((20, 1), True)])
def test_time_may_come_first(sizes: tuple[Any, Any], front: bool) -> None:
    x = photo(7, (COUNT, 20, 16))
    model = time_major(*sizes)
    result = full_rank(model, x if front else x.transpose(1, 0, 2))
    check(model, result, [{"x": sample[:, None]} for sample in x])
