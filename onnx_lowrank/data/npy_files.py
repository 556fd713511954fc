"""``.npy`` and ``.npz`` files, read without unpickling anything.

An array of Python objects is stored as a pickle, and a pickle can run code when it is loaded. The headers tell which
arrays those are, so they are refused before their data are touched.
"""

import errno
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.conform import Header
from onnx_lowrank.data.messages import array_label, reason
from onnx_lowrank.errors import DataError
from onnx_lowrank.files import placeholder_at

_SUFFIXES = frozenset((".npy", ".npz"))

_DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error),
    *(SyntaxError, tokenize.TokenError),
)
"""The errors that NumPy and zipfile raise on a damaged or encrypted file. zipfile raises NotImplementedError for a
compression that it does not know."""


def is_array(path: Path) -> bool:
    """Whether the file has the name of a NumPy file."""
    return path.suffix.lower() in _SUFFIXES


def read_headers(path: Path, only: str | None = None) -> dict[str, Header]:
    """Read the headers of all arrays in a file, or that of one.

    Returns
    -------
    dict[str, Header]
        The headers by key, in the file's order; the key of the array in a ``.npy`` is empty.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as stream:
                return {"": _header("", stream)}
        headers = {}
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy") and only in (None, member.removesuffix(".npy")):
                    with archive.open(member) as stream:
                        key = member.removesuffix(".npy")
                        headers[key] = _header(key, stream)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    return headers


def read_array(path: Path, key: str) -> NDArray[Any]:
    """Read one array: memory-mapped from a ``.npy``, whole from an ``.npz``.

    Raises
    ------
    DataError
        If the array holds Python objects or cannot be read.
    """
    header = read_headers(path, key)[key]
    if header.dtype.hasobject:
        raise DataError(
            f"{array_label(path, key)} holds Python objects (a pickle), which can run code when loaded, and is "
            "refused: save plain numeric arrays, and samples that differ in shape as a folder of .npy files"
        )
    try:
        if not key:
            # An array without elements cannot be memory-mapped.
            mapped: NDArray[Any] = np.load(path, mmap_mode=None if 0 in header.shape else "r", allow_pickle=False)
            return mapped
        with np.load(path, allow_pickle=False) as archive:
            whole: NDArray[Any] = archive[key]
            return whole
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def _header(key: str, stream: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:  # 3.0 is written only for records with field names beyond Latin-1
        raise ValueError(f"array {key!r} has format version {version[0]}.{version[1]}, which plain arrays do not use")
    return Header(key, shape, dtype)


def _unreadable(path: Path, error: BaseException) -> DataError:
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        raise MemoryError from error  # nothing is wrong with the file
    if found := placeholder_at(path):
        return DataError(f"{path} cannot be read as a NumPy file: it is {found}")
    return DataError(f"{path} cannot be read as a NumPy file ({reason(error)}): save it again")
