"""The preprocessing of a photo into a model's input: size, channel order and the affine map of the pixels.

    value = (pixel − mean) · scale,   pixel in 0..255, mean and scale per channel in the model's own channel order

With ``resize`` and ``crop`` at "auto", a photo that already has the input's size goes through untouched, whatever the
preset. Any other photo is resized so that it covers 256/224 of the input's size, with its aspect ratio kept, and its
centre is cut out: for a 224×224 input the shorter side becomes 256 and the crop is 224, as in torchvision.

Where the model leaves a side open, "resize=none,crop=none" lets every photo keep its own size there, and "crop=none"
with a shorter side its aspect ratio.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from onnx_lowrank.errors import UsageError

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""
OpenSize: TypeAlias = tuple[int | None, int | None]
"""Height and width in pixels; None where a photo keeps its own."""
Channels: TypeAlias = Literal["rgb", "bgr", "gray"]
Layout: TypeAlias = Literal["nchw", "nhwc"]
Interpolation: TypeAlias = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
Auto: TypeAlias = Literal["auto"]


@dataclass(frozen=True)
class Preprocess:
    """A way from a photo's pixels to a model's input.

    Attributes
    ----------
    preset
        The name in reports: the preset with the overrides that were given.
    mean, scale
        The affine map, one value or three, in the channel order of the model. A one-channel input takes the average.
    channels
        The channel order of the model's input. A one-channel input is gray in any case.
    resize
        The shorter side, or the exact height and width, to resample to; None: the photo is never resampled; "auto":
        as the module describes.
    crop
        The size of the centre crop; None: the photo is not cropped, and "auto" resizing stretches it to the input's
        size; "auto": the input's height and width, or 224×224 if the model leaves them open.
    interpolation
        The resampling filter (Pillow's, antialiased).
    layout
        The layout of the model's input; None: it follows from the input's shape.
    """

    preset: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    channels: Channels = "rgb"
    resize: int | Size | Auto | None = "auto"
    crop: Size | Auto | None = "auto"
    interpolation: Interpolation = "bilinear"
    layout: Layout | None = None

    @property
    def automatic(self) -> bool:
        """Whether mean, scale and channel order are still to be chosen; until then they are those of a default."""
        return self.preset.split(",")[0] == AUTOMATIC

    @property
    def settled(self) -> "Preprocess":
        """The same under the name of the default, where mean, scale and channel order are still to be chosen."""
        _, *others = self.preset.split(",")
        return replace(self, preset=",".join(["imagenet", *others])) if self.automatic else self


AUTOMATIC = "auto"
"""The preset that the samples and the network decide."""

PRESETS: dict[str, Preprocess] = {
    "imagenet": Preprocess(
        "imagenet",
        mean=(255 * 0.485, 255 * 0.456, 255 * 0.406),
        scale=(1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)),
    ),
    "caffe": Preprocess("caffe", mean=(103.939, 116.779, 123.68), scale=(1.0,), channels="bgr"),
    "unit": Preprocess("unit", mean=(0.0,), scale=(1 / 255,)),
    "signed": Preprocess("signed", mean=(127.5,), scale=(1 / 127.5,)),
    "raw": Preprocess("raw", mean=(0.0,), scale=(1.0,)),
}
"""In this order: torchvision; the original VGG and ResNet; 0..1; -1..1 (TensorFlow, Keras Inception); 0..255."""

_KEYS = ("mean", "scale", "channels", "resize", "crop", "interpolation", "layout")


def parse(text: str) -> Preprocess:
    """Read the value of ``--preprocess``.

    Parameters
    ----------
    text
        A preset's name or "auto", overrides, or both, joined by commas: "imagenet,resize=232,crop=224", "crop=none",
        "mean=103.9/116.8/123.7,scale=0.017,channels=bgr", "resize=256x320". Without a preset the overrides start
        from "raw" if they set the mean or the scale, else from "imagenet".

    Returns
    -------
    Preprocess
        The preset with the overrides.

    Raises
    ------
    UsageError
        If a preset, key or value is unknown; the text lists the valid ones.
    """
    first, *others = [part.strip() for part in text.split(",")]
    if "=" in first:
        first, others = "", [first, *others]
    elif first.lower() not in (*PRESETS, AUTOMATIC):
        raise UsageError(
            f"--preprocess: there is no preset {first!r}; the presets are {', '.join(PRESETS)}, or auto to choose one"
        )
    settings: dict[str, Any] = {}
    for part in others:
        key, equals, value = (piece.strip().lower() for piece in part.partition("="))
        if not equals or key not in _KEYS:
            raise UsageError(f"--preprocess: {part!r} is not KEY=VALUE; the keys are {', '.join(_KEYS)}")
        settings[key] = _value(key, value)
    base = first.lower() or ("raw" if {"mean", "scale"} & settings.keys() else "imagenet")
    if base == AUTOMATIC and (fixed := {"mean", "scale", "channels"} & settings.keys()):
        raise UsageError(f"--preprocess: auto chooses {', '.join(sorted(fixed))}: name a preset, or leave them out")
    return replace(PRESETS.get(base, PRESETS["imagenet"]), preset=",".join([base, *others]), **settings)


def _value(key: str, text: str) -> object:
    if key in ("mean", "scale"):
        return _numbers(key, text)
    if key == "crop":
        size = _size(key, text)
        return (size, size) if isinstance(size, int) else size
    if key == "resize":
        return _size(key, text)
    if key == "layout" and text in ("auto", "none"):
        return None
    valid = get_args({"channels": Channels, "interpolation": Interpolation, "layout": Layout}[key])
    if text not in valid:
        raise UsageError(f"--preprocess: {key}={text} is unknown; the valid values are {', '.join(valid)}")
    return text


def _numbers(key: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(piece) for piece in text.split("/"))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(math.isfinite(value) for value in values):
        raise UsageError(f"--preprocess: {key}={text} is not one number or three; write three as 103.9/116.8/123.7")
    if key == "scale" and 0 in values:
        raise UsageError(f"--preprocess: scale={text} would make every input the same; give numbers other than 0")
    return values


def _size(key: str, text: str) -> int | Size | Auto | None:
    if text == "none":
        return None
    if text == "auto":
        return "auto"
    pieces = text.split("x")
    if len(pieces) > 2 or not all(piece.isdecimal() and int(piece) > 0 for piece in pieces):
        raise UsageError(f"--preprocess: {key}={text} is not a size; give pixels (224), HEIGHTxWIDTH, none or auto")
    sides = [int(piece) for piece in pieces]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
