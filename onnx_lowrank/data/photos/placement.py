"""Where the pixels of a photo come to lie in an input: the size to which it is resampled, and what is cut out."""

from dataclasses import dataclass

from onnx_lowrank.data.photos.preprocess import OpenSize, Preprocess, Size


@dataclass(frozen=True)
class Placement:
    """The way from a photo to an input.

    Attributes
    ----------
    resized
        The height and width to which the photo is resampled.
    top, left
        The corner of what is then cut out.
    size
        The height and width of the input.
    """

    resized: Size
    top: int
    left: int
    size: Size


def placement(actual: Size, wanted: OpenSize, preprocess: Preprocess) -> Placement:
    """Place a photo of this height and width, as :mod:`~onnx_lowrank.data.photos.preprocess` describes.

    Raises
    ------
    ValueError
        If the options forbid the resampling that this photo would need. The text is only the reason.
    """
    height, width = wanted
    if height is None or width is None:
        own = _own_size(actual, preprocess)
        size: Size = (own[0] if height is None else height, own[1] if width is None else width)
        resized = own
    else:
        size = (height, width)
        resized = _resized(actual, size, preprocess)
    if resized[0] < size[0] or resized[1] < size[1] or (preprocess.crop is None and resized != size):
        sides = "x".join("?" if side is None else str(side) for side in wanted)
        cause = "resize=none forbids resampling"
        if preprocess.resize is not None:
            cause = f"resize={preprocess.resize} makes it {resized[0]}x{resized[1]}"
        raise ValueError(f"it is {actual[0]}x{actual[1]}, not {sides}, and {cause}")
    top, left = (
        round((side - cropped) / 2) for side, cropped in zip(resized, size, strict=True)
    )  # as torchvision rounds
    return Placement(resized, top, left, size)


def _own_size(actual: Size, preprocess: Preprocess) -> Size:
    """Return the size of a photo that keeps its own, or its aspect ratio."""
    shorter = preprocess.resize
    return _cover(actual, (shorter, shorter)) if isinstance(shorter, int) else actual


def _resized(actual: Size, size: Size, preprocess: Preprocess) -> Size:
    """Return the size to resample to before the crop."""
    resize = preprocess.resize
    if resize is None:
        return actual
    if isinstance(resize, tuple):
        return resize
    if isinstance(resize, int):
        covering = _cover(actual, (resize, resize))
        # An elongated input may need more than the given shorter side.
        return covering if covering[0] >= size[0] and covering[1] >= size[1] else _cover(actual, size)
    if actual == size or preprocess.crop is None:
        return size
    return _cover(actual, (round(size[0] * 256 / 224), round(size[1] * 256 / 224)))


def _cover(actual: Size, target: Size) -> Size:
    """Return the smallest size with the aspect ratio of ``actual`` that covers ``target``."""
    height, width = actual
    if target[0] * width >= target[1] * height:
        return target[0], max(target[1], width * target[0] // height)
    return max(target[0], height * target[1] // width), target[1]
