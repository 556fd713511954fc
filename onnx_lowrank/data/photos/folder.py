"""Photos as calibration samples: listed, drawn, each decoded once in advance, then served.

Decoding all drawn photos at the start costs milliseconds per image and reveals the damaged files before hours of work.
The decoded pixels are kept if they fit a limit; otherwise the photos are decoded again for each batch.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.arranged import samples_first
from onnx_lowrank.data.draw import Draw
from onnx_lowrank.data.messages import counted, plural, some
from onnx_lowrank.data.photos.decode import decode
from onnx_lowrank.data.photos.image_input import KEEP_BYTES, ImageInput, image_input
from onnx_lowrank.data.photos.kept import KeptPixels
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec

_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".png", ".apng", ".bmp", ".dib", ".webp", ".avif", ".gif"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".mpo"),
    )
)
"""The common endings of what Pillow reads; whether it reads AVIF and JPEG 2000 depends on how it was built."""

_HIDDEN = ("thumbs.db", "desktop.ini")
"""Files that Windows keeps in folders of photos, and hides."""

_BROKEN_SHARE = 0.05
"""More damaged photos than this share of those drawn (or than one) mean that something is wrong with the data."""

_CHUNK = 64
"""Photos decoded together, so that a folder too large to keep is never in memory as a whole."""


@dataclass(frozen=True)
class ImageSource:
    """Photos as a :class:`~onnx_lowrank.data.source.Source`.

    Attributes
    ----------
    files
        The photos, in order; each has been decoded once.
    target
        The model's input.
    preprocess
        How photos become inputs.
    kept
        The pixels of all photos, shape [n, height, width, channels], or a list of n such arrays where each photo keeps
        its size; None if they take too much memory.
    origin
        The number of photos and where they come from.
    sizes
        The height and width of every photo, shape [n, 2], where they differ.
    synthetic
        Whether the samples are made up.
    """

    files: tuple[Path, ...]
    target: ImageInput
    preprocess: Preprocess
    kept: NDArray[np.uint8] | list[NDArray[np.uint8]] | None
    origin: str
    sizes: NDArray[np.int64] | None = None
    synthetic: bool = False

    @property
    def description(self) -> str:
        """Describes the samples in the report."""
        return f"{self.origin} (preset {self.preprocess.preset})"

    def under(self, preprocess: Preprocess) -> "ImageSource":
        """Return the same photos under another preset that shares the sizes and the interpolation."""
        return replace(self, target=image_input(self.target.spec, preprocess), preprocess=preprocess)

    @property
    def groups(self) -> NDArray[np.int64]:
        """See ``source.groups``."""
        if self.sizes is None:
            return np.zeros(len(self.files), np.int64)
        return np.unique(self.sizes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @property
    def elements(self) -> NDArray[np.int64]:
        """See ``source.elements``."""
        return np.ones(len(self.files), np.int64) if self.sizes is None else self.sizes.prod(axis=1)

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.files)

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """Return one batch of photos.

        Raises
        ------
        DataError
            If a photo that could be read at the start can no longer be read.
        """
        if isinstance(self.kept, np.ndarray):
            pixels = self.kept[np.asarray(indices, np.int64)]
        elif self.kept is not None:
            pixels = np.stack([self.kept[index] for index in indices])
        else:
            pixels = np.stack([self._decode(self.files[index]) for index in indices])
        return {self.target.spec.name: self.target.normalise(pixels)}

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        try:
            return decode(path, self.target.channels, self.target.size, self.preprocess)
        except ValueError as error:
            raise DataError(f"{path} changed or vanished during the run ({error}): start again") from error


def list_files(folder: Path) -> list[Path]:
    """List all files under a folder in sorted order, without hidden ones (``._photo.jpg`` on macOS is no photo)."""
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        files += [Path(parent, name) for name in names if not name.startswith(".") and name.lower() not in _HIDDEN]
    return sorted(files, key=lambda path: path.relative_to(folder).parts)


def left_out(folder: Path, files: Sequence[Path], taken: Sequence[Path]) -> str | None:
    """Return a line on the files of a folder that are no samples, with the reason; None where all are taken.

    Parameters
    ----------
    folder
        The folder.
    files, taken
        What is in it, and what of that is read.
    """
    others = set(files) - set(taken)
    dead = sorted(path.name for path in others if not path.exists())
    endings = Counter(path.suffix.lower() or "no ending" for path in others if path.exists())
    reasons = [f"{some(dead)} (a link that leads nowhere)"] if dead else []
    if endings:
        kinds = ", ".join(f"{count} with {ending}" for ending, count in sorted(endings.items())[:6])
        more = ", …" if len(endings) > 6 else ""
        reasons.append(f"{kinds}{more} (not an ending of the samples; save photos as .jpg or .png)")
    return f"{plural(len(others), 'file')} in {folder} left out: {'; '.join(reasons)}" if reasons else None


def is_image(path: Path) -> bool:
    """Whether the file has the name of a photo; a link that leads nowhere is none."""
    return path.suffix.lower() in _SUFFIXES and path.exists()


def open_images(
    files: Sequence[Path],
    origin: Path,
    specs: tuple[TensorSpec, ...],
    preprocess: Preprocess,
    draw: Draw,
    keep_bytes: int = KEEP_BYTES,
) -> tuple[ImageSource, NDArray[np.int64]]:
    """Draw photos and decode each of them once.

    Parameters
    ----------
    files
        All photos, sorted.
    origin
        The folder that they come from, for messages.
    specs
        The model's inputs.
    preprocess
        How photos become inputs.
    draw
        How many photos are drawn, and in which order. Its ``warn`` receives a line for each damaged one.
    keep_bytes
        The largest size of all decoded pixels that are kept in memory.

    Returns
    -------
    tuple[ImageSource, NDArray[np.int64]]
        The readable photos that were drawn, and the place of each in ``files``, shape [n].

    Raises
    ------
    DataError
        If too many photos are damaged, or the input takes no photos.
    """
    target = _photo_target(specs, preprocess, origin)
    drawn = draw.indices(len(files))
    kept = KeptPixels(len(drawn), target, keep_bytes)
    readable: list[int] = []
    broken: list[str] = []
    for chunk in _decoded_chunks(files, drawn.tolist(), target, preprocess):
        for index, pixels in chunk:
            if isinstance(pixels, ValueError):
                broken.append(f"{files[index]} cannot be used ({pixels})")
                draw.warn(f"{broken[-1]}: left out")
                continue
            kept.add(pixels)
            readable.append(index)
        _check_damage(broken, len(readable) + len(broken), len(drawn), origin)
    source = ImageSource(
        files=tuple(files[index] for index in readable),
        target=target,
        preprocess=preprocess,
        kept=kept.pixels,
        origin=f"{counted(len(readable), len(files), 'image')} in {origin.name or origin}",
        sizes=kept.sizes,
    )
    return source, np.array(readable, np.int64)


def _photo_target(specs: tuple[TensorSpec, ...], preprocess: Preprocess, origin: Path) -> ImageInput:
    """Find the input that photos feed.

    Raises
    ------
    DataError
        If the model has several inputs, or one that takes no photos.
    """
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise DataError(
            f"{origin} holds images, but the model has {len(specs)} inputs ({names}): "
            "give an .npz with one array for each input"
        )
    spec = samples_first(specs[0])
    if spec.shape is not None and len(spec.shape) == 3 and spec.shape[0] == 1:  # [1, height, width] is a gray image
        spec = replace(spec, shape=(None, *spec.shape))
    target = image_input(spec, preprocess)
    if target.channels == 4:
        raise DataError(f"{origin} holds images, but input {specs[0].name!r} has 4 channels: give the data as .npz")
    return target


def _check_damage(broken: Sequence[str], tried: int, drawn: int, origin: Path) -> None:
    """Refuse the data if too many photos are broken, or all of them."""
    limit = max(1, int(_BROKEN_SHARE * drawn))
    if len(broken) > limit or len(broken) == drawn:
        raise DataError(
            f"{origin}: {len(broken)} of the first {tried} images cannot be used (at most {limit} of {drawn} are "
            f"left out): repair or remove them; the first: {broken[0]}"
        )


def _decoded_chunks(
    files: Sequence[Path], drawn: Sequence[int], target: ImageInput, preprocess: Preprocess
) -> Iterator[list[tuple[int, NDArray[np.uint8] | ValueError]]]:
    """Decode the drawn photos on several threads.

    Yields
    ------
    list[tuple[int, NDArray[np.uint8] | ValueError]]
        For each photo of the next chunk its place in ``files``, and its pixels or the reason why there are none.
    """

    def attempt(index: int) -> tuple[int, NDArray[np.uint8] | ValueError]:
        try:
            return index, decode(files[index], target.channels, target.size, preprocess)
        except ValueError as error:
            return index, error

    threads = min(8, os.cpu_count() or 1)
    for start in range(0, len(drawn), _CHUNK):
        # The warning filters belong to the process, and overlapping threads may restore them in the wrong order. So
        # they are set here and restored when all threads have ended.
        with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
            warnings.simplefilter("ignore")
            chunk = list(pool.map(attempt, drawn[start : start + _CHUNK]))
        yield chunk
