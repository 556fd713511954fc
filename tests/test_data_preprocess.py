"""Presets, overrides and layouts, applied to known pixels."""

import numpy as np
import pytest

from onnx_lowrank.data.photos.image_input import image_input
from onnx_lowrank.data.photos.preprocess import PRESETS, Preprocess, parse
from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.interface import TensorSpec

Shape = tuple[int | str | None, ...]


def spec(*shape: int | str | None, dtype: type = np.float32) -> TensorSpec:
    return TensorSpec("x", np.dtype(dtype), shape)


PIXEL = np.array([[[[10, 100, 250]]]], np.uint8)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("imagenet", [(10 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (250 / 255 - 0.406) / 0.225]),
        ("caffe", [250 - 103.939, 100 - 116.779, 10 - 123.68]),
        ("unit", [10 / 255, 100 / 255, 250 / 255]),
        ("signed", [10 / 127.5 - 1, 100 / 127.5 - 1, 250 / 127.5 - 1]),
        ("raw", [10, 100, 250]),
        ("mean=127.5,scale=0.0078125,channels=bgr", [122.5 / 128, -27.5 / 128, -117.5 / 128]),
        ("mean=1/2/3", [9, 98, 247]),
        ("signed,channels=bgr", [250 / 127.5 - 1, 100 / 127.5 - 1, 10 / 127.5 - 1]),
    ],
)
@pytest.mark.parametrize("shape", [("N", 3, 1, 1), ("N", 1, 1, 3)])
def test_a_known_pixel_through_every_preset(preset: str, expected: list[float], shape: Shape) -> None:
    layout = ",layout=nhwc" if shape[-1] == 3 else ""  # 1×1×3: both ends could be the channels
    values = image_input(spec(*shape), parse(preset + layout)).normalise(PIXEL)
    assert values.shape == (1, *shape[1:]) and values.dtype == np.float32
    np.testing.assert_allclose(values.ravel(), expected, rtol=1e-5, atol=1e-5)


def test_integer_inputs_take_raw_pixels() -> None:
    values = image_input(spec(1, 3, 1, 1, dtype=np.uint8), parse("imagenet")).normalise(PIXEL)
    assert values.dtype == np.uint8 and values.ravel().tolist() == [10, 100, 250]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_inputs_get_their_dtype(dtype: type) -> None:
    values = image_input(spec(1, 3, 1, 1, dtype=dtype), parse("unit")).normalise(PIXEL)
    assert values.dtype == dtype
    np.testing.assert_allclose(values.ravel(), PIXEL.ravel() / 255, rtol=float(np.finfo(dtype).eps))


def test_gray_inputs_take_the_average_of_mean_and_scale() -> None:
    values = image_input(spec(1, 1, 1, 1), parse("caffe")).normalise(np.full((1, 1, 1, 1), 100, np.uint8))
    np.testing.assert_allclose(values.ravel(), [100 - (103.939 + 116.779 + 123.68) / 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "options", "layout", "channels", "size"),
    [
        (("N", 3, 224, 224), "imagenet", "nchw", 3, (224, 224)),
        (("N", 224, 192, 3), "imagenet", "nhwc", 3, (224, 192)),
        ((1, 28, 28, 1), "unit", "nhwc", 1, (28, 28)),
        ((1, 1, 28, 28), "unit", "nchw", 1, (28, 28)),
        ((None, None, None, None), "imagenet", "nchw", 3, (224, 224)),
        (("N", 3, "h", "w"), "imagenet", "nchw", 3, (224, 224)),
        (("N", 3, "h", 96), "imagenet", "nchw", 3, (224, 96)),
        (("N", 3, "h", "w"), "imagenet,crop=160", "nchw", 3, (160, 160)),
        (("N", 3, "h", "w"), "imagenet,resize=300x400,crop=none", "nchw", 3, (300, 400)),
        (("N", 3, "h", "w"), "imagenet,resize=232", "nchw", 3, (224, 224)),
        (("N", 3, 9, 3), "layout=nhwc", "nhwc", 3, (3, 9)),
        (("N", "h", "w", "c"), "layout=nhwc,channels=gray", "nhwc", 1, (224, 224)),
    ],
)
def test_layout_channels_and_size(shape: Shape, options: str, layout: str, channels: int, size: object) -> None:
    target = image_input(spec(*shape), parse(options))
    assert (target.layout, target.channels, target.size) == (layout, channels, size)


def test_an_input_of_unknown_rank_takes_images() -> None:
    assert image_input(TensorSpec("x", np.dtype(np.float32), None), PRESETS["unit"]).size == (224, 224)


@pytest.mark.parametrize("shape", [(1, 10), (1, 64, 56, 56), (1, 3, 8, 224, 224)])
def test_inputs_that_are_no_images_are_refused(shape: Shape) -> None:
    with pytest.raises(DataError, match=r"does not take images.*\.npz"):
        image_input(spec(*shape), PRESETS["unit"])


@pytest.mark.parametrize(
    "options", ["crop=200", "resize=200", "resize=200x300", "crop=none,resize=256", "crop=none,resize=256x256"]
)
def test_options_that_contradict_a_static_input_are_refused(options: str) -> None:
    with pytest.raises(UsageError, match=r"--preprocess: (crop|resize)=\d+(x\d+)?[ ,]"):
        image_input(spec(1, 3, 224, 224), parse(options))


def test_gray_for_a_colour_input_is_refused() -> None:
    with pytest.raises(UsageError, match="has 3 channels"):
        image_input(spec(1, 3, 8, 8), parse("channels=gray"))


def test_overrides_start_from_the_preset() -> None:
    preprocess = parse("imagenet, resize=232 ,crop=224,interpolation=bicubic")
    assert (preprocess.resize, preprocess.crop, preprocess.interpolation) == (232, (224, 224), "bicubic")
    assert (preprocess.mean, preprocess.scale) == (PRESETS["imagenet"].mean, PRESETS["imagenet"].scale)
    assert preprocess.preset == "imagenet,resize=232,crop=224,interpolation=bicubic"


def test_overrides_alone_start_from_imagenet_unless_they_set_the_map() -> None:
    assert parse("crop=none").scale == PRESETS["imagenet"].scale
    assert parse("mean=103.9/116.8/123.7") == Preprocess("raw,mean=103.9/116.8/123.7", (103.9, 116.8, 123.7), (1.0,))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_parse_to_themselves(name: str) -> None:
    assert parse(name) == parse(name.upper()) == PRESETS[name]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("torchvision", "imagenet, caffe, unit, signed, raw"),
        ("", "imagenet, caffe"),
        ("imagenet,std=3", "mean, scale, channels, resize, crop, interpolation, layout"),
        ("imagenet,crop", "KEY=VALUE"),
        ("crop=-3", "HEIGHTxWIDTH"),
        ("crop=0", "HEIGHTxWIDTH"),
        ("crop=1x2x3", "HEIGHTxWIDTH"),
        ("mean=1/2", "one number or three"),
        ("mean=nan", "one number or three"),
        ("scale=0", "other than 0"),
        ("channels=rbg", "rgb, bgr, gray"),
        ("interpolation=cubic", "nearest, box, bilinear, bicubic, lanczos"),
        ("layout=chw", "nchw, nhwc"),
    ],
)
def test_an_unknown_value_is_refused_with_the_valid_ones(text: str, valid: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(text)
    assert valid in str(refusal.value) and "\n" not in str(refusal.value)
