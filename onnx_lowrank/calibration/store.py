"""The live tensors of one cut by batch, in memory or on disk."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.interface import Feeds

Array = NDArray[Any]

LARGE = 1 << 20
"""Bytes from which a held tensor gets memory of its own."""


class TensorStore:
    """Tensors by batch.

    Parameters
    ----------
    folder
        Where they are kept as files; None keeps them in memory.

    Attributes
    ----------
    bytes
        What has been written to memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: dict[int, Feeds] = {}
        self.bytes = 0

    def write(self, batch: int, tensors: Feeds) -> None:
        """Keep the tensors of a batch."""
        if self._folder is None:
            self._held[batch] = {name: _apart(value) for name, value in tensors.items()}
            self.bytes += sum(value.nbytes for value in tensors.values())
        else:
            np.savez(self._folder / f"{batch}.npz", **{f"_{name}": value for name, value in tensors.items()})  # type: ignore[arg-type]

    def read(self, batch: int) -> Feeds:
        """The tensors of a batch."""
        if self._folder is None:
            return self._held[batch]
        with np.load(self._folder / f"{batch}.npz") as stored:
            return {name[1:]: stored[name] for name in stored.files}

    def drop(self, batch: int) -> None:
        """Forget a batch."""
        if self._folder is None:
            self._held.pop(batch)
        else:
            (self._folder / f"{batch}.npz").unlink()


def _apart(value: Array) -> Array:
    """A copy in memory of its own, which goes back to the system when it is dropped.

    From the heap it would stay with the process, where the tensors of the next cut, of other sizes, leave gaps: two
    cuts would then take the memory of both.
    """
    if value.nbytes < LARGE:
        return value
    apart = np.frombuffer(mmap.mmap(-1, value.nbytes), value.dtype).reshape(value.shape)
    apart[...] = value
    return apart
