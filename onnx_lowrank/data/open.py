"""Calibration data from whatever the user has: the one door to every kind of source.

==============================================  =====================================================================
``data``                                        samples
==============================================  =====================================================================
None                                            synthetic images
folder of photos, or one photo                  decoded photos, through the preprocessing
``.npy``, ``.npz``, or a folder of those        rows of the arrays, as they are
folder with ``test_data_set_*/input_N.pb``      rows of the tensors, as they are
array, or dict name → array                     rows of the arrays, as they are
CalibrationDataReader, iterable of batches      rows of the batches, read until there are enough
:class:`Source`                                 its own
==============================================  =====================================================================
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnx_lowrank.data.arrays import ArraySource, open_arrays
from onnx_lowrank.data.choose import choose, counted, once
from onnx_lowrank.data.conform import as_array
from onnx_lowrank.data.npy_files import is_array, read
from onnx_lowrank.data.parts import Part, file_part, gather
from onnx_lowrank.data.photos.folder import is_image, list_files, open_images
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.data.source import Source, Subset
from onnx_lowrank.data.stream import open_stream
from onnx_lowrank.data.synthetic.source import open_synthetic
from onnx_lowrank.data.tensor_files import is_proto, proto_part
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec

__all__ = ["ArraySource", "Source", "Subset", "open_path", "open_source"]


def open_source(
    data: object,
    specs: tuple[TensorSpec, ...],
    *,
    preprocess: Preprocess,
    count: int,
    seed: int,
    on_warning: Callable[[str], None],
) -> Source:
    """Open calibration data of any kind.

    Parameters
    ----------
    data
        See the module.
    specs
        The model's inputs.
    preprocess
        How photos become inputs; arrays are taken as they are.
    count
        How many samples are wanted; all of them if there are fewer.
    seed
        Seed of the choice and of the order.
    on_warning
        Told, in one line each, what is left out or converted.

    Returns
    -------
    Source
        The chosen samples, checked: none fails later.

    Raises
    ------
    DataError
        If the data cannot be read, are damaged or do not fit the model.
    UsageError
        If ``data`` is of no known kind, or the options contradict the model.
    """
    warn = once(on_warning)
    if data is None:
        return open_synthetic(specs, preprocess=preprocess, count=count, seed=seed)
    if isinstance(data, (str, os.PathLike)):
        return open_path(Path(data), specs, preprocess=preprocess, count=count, seed=seed, on_warning=warn)
    if isinstance(data, Source):
        return data if len(data) <= count else Subset(data, choose(len(data), count, seed))
    if isinstance(data, Mapping):
        named = {str(name): as_array(value, f"the given array {name!r}") for name, value in data.items()}
        return open_arrays(named, specs, where="the given arrays", count=count, seed=seed, warn=warn)
    if isinstance(data, np.ndarray) or (hasattr(data, "__array__") and hasattr(data, "shape")):
        single = {"": as_array(data, "the given array")}
        return open_arrays(single, specs, where="the given array", count=count, seed=seed, warn=warn)
    return open_stream(data, specs, count=count, seed=seed, warn=warn)


def open_path(
    path: Path,
    specs: tuple[TensorSpec, ...],
    *,
    preprocess: Preprocess,
    count: int | None,
    seed: int,
    on_warning: Callable[[str], None],
) -> Source:
    """Open a file or folder; the parameters and errors are those of :func:`open_source`, a count of None takes all."""
    if not path.exists():
        raise DataError(f"calibration data {path} do not exist: give a folder of images, an .npz or an .npy")
    files = list_files(path) if path.is_dir() else [path]
    photos, arrays, protos = ([file for file in files if kind(file)] for kind in (is_image, is_array, is_proto))
    kinds = {"images": photos, "NumPy files": arrays, "input_N.pb files": protos}
    present = {name: found for name, found in kinds.items() if found}
    if not present:
        what = f"has {len(files)} files, but none" if path.is_dir() else "is neither an image nor"
        raise DataError(f"{path} {what} of the known kinds (images, .npy, .npz, input_N.pb): give calibration data")
    if len(present) > 1:
        told = " and ".join(f"{len(found)} {name}" for name, found in present.items())
        raise DataError(f"{path} holds {told}: put one kind into a folder of its own")
    if photos:
        return open_images(photos, path, specs, preprocess=preprocess, count=count, seed=seed, on_warning=on_warning)[0]
    if arrays == [path] and path.suffix.lower() == ".npy":  # stays on the disk, memory-mapped
        mapped = {"": read(path, "")}
        options = {"where": str(path), "title": path.name}
        return open_arrays(mapped, specs, **options, count=count, seed=seed, warn=on_warning)
    parts = [file_part(file, specs, on_warning) for file in arrays]
    parts += [proto_part(folder, specs, on_warning) for folder in sorted({file.parent for file in protos})]
    return _open_parts(parts, path, specs, count, seed)


def _open_parts(
    parts: Sequence[Part], path: Path, specs: tuple[TensorSpec, ...], count: int | None, seed: int
) -> ArraySource:
    available = sum(part.rows for part in parts)
    if not available:
        raise DataError(f"{path} holds no samples: the first dimension of its arrays is 0")
    chosen = choose(available, count, seed)
    where = path.name or str(path)
    return ArraySource(gather(parts, chosen, specs), counted(len(chosen), available, f"samples in {where}"))
