"""``test_data_set_*/input_N.pb``: samples as the ONNX backend tests and the model zoo store them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.data.npy_files import Header
from onnx_lowrank.data.parts import Part, make_part
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec


def is_proto(path: Path) -> bool:
    """Whether the file's name says that it is a stored input."""
    return path.suffix.lower() == ".pb" and path.stem.startswith("input_")


def proto_part(folder: Path, specs: tuple[TensorSpec, ...], warn: Callable[[str], None]) -> Part:
    """Take one data set, ``input_0.pb``, ``input_1.pb``, ..., as a part.

    A tensor that carries the name of an input feeds it; the others feed the inputs by their number.

    Raises
    ------
    DataError
        If a file cannot be read, an input has none, or a tensor does not fit its input.
    """
    own: Feeds = {}
    for path in folder.glob("input_*.pb"):
        name, array = _read(path)
        number = path.stem.removeprefix("input_")
        if name not in {spec.name for spec in specs} and number.isdecimal() and int(number) < len(specs):
            name = specs[int(number)].name
        own[name] = array
    missing = [spec.name for spec in specs if spec.name not in own]
    if missing:
        raise DataError(f"{folder} has no input_N.pb for the inputs {', '.join(missing)}: add them")
    found = {spec.name: Header(spec.name, own[spec.name].shape, own[spec.name].dtype) for spec in specs}
    return make_part(str(folder), found, lambda: own, specs, warn)


def _read(path: Path) -> tuple[str, NDArray[Any]]:
    from onnx import TensorProto, numpy_helper  # here, so that reading photos and arrays does not load onnx

    try:
        tensor = TensorProto.FromString(path.read_bytes())
        array: NDArray[Any] = numpy_helper.to_array(tensor)
    except Exception as error:  # protobuf's own exception types differ between its versions
        raise DataError(f"{path} is no tensor ({' '.join(str(error).split())}): save it as a TensorProto") from error
    return tensor.name, array
