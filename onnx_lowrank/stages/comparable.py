"""Both models in a form that can be compared: under the same noise, and with outputs that NumPy knows."""

import onnx

from onnx_lowrank.graph.carried import NARROW, carrying
from onnx_lowrank.graph.edit.determine import determined
from onnx_lowrank.runtime.session import Opener, Session
from onnx_lowrank.stages.session_pair import SessionPair


def comparable(
    deployed: SessionPair, original: onnx.ModelProto, rewritten: onnx.ModelProto, open_session: Opener
) -> SessionPair:
    """Return sessions of two models that compute their noise from a key, and whose outputs are arrays of NumPy's own.

    Parameters
    ----------
    deployed
        The models as they are deployed, which are returned where nothing stands in the way of a comparison.
    original, rewritten
        The two models.
    open_session
        Opens them.
    """
    narrow = {name: NARROW[kind] for name, kind in deployed.original.types.items() if kind in NARROW}
    determined_original, chance = determined(original)
    if chance is None and not narrow:
        return deployed

    def opened(model: onnx.ModelProto, label: str) -> Session:
        carrier, names = carrying(model, narrow)
        return open_session(carrier, label).named(names)

    return SessionPair(
        opened(determined_original, "the model"), opened(determined(rewritten)[0], "the rewritten model")
    )
