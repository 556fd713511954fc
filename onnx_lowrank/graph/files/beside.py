"""Weights that lie in files beside the model: found, also behind the links of a file cache, and read.

A model file comes from anywhere, so it must not reach files that are none of its own. The rule is ONNX Runtime's: a
location is a relative path, and the file that it leads to, all links followed, lies in the folder in which the model
was named or in the folder of the model's own file, or below. A file cache, such as that of the Hugging Face Hub, makes
links to the model and to its data, which lie together in one folder.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import external_data_helper

from onnx_lowrank.errors import ModelError
from onnx_lowrank.files import placeholder
from onnx_lowrank.graph.files.check import line
from onnx_lowrank.graph.protos import all_tensors


def external_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the tensors of the main graph and of its bodies whose values are in a file beside the model."""
    return [tensor for tensor in all_tensors(proto.graph) if external_data_helper.uses_external_data(tensor)]


def read_external(proto: onnx.ModelProto, path: Path) -> int:
    """Read all external data into a model, and return their size in bytes.

    Parameters
    ----------
    proto
        The model as parsed, changed in place.
    path
        Its file.

    Raises
    ------
    ModelError
        If a location leads outside, or the data cannot be read.
    """
    size = 0
    for tensor in external_tensors(proto):
        try:
            tensor.raw_data = _values(tensor, path)
        except (OSError, ValueError, OverflowError) as error:
            raise ModelError(f"{path}: its external data cannot be read ({line(error)})") from error
        size += len(tensor.raw_data)
        del tensor.external_data[:]
        tensor.ClearField("data_location")
    return size


def data_files(proto: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """Yield the files that a model's external data lead to, as far as there are any."""
    for tensor in external_tensors(proto):
        try:
            yield _find(str(external_data_helper.ExternalDataInfo(tensor).location), path)
        except (OSError, ValueError):
            continue


def _values(tensor: onnx.TensorProto, path: Path) -> bytes:
    """Return the stored bytes of a tensor."""
    info = external_data_helper.ExternalDataInfo(tensor)
    file = _find(str(info.location), path)
    offset, size = info.offset or 0, file.stat().st_size
    end = size if info.length is None else offset + info.length
    with file.open("rb") as stream:
        if end > size:  # asked before the bytes are read: a damaged length may be larger than the memory
            reason = f"it is {placeholder(stream.read(200)) or 'cut short: fetch it again'}"
            raise ValueError(f"{info.location!r} has {size} bytes, and {tensor.name!r} ends at {end}; {reason}")
        stream.seek(offset)
        return stream.read(end - offset)


def _find(location: str, path: Path) -> Path:
    """Return the file that a location leads to, all links followed.

    Raises
    ------
    ValueError
        If it leads outside, or to no file. The text says what to do.
    """
    windows = PureWindowsPath(location)
    if windows.drive or windows.root:  # "/" is a root there, too
        raise ValueError(f"{location!r} is an absolute path: put the data file beside the model and export it again")
    if _climbs(location):
        raise ValueError(f"{location!r} leads out of the model's folder: put the data file beside the model")
    own = path.resolve().parent
    candidates = [folder / location for folder in (path.parent, own)]
    there = next((file for file in candidates if file.is_symlink() or file.exists()), None)
    if not location or there is None:
        raise ValueError(f"there is no {location!r}: put the data file beside the model")
    try:
        target = there.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: Python 3.12 and older, of links in a circle
        raise ValueError(f"{location!r} is a link that leads nowhere: put the data file in its place") from error
    if not any(target.is_relative_to(folder) for folder in (path.parent.resolve(), own)):
        raise ValueError(
            f"{location!r} is a link to {target}, which is neither in the folder of the model nor in that of the file "
            "behind it: put a copy in the link's place"
        )
    if not target.is_file():
        raise ValueError(f"{location!r} is not a file: put the data file in its place")
    return target


def _climbs(location: str) -> bool:
    """Whether a path leaves the folder that it starts from."""
    depth = 0
    for part in PurePosixPath(location).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False
