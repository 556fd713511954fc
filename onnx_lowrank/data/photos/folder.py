"""Photos as calibration samples: listed, chosen, each decoded once up front, then served.

Decoding everything chosen at the start costs milliseconds an image and finds the damaged files before hours of work.
The decoded pixels are kept while they fit a budget, otherwise decoded again for each batch.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.choose import choose, counted
from onnx_lowrank.data.photos.decode import decode
from onnx_lowrank.data.photos.image_input import ImageInput, image_input
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"))
KEEP_BYTES = 512 * 2**20
"""Decoded pixels up to this size stay in memory."""
BROKEN_SHARE = 0.05
"""More damaged photos than this share of the chosen ones (or than one) mean that something is wrong with the data."""


@dataclass(frozen=True)
class ImageSource:
    """Photos as a :class:`~onnx_lowrank.calibration.source.Source`.

    Attributes
    ----------
    files
        The photos, in order; every one has been decoded once.
    target
        The model's input.
    preprocess
        How photos become inputs.
    kept
        Their pixels, shape [n, height, width, channels], or None where they take too much memory.
    description
        For the report.
    """

    files: tuple[Path, ...]
    target: ImageInput
    preprocess: Preprocess
    kept: NDArray[np.uint8] | None
    description: str
    synthetic: bool = False

    def __len__(self) -> int:
        """Count the photos."""
        return len(self.files)

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """One batch of photos."""
        if self.kept is not None:
            pixels = self.kept[np.asarray(indices, np.int64)]
        else:
            pixels = np.stack([self._decode(self.files[index]) for index in indices])
        return {self.target.spec.name: self.target.normalise(pixels)}

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        try:
            return decode(path, self.target.channels, self.target.size, self.preprocess)
        except ValueError as error:  # it could be read at the start
            raise DataError(f"{path} changed or vanished during the run ({error}): start again") from error


def list_files(folder: Path) -> list[Path]:
    """All files under a folder in sorted order, without hidden ones (``._photo.jpg`` on macOS is no photo)."""
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda path: path.relative_to(folder).parts)


def is_image(path: Path) -> bool:
    """Whether the file's name says that it is a photo."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def photo_target(specs: tuple[TensorSpec, ...], preprocess: Preprocess, where: Path) -> ImageInput:
    """Find the input that photos feed.

    Raises
    ------
    DataError
        If the model has several inputs, or one that takes no photos.
    """
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise DataError(
            f"{where} holds images, but the model has {len(specs)} inputs ({names}): "
            "give an .npz with one array for each input"
        )
    target = image_input(specs[0], preprocess)
    if target.channels == 4:
        raise DataError(f"{where} holds images, but input {specs[0].name!r} has 4 channels: give the data as .npz")
    return target


def open_images(
    files: Sequence[Path],
    where: Path,
    specs: tuple[TensorSpec, ...],
    *,
    preprocess: Preprocess,
    count: int | None,
    seed: int,
    on_warning: Callable[[str], None],
) -> tuple[ImageSource, NDArray[np.int64]]:
    """Choose photos and decode each of them once.

    Parameters
    ----------
    files
        All photos, sorted.
    where
        The folder they came from, for messages.
    specs
        The model's inputs.
    preprocess
        How photos become inputs.
    count, seed
        How many to choose, and how; see :func:`~onnx_lowrank.calibration.choice.choose`.
    on_warning
        Told of each damaged photo.

    Returns
    -------
    tuple[ImageSource, NDArray[np.int64]]
        The photos, and for each its place in ``files``, shape [n].

    Raises
    ------
    DataError
        If more photos are damaged than the limit, or the input takes no photos.
    """
    target = photo_target(specs, preprocess, where)
    chosen = choose(len(files), count, seed)
    shape = (len(chosen), *target.size, target.channels)
    kept = np.empty(shape, np.uint8) if np.prod(shape, dtype=np.int64) <= KEEP_BYTES else None
    good: list[int] = []
    broken: list[str] = []
    limit = max(1, int(BROKEN_SHARE * len(chosen)))

    def attempt(index: int) -> NDArray[np.uint8] | ValueError:
        try:
            return decode(files[index], target.channels, target.size, preprocess)
        except ValueError as error:
            return error

    # How warnings are treated belongs to the process: what threads that overlap leave behind is undone at the end.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        # In chunks, so that a folder too large to keep is not queued up decoded.
        for start in range(0, len(chosen), 64):
            part = chosen[start : start + 64].tolist()
            for index, outcome in zip(part, pool.map(attempt, part), strict=True):
                if isinstance(outcome, ValueError):
                    broken.append(f"{files[index]} cannot be used ({outcome})")
                    on_warning(f"{broken[-1]}: left out")
                else:
                    if kept is not None:
                        kept[len(good)] = outcome
                    good.append(index)
            if len(broken) > limit:
                break
    if len(broken) > limit or not good:
        tried = len(good) + len(broken)
        raise DataError(
            f"{where}: {len(broken)} of the first {tried} images cannot be used (at most {limit} of {len(chosen)} are "
            f"left out): repair or remove them; the first: {broken[0]}"
        )
    things = f"images in {where.name or where} (preset {preprocess.preset})"
    source = ImageSource(
        files=tuple(files[index] for index in good),
        target=target,
        preprocess=preprocess,
        kept=None if kept is None else kept[: len(good)],
        description=counted(len(good), len(files), things),
    )
    return source, np.array(good, np.int64)
