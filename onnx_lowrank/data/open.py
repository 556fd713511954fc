"""Calibration data of every kind, opened by one function.

==============================================  =====================================================================
``data``                                        samples
==============================================  =====================================================================
None                                            synthetic images
folder of photos, or one photo                  decoded photos, through the preprocessing
``.npy``, ``.npz``, or a folder of those        rows of the arrays, as they are
folder with ``test_data_set_*/input_N.pb``      rows of the tensors, as they are
array, or dict from input name to array         rows of the arrays, as they are
list of arrays of several shapes, also in a     one sample each
dict, or an array of objects
CalibrationDataReader, iterable of batches      rows of the batches, read until there are enough
:class:`~onnx_lowrank.data.source.Source`       its own
==============================================  =====================================================================
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from onnx_lowrank.data.arranged import arranged, without_axis
from onnx_lowrank.data.arrays import ArraySource, open_arrays
from onnx_lowrank.data.conform import as_array
from onnx_lowrank.data.draw import Draw, once
from onnx_lowrank.data.messages import counted, plural
from onnx_lowrank.data.npy_files import is_array, read_array
from onnx_lowrank.data.parts import Part, file_parts, gather
from onnx_lowrank.data.photos.folder import is_image, left_out, list_files, open_images
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.data.ragged import is_ragged, open_ragged
from onnx_lowrank.data.source import Source, Subset
from onnx_lowrank.data.stream import open_stream
from onnx_lowrank.data.synthetic.source import open_synthetic
from onnx_lowrank.data.tensor_files import is_tensor, tensor_part
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.progress import Warn


def open_source(
    data: object,
    specs: tuple[TensorSpec, ...],
    *,
    preprocess: Preprocess,
    count: int,
    seed: int,
    on_warning: Warn,
) -> Source:
    """Open calibration data of any kind.

    Parameters
    ----------
    data
        One of the kinds that the module lists.
    specs
        The model's inputs.
    preprocess
        How photos become inputs; arrays are taken as they are.
    count
        The number of samples wanted; all are taken if there are fewer.
    seed
        The seed of the choice and of the order.
    on_warning
        Receives a line for each sample that is left out and for each conversion worth knowing.

    Returns
    -------
    Source
        The drawn samples as the model takes them. All of them have been checked, so none fails later.

    Raises
    ------
    DataError
        If the data cannot be read, are damaged or do not fit the model.
    UsageError
        If ``data`` is of no known kind, ``count`` or ``seed`` has no meaning, or ``preprocess`` contradicts the model.
    """
    draw = Draw(count, seed, once(on_warning))
    asked = tuple(spec for spec in specs if spec.read) or specs
    if data is None:
        return arranged(open_synthetic(asked, preprocess, count, seed), specs)
    if isinstance(data, (str, os.PathLike)):
        return arranged(_open_path(Path(data), specs, preprocess, draw), specs)
    if isinstance(data, Source):
        return arranged(data if len(data) <= count else Subset(data, draw.indices(len(data))), specs)
    return arranged(_open_values(data, asked, draw), specs)


def _open_values(data: object, specs: tuple[TensorSpec, ...], draw: Draw) -> Source:
    """Open arrays, or anything that gives arrays, in memory."""
    if isinstance(data, Mapping):
        if any(is_ragged(value) for value in data.values()):
            return open_ragged(data, specs, draw)
        arrays = {str(name): as_array(value, f"the given array {name!r}") for name, value in data.items()}
        return open_arrays(arrays, specs, draw, "the given arrays")
    if isinstance(data, np.ndarray) and is_ragged(data) and len(specs) == 1:
        return open_ragged({specs[0].name: data}, specs, draw)
    if isinstance(data, np.ndarray) or (hasattr(data, "__array__") and hasattr(data, "shape")):
        return open_arrays({"": as_array(data, "the given array")}, specs, draw, "the given array")
    return open_stream(data, specs, draw)


def _open_path(path: Path, inputs: tuple[TensorSpec, ...], preprocess: Preprocess, draw: Draw) -> Source:
    specs = tuple(spec for spec in inputs if spec.read) or inputs
    if not path.exists():
        raise DataError(f"calibration data {path} do not exist: give a folder of images, an .npz or an .npy")
    files = list_files(path) if path.is_dir() else [path]
    photos, arrays, tensors = ([file for file in files if test(file)] for test in (is_image, is_array, is_tensor))
    by_kind = {"image": photos, "NumPy file": arrays, "input_N.pb file": tensors}
    counts = [plural(len(members), kind) for kind, members in by_kind.items() if members]
    if not counts:
        finding = f"has {plural(len(files), 'file')}, but none" if path.is_dir() else "is not a file"
        raise DataError(f"{path} {finding} of a known kind (images, .npy, .npz, input_N.pb): give calibration data")
    if len(counts) > 1:
        raise DataError(f"{path} holds {' and '.join(counts)}: put one kind into a folder of its own")
    if photos and (line := left_out(path, files, photos)):
        draw.warn(line)
    if photos:
        return open_images(photos, path, specs, preprocess, draw)[0]
    if arrays == [path] and path.suffix.lower() == ".npy":  # stays on the disk, memory-mapped
        return open_arrays({"": read_array(path, "")}, specs, draw, str(path), path.name)
    parts = [part for file in arrays for part in file_parts(file, specs, draw.warn)]
    parts += [tensor_part(folder, inputs, draw.warn) for folder in sorted({file.parent for file in tensors})]
    return _open_parts(parts, path, specs, draw)


def _open_parts(parts: Sequence[Part], path: Path, specs: tuple[TensorSpec, ...], draw: Draw) -> ArraySource:
    available = sum(part.rows for part in parts)
    if not available:
        raise DataError(f"{path} holds no samples: the first dimension of its arrays is 0")
    order = draw.indices(available)
    description = f"{counted(len(order), available, 'sample')} in {path.name or path}"
    return ArraySource(gather(parts, order, specs), description, whole=without_axis(specs))
