"""The multiply-accumulates (MACs) of a network, counted in one run on the smallest batch.

A run shows the real shapes where the model leaves them open or computes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.graph.count_macs import CONVOLUTIONS, counted_tensors, dense_outputs, macs_by_output
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.runtime.carrying_session import open_carrying
from onnx_lowrank.runtime.session import Opener


@dataclass(frozen=True)
class Macs:
    """The MACs of one sample, by the output tensor of the node, and the shapes behind them.

    Attributes
    ----------
    all
        The MACs of all counted nodes.
    conv
        Those of the convolutions.
    dense
        Those of the fully connected layers where these are to be factorised; else nothing.
    shapes
        The shapes, for the smallest batch, of all tensors that a counted node reads or makes, and of those that were
        asked for.
    samples
        The number of samples in the smallest batch.
    """

    all: dict[str, int]
    conv: dict[str, int]
    dense: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    samples: int

    @property
    def aimed_at(self) -> dict[str, int]:
        """The MACs that the speedup refers to."""
        return self.conv | self.dense


def measure_macs(
    network: Network, sampling: Sampling, open_session: Opener, extra: Sequence[str] = (), *, gemm: bool = False
) -> Macs:
    """Count the MACs of every node in a run on the smallest batch that the model takes.

    Parameters
    ----------
    network
        The network.
    sampling
        The samples.
    open_session
        Opens the network.
    extra
        The names of further tensors whose shapes are wanted.
    gemm
        Whether fully connected layers are to be factorised.
    """
    # The shapes of the inputs are known, and not every execution provider takes an input that is an output as well.
    fed = {tensor.name for tensor in network.inputs}
    tapped = [name for name in (*counted_tensors(network), *extra) if name not in fed]
    session = open_carrying(open_session, whole(network, tapped), "the model")
    batch = sampling.single
    feeds = sampling.source.feeds(batch)
    shapes = {name: value.shape for name, value in (feeds | session(feeds)).items()}
    counted = macs_by_output(network, shapes)
    per_sample = {name: (op, macs // len(batch)) for name, (op, macs) in counted.items()}
    return Macs(
        all={name: macs for name, (_, macs) in per_sample.items()},
        conv={name: macs for name, (op, macs) in per_sample.items() if op in CONVOLUTIONS},
        dense={name: per_sample[name][1] for name in dense_outputs(network)} if gemm else {},
        shapes=shapes,
        samples=len(batch),
    )
