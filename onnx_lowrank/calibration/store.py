"""The live tensors of one cut, kept batch by batch in memory or in temporary files."""

import mmap
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.interface import Feeds

Array = NDArray[Any]

LARGE = 1 << 20
"""A tensor of at least this many bytes gets memory of its own."""


class TensorStore:
    """Tensors by the number of the batch.

    Parameters
    ----------
    on_disk
        Whether the tensors go to temporary files, which ``close`` removes; otherwise they stay in memory.

    Attributes
    ----------
    bytes
        The size of all tensors that were written to memory.
    """

    def __init__(self, *, on_disk: bool) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="onnx-lowrank-") if on_disk else None
        self._held: dict[int, Feeds] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}  # NumPy's files do not know those of ml_dtypes
        self.bytes = 0

    def write(self, batch: int, tensors: Feeds) -> None:
        """Keep the tensors of a batch."""
        if self._folder is None:
            self._held[batch] = {name: _in_own_memory(value) for name, value in tensors.items()}
            self.bytes += sum(value.nbytes for value in tensors.values())
        else:
            self._dtypes |= {name: value.dtype for name, value in tensors.items()}
            # An underscore in front keeps the names apart from the parameters of savez.
            np.savez(self._file(batch), **{f"_{name}": value for name, value in tensors.items()})  # type: ignore[arg-type]

    def read(self, batch: int) -> Feeds:
        """Return the tensors of a batch."""
        if self._folder is None:
            return self._held[batch]
        with np.load(self._file(batch)) as stored:
            return {name[1:]: stored[name].view(self._dtypes[name[1:]]) for name in stored.files}

    def drop(self, batch: int) -> None:
        """Give up the tensors of a batch."""
        if self._folder is None:
            self._held.pop(batch)
        else:
            self._file(batch).unlink()

    def close(self) -> None:
        """Give up the tensors of all batches."""
        self._held.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def _file(self, batch: int) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / f"{batch}.npz"


def _in_own_memory(value: Array) -> Array:
    """Copy a large array to memory of its own, which goes back to the system when the array is dropped.

    Memory from the heap would stay with the process. The tensors of the next cut have other sizes and would leave gaps
    there, so that two cuts would take the memory of both. What came from another store, because it crosses the next
    cut as well, has its own memory already.
    """
    if value.nbytes < LARGE or _has_own_memory(value):
        return value
    copy = np.frombuffer(mmap.mmap(-1, value.nbytes), value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


def _has_own_memory(value: Array) -> bool:
    """Whether an array views memory that ``_in_own_memory`` reserved, which nobody writes to any more."""
    base: Any = value
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)
