"""Made-up samples: their statistics, their seeds, and the inputs for which none are made up."""

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.preprocess import PRESETS
from onnx_lowrank.data.source import Source
from onnx_lowrank.data.synthetic.scenes import power_law_noise, synthetic_image
from onnx_lowrank.data.synthetic.source import open_synthetic
from onnx_lowrank.data.synthetic.strokes import strokes_image
from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.interface import TensorSpec


def spec(*shape: int | str | None, name: str = "x", dtype: type = np.float32) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


def opened(*specs: TensorSpec, count: int = 3, seed: int = 0, preset: str = "raw") -> Source:
    return open_source(None, specs, preprocess=PRESETS[preset], count=count, seed=seed, on_warning=_fail)


def _fail(text: str) -> None:
    raise AssertionError(text)


def power_slope(gray: NDArray[np.floating]) -> float:
    """Fit the slope of log power over log frequency, averaged over directions; a window removes the edges' cross."""
    side = len(gray)
    window = np.hanning(side)[:, None] * np.hanning(side)
    power = np.abs(np.fft.fft2((gray - gray.mean()) * window)) ** 2
    ring = np.round(side * np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))).astype(int).ravel()
    radial = np.bincount(ring, power.ravel()) / np.bincount(ring)
    rings = np.arange(3, side // 4)
    return float(np.polyfit(np.log(rings), np.log(radial[rings]), 1)[0])


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.stack([synthetic_image(0, index, 160, 160) for index in range(40)])


def test_power_falls_with_the_square_of_the_frequency(images: NDArray[np.uint8]) -> None:
    slopes = [power_slope(image.mean(axis=2)) for image in images]
    assert -2.8 < np.mean(slopes) < -1.2
    assert all(-3.3 < slope < -0.8 for slope in slopes)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_noise_has_the_given_exponent(exponent: float) -> None:
    noise = power_law_noise(np.random.default_rng(0), 8, 128, 128, exponent)
    assert np.mean([power_slope(field) for field in noise]) == pytest.approx(-exponent, abs=0.2)
    np.testing.assert_allclose(noise.std(axis=(1, 2)), 1, rtol=1e-4)


def test_brightness_and_contrast_are_those_of_photos(images: NDArray[np.uint8]) -> None:
    pixels = images.reshape(-1, 3) / 255
    assert (abs(pixels.mean(axis=0) - (0.485, 0.456, 0.406)) < 0.08).all()
    assert (abs(pixels.std(axis=0) - 0.226) < 0.06).all()


def test_the_colours_are_mostly_luminance(images: NDArray[np.uint8]) -> None:
    correlation: NDArray[np.float64] = np.asarray(np.corrcoef(images.reshape(-1, 3).T))
    assert correlation[np.triu_indices(3, 1)].min() > 0.7


def test_neighbours_differ_little_mostly_and_much_at_times(images: NDArray[np.uint8]) -> None:
    difference = np.diff(images.mean(axis=3), axis=2)
    centred = difference - difference.mean()
    assert (centred**4).mean() / (centred**2).mean() ** 2 > 6  # kurtosis; 3 for Gaussian noise


def test_images_depend_on_seed_and_number_alone() -> None:
    first = synthetic_image(1, 2, 40, 30)
    assert first.shape == (40, 30, 3)
    np.testing.assert_array_equal(first, synthetic_image(1, 2, 40, 30))
    assert not np.array_equal(first, synthetic_image(1, 3, 40, 30))
    assert not np.array_equal(first, synthetic_image(2, 2, 40, 30))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (28, 28), (7, 64)])
def test_any_size_works(size: tuple[int, int]) -> None:
    assert synthetic_image(0, 0, *size).shape == (*size, 3)


def test_samples_do_not_depend_on_the_count_or_the_batch_or_the_memory() -> None:
    few, many = opened(spec("N", 3, 16, 16), count=3), opened(spec("N", 3, 16, 16), count=6)
    np.testing.assert_array_equal(few.feeds([2])["x"], many.feeds([5, 2])["x"][1:])
    remade = open_synthetic((spec("N", 3, 16, 16),), PRESETS["raw"], 3, 0, keep_bytes=10)
    np.testing.assert_array_equal(remade.feeds([2])["x"], few.feeds([2])["x"])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("N", 3, 16, 20), (2, 3, 16, 20)),
        (("N", 16, 20, 3), (2, 16, 20, 3)),
        (("N", 1, 16, 20), (2, 1, 16, 20)),
        (("N", 4, 16, 20), (2, 4, 16, 20)),
        (("N", 3, "h", "w"), (2, 3, 224, 224)),
    ],
)
def test_images_take_the_input_s_shape(shape: tuple[int | str, ...], expected: tuple[int, ...]) -> None:
    source = opened(spec(*shape))
    values = source.feeds([0, 1])["x"]
    assert values.shape == expected and values.dtype == np.float32 and values.std() > 10
    assert source.synthetic and isinstance(source, Source)
    scenes = "pen strokes, dead leaves and 1/f noise" if 1 in expected else "dead leaves and 1/f noise"
    assert source.description == f"3 synthetic images ({scenes}, preset raw)"


def test_one_channel_sees_writing_on_either_ground() -> None:
    images = np.stack([strokes_image(0, index, 28, 28) for index in range(40)]).astype(np.float32)
    ground = np.median(images, axis=(1, 2))
    assert {bool(value > 128) for value in ground} == {True, False}
    # A plain ground and ink on less than half of it, but on every image.
    ink = (np.abs(images - ground[:, None, None]) > 60).mean(axis=(1, 2))
    assert (ink > 0.005).all() and (ink < 0.5).all()
    np.testing.assert_array_equal(strokes_image(3, 5, 40, 30), strokes_image(3, 5, 40, 30))
    assert strokes_image(3, 5, 40, 130).shape == (40, 130)


def test_images_go_through_the_preprocessing() -> None:
    raw = opened(spec("N", 3, 16, 16)).feeds([0])["x"]
    caffe = opened(spec("N", 3, 16, 16), preset="caffe").feeds([0])["x"]
    mean = np.array([103.939, 116.779, 123.68], np.float32)[:, None, None]
    np.testing.assert_allclose(caffe[0], raw[0, ::-1] - mean, atol=1e-4)
    assert opened(spec("N", 3, 16, 16, dtype=np.uint8), preset="caffe").feeds([0])["x"].dtype == np.uint8


def test_other_inputs_get_noise_and_the_description_says_so() -> None:
    source = opened(spec("N", 3, 8, 8), spec("N", 500, name="features", dtype=np.float64), count=30)
    feeds = source.feeds(range(30))
    assert feeds["x"].shape == (30, 3, 8, 8)
    assert feeds["features"].dtype == np.float64
    assert abs(feeds["features"].mean()) < 0.05 and abs(feeds["features"].std() - 1) < 0.05
    np.testing.assert_array_equal(source.feeds([7])["features"], feeds["features"][7:8])
    assert "30 samples of standard normal noise for 'features'" in source.description


@pytest.mark.parametrize(
    "bad", [spec("N", 12, dtype=np.int64), spec("N", "length"), TensorSpec("x", np.dtype(np.float32), None)]
)
def test_nothing_is_made_up_for_integers_and_open_shapes(bad: TensorSpec) -> None:
    with pytest.raises(DataError, match="no data can be made up for input 'x'"):
        opened(bad)


def test_counts_without_meaning_are_refused() -> None:
    with pytest.raises(UsageError, match="0 calibration samples"):
        opened(spec("N", 3, 8, 8), count=0)
