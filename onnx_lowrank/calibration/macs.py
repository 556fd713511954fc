"""What the networks cost: multiply-accumulates, counted by running one small batch, so that dynamic shapes are real."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.graph.count_macs import counted_tensors, dense_outputs, macs_by_output
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.runtime.session import Opener


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one sample by the output tensor of the node: of all counted nodes, and of the Convs.

    ``dense`` are those of the fully connected layers, where these are to be factorised, too. ``shapes`` are those of
    all tensors that a counted node reads or makes, and of others that were asked for, for the smallest batch, of
    ``samples``.
    """

    all: dict[str, int]
    conv: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    samples: int
    dense: dict[str, int]

    @property
    def aimed_at(self) -> dict[str, int]:
        """Those that the speedup is about."""
        return self.conv | self.dense


def measure_macs(
    graph: Network, sampling: Sampling, open_session: Opener, also: Sequence[str] = (), *, gemm: bool = False
) -> Macs:
    """Count every node by running the smallest batch that the model takes.

    The shapes of the tensors that ``also`` names are looked at, too. ``gemm`` says whether fully connected layers are
    to be factorised.
    """
    # What is fed is known; and not every execution provider takes an input that is an output, too.
    fed = {tensor.name for tensor in graph.inputs}
    tapped = [name for name in (*counted_tensors(graph), *also) if name not in fed]
    session = open_session(whole(graph, tapped), "the model")
    batch = sampling.single
    feeds = sampling.source.feeds(batch)
    shapes = {name: value.shape for name, value in (feeds | session(feeds)).items()}
    counted = macs_by_output(graph, shapes)
    per_sample = {name: (op, macs // len(batch)) for name, (op, macs) in counted.items()}
    return Macs(
        {name: macs for name, (_, macs) in per_sample.items()},
        {name: macs for name, (op, macs) in per_sample.items() if op == "Conv"},
        shapes,
        len(batch),
        {name: per_sample[name][1] for name in dense_outputs(graph)} if gemm else {},
    )
