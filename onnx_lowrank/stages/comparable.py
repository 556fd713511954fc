"""Both models in a form that can be compared: under the same noise, and with outputs that NumPy knows."""

import onnx

from onnx_lowrank.graph.carried import NARROW
from onnx_lowrank.graph.edit.determine import determined
from onnx_lowrank.runtime.carrying_session import open_carrying
from onnx_lowrank.runtime.session import Opener
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
    before, chance = determined(original)
    if chance is None and not any(kind in NARROW for kind in deployed.original.types.values()):
        return deployed
    after, _ = determined(rewritten)
    return SessionPair(
        open_carrying(open_session, before, "the model"), open_carrying(open_session, after, "the rewritten model")
    )
