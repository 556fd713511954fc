"""The pieces into which cuts divide a network, and what is seen at a cut."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.interface import Feeds
from onnx_lowrank.runtime.session import Session

Array = NDArray[Any]


@dataclass(frozen=True)
class Visit:
    """One batch in front of a layer, or of several that are solved together.

    Attributes
    ----------
    batch
        The number of the batch.
    inputs
        The tensor that each layer reads.
    shortcuts
        The tensor that joins the response of each layer; None where none does.
    """

    batch: int
    inputs: tuple[Array, ...]
    shortcuts: tuple[Array | None, ...]


@dataclass(frozen=True)
class Piece:
    """The part of the network from the last cut to a layer.

    Attributes
    ----------
    session
        The part as a model that can be run.
    inputs
        The names of the live tensors that it reads.
    macs
        The MACs of one sample.
    """

    session: Session
    inputs: tuple[str, ...]
    macs: int

    def run(self, tensors: Feeds) -> Feeds:
        """Return the results for the live tensors of one batch."""
        return self.session({name: tensors[name] for name in self.inputs})


@dataclass(frozen=True)
class Way:
    """The way from the last cut to the next one.

    Attributes
    ----------
    live
        The names of the live tensors of the next cut.
    piece
        The part of the network in between; None where all that is wanted is at hand.
    """

    live: tuple[str, ...]
    piece: Piece | None
