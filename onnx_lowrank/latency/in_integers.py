"""Models that are rounded before they go on the stopwatch, as they will be when they are deployed.

A plan for a network in integers is made among such models: a layer as it is, a layer in some form, and the whole
network are all in integers, with the rounding around them. How fast the network in floating point is matters once, for
what is still to be gained.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from onnx_lowrank.errors import TargetError
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.quantise.stand_in import stand_in
from onnx_lowrank.graph.quantise.target import IntegerTarget, integer_target
from onnx_lowrank.interface import Feeds
from onnx_lowrank.latency.layer_times import measure_models
from onnx_lowrank.options import Options
from onnx_lowrank.runtime.session import Opener, Session, opener


def in_integers(open_session: Opener, target: IntegerTarget, exclude: str | None) -> Opener:
    """Return what opens a network in integers that takes as long as a model would if it were rounded.

    Parameters
    ----------
    open_session
        Opens models as they are deployed.
    target
        What the runtime wants of integers.
    exclude
        A regular expression; layers in whose name it is found stay in floating point.
    """

    def open_rounded(model: onnx.ModelProto | bytes, label: str) -> Session:
        loaded = load(onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model)
        network = stand_in(normalise(loaded.proto), target.placement, target.codes, exclude)
        return open_session(export(network, loaded), label)

    return open_rounded


@dataclass(frozen=True)
class IntegerGain:
    """What integers give by the clock.

    Attributes
    ----------
    ratio
        How many times as fast the network is in integers.
    asked
        The speedup that was asked for.
    """

    ratio: float
    asked: float

    @classmethod
    def measured(cls, model: onnx.ModelProto, feeds: Feeds, options: Options) -> "IntegerGain":
        """Measure a model as it is and in integers, in turns."""
        exact = opener(options.providers, options.threads, spinning=True)
        rounded = in_integers(exact, integer_target(options.preset), options.exclude)
        sessions = [open_one(model, "the model") for open_one in (exact, rounded)]
        return cls(measure_models(sessions, feeds).speed.value, options.speedup)

    @property
    def left(self) -> float:
        """The speedup over the network in integers that is left to plan for."""
        return self.asked / self.ratio

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Say in a refusal what the ratios in it refer to.

        Raises
        ------
        TargetError
            If one is raised inside.
        """
        try:
            yield
        except TargetError as error:
            raise TargetError(
                f"{error}; these ratios refer to the network in integers, which is {self.ratio:.2f} times as fast as "
                f"the original, so that {self.left:.2f} was left to plan for"
            ) from None
