"""``test_data_set_*/input_N.pb``: samples as the ONNX backend tests and the model zoo store them."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.data.conform import headers_of
from onnx_lowrank.data.messages import reason
from onnx_lowrank.data.parts import Part, check_headers
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec
from onnx_lowrank.progress import Warn


def is_tensor(path: Path) -> bool:
    """Whether the file has the name of a stored input."""
    return path.suffix.lower() == ".pb" and path.stem.startswith("input_")


def tensor_part(folder: Path, specs: tuple[TensorSpec, ...], warn: Warn) -> Part:
    """Read one data set, ``input_0.pb``, ``input_1.pb``, ..., as a part; inputs that no node reads need none.

    A tensor that carries the name of an input feeds that input; any other tensor feeds the input of its file's number.

    Raises
    ------
    DataError
        If a file cannot be read, an input has no tensor, or a tensor does not fit its input.
    """
    tensors: Feeds = {}
    for path in folder.glob("input_*.pb"):
        name, array = _read(path)
        number = path.stem.removeprefix("input_")
        if name not in {spec.name for spec in specs} and number.isdecimal() and int(number) < len(specs):
            name = specs[int(number)].name
        tensors[name] = array
    specs = tuple(spec for spec in specs if spec.read) or specs
    missing = [spec.name for spec in specs if spec.name not in tensors]
    if missing:
        raise DataError(f"{folder} has no input_N.pb for the inputs {', '.join(missing)}: add them")
    return Part(str(folder), check_headers(headers_of(tensors), specs, str(folder), warn), lambda: tensors)


def _read(path: Path) -> tuple[str, NDArray[Any]]:
    from onnx import TensorProto, numpy_helper  # here, so that reading photos and arrays does not load onnx

    try:
        tensor = TensorProto.FromString(path.read_bytes())
        array: NDArray[Any] = numpy_helper.to_array(tensor)
    except Exception as error:  # protobuf's own exception types differ between its versions
        raise DataError(f"{path} cannot be read as a tensor ({reason(error)}): save it as a TensorProto") from error
    return tensor.name, array
