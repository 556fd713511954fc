"""The sampled output positions, and the patches under them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import correlate2d

from onnx_lowrank.calibration.positions import draw_positions, gather_patches, gather_points


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    kernel, strides, dilations = pair(1, 4), pair(1, 3), pair(1, 3)
    pads = (*pair(0, 4), *pair(0, 4))
    reach = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    extra = pair(0, 6)
    height = max(1, reach[0] - pads[0] - pads[2]) + extra[0]
    width = max(1, reach[1] - pads[1] - pads[3]) + extra[1]
    outputs = (
        (height + pads[0] + pads[2] - reach[0]) // strides[0] + 1,
        (width + pads[1] + pads[3] - reach[1]) // strides[1] + 1,
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((draw(st.integers(1, 3)), draw(st.integers(1, 4)), height, width)).astype(np.float32)
    return {"x": x, "kernel": kernel, "strides": strides, "dilations": dilations, "pads": pads, "outputs": outputs}


def dense_convolution(x: NDArray[Any], kernel: NDArray[Any], conv: dict[str, Any]) -> NDArray[np.float64]:
    """Compute the whole output with SciPy: pad, correlate with the dilated kernel, keep every stride-th response."""
    (top, left, bottom, right), (eh, ew), (sh, sw) = conv["pads"], conv["dilations"], conv["strides"]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    d, c, kh, kw = kernel.shape
    spread = np.zeros((d, c, (kh - 1) * eh + 1, (kw - 1) * ew + 1))
    spread[:, :, ::eh, ::ew] = kernel
    planes = [
        [[correlate2d(image[i], spread[o, i], mode="valid") for i in range(c)] for o in range(d)] for image in padded
    ]
    output: NDArray[np.float64] = np.sum(planes, axis=2)[:, :, ::sh, ::sw]
    return output


@settings(deadline=None, max_examples=60)
@given(conv=convolutions(), seed=st.integers(0, 1000))
def test_patches_times_kernel_is_the_convolution(conv: dict[str, Any], seed: int) -> None:
    x, (height, width) = conv["x"], conv["outputs"]
    positions = draw_positions(seed, "site", 0, (height, width), 5)
    kernel = np.random.default_rng(seed).standard_normal((2, x.shape[1], *conv["kernel"])).astype(np.float32)
    geometry = (conv["kernel"], conv["strides"], conv["dilations"], conv["pads"])
    patches = gather_patches(x, positions, *geometry)
    points = gather_points(dense_convolution(x, kernel, conv).astype(np.float32), positions)
    response = patches.reshape(len(patches), -1) @ kernel.reshape(2, -1).T
    np.testing.assert_allclose(response, points, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(conv=convolutions())
def test_patches_equal_a_plain_loop(conv: dict[str, Any]) -> None:
    x, (height, width), (kh, kw) = conv["x"], conv["outputs"], conv["kernel"]
    positions = draw_positions(0, "site", 0, (height, width), height * width)
    expected = np.zeros((len(x), len(positions), x.shape[1], kh, kw), np.float32)
    for n, p, i, j in np.ndindex(len(x), len(positions), kh, kw):
        u, v = divmod(positions[p], width)
        row = u * conv["strides"][0] - conv["pads"][0] + i * conv["dilations"][0]
        column = v * conv["strides"][1] - conv["pads"][1] + j * conv["dilations"][1]
        if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
            expected[n, p, :, i, j] = x[n, :, row, column]
    geometry = (conv["kernel"], conv["strides"], conv["dilations"], conv["pads"])
    patches = gather_patches(x, positions, *geometry)
    assert patches.flags.c_contiguous
    np.testing.assert_array_equal(patches, expected.reshape(patches.shape))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_become_single(dtype: type) -> None:
    x: NDArray[Any] = np.arange(32).astype(dtype).reshape(1, 2, 4, 4)
    patches = gather_patches(x, np.array([6]), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
    assert patches.dtype == np.float32
    assert patches.ravel().tolist() == [6, 22]


def test_layouts_in_memory_do_not_matter() -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 6, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    first, second = (
        gather_patches(array, np.array([5, 13]), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
        for array in (x, np.ascontiguousarray(x))
    )
    np.testing.assert_array_equal(first, second)


def test_padding_is_zero_whatever_the_border_holds() -> None:
    x = np.full((1, 1, 2, 2), np.nan, np.float32)
    patch = gather_patches(x, np.array([0]), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))[0, 0]
    assert not patch[0].any() and not patch[:, 0].any() and np.isnan(patch[1:, 1:]).all()


def test_a_position_outside_the_output_is_refused() -> None:
    x = np.zeros((1, 1, 4, 4), np.float32)
    with pytest.raises(ValueError, match=r"16\.\.16 lie outside the 16 outputs"):
        gather_patches(x, np.array([16]), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))


@settings(deadline=None)
@given(st.integers(0, 100), st.text(max_size=5), st.integers(0, 9), st.integers(1, 20), st.integers(1, 20))
def test_positions_are_distinct_inside_and_repeatable(
    seed: int, name: str, batch: int, height: int, width: int
) -> None:
    positions = draw_positions(seed, name, batch, (height, width), 30)
    assert positions.shape == (min(30, height * width),)
    assert len(set(positions.tolist())) == len(positions)
    assert (positions >= 0).all() and (positions < height * width).all()
    np.testing.assert_array_equal(positions, draw_positions(seed, name, batch, (height, width), 30))


def test_seed_name_and_batch_all_change_the_positions() -> None:
    arguments = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    assert len({draw_positions(*argument, (50, 50), 20).tobytes() for argument in arguments}) == 4
