"""Sessions that return every tensor as an array of NumPy's own."""

import onnx

from onnx_lowrank.graph.carried import NARROW, carrying
from onnx_lowrank.runtime.session import Opener, Session


def open_carrying(open_session: Opener, model: onnx.ModelProto, label: str) -> Session:
    """Open a model, and where outputs have types that NumPy does not know, let it return them in wider ones.

    Parameters
    ----------
    open_session
        Opens the model.
    model
        It is not changed.
    label
        The model's name in error messages.
    """
    session = open_session(model, label)
    narrow = {name: NARROW[kind] for name, kind in session.types.items() if kind in NARROW}
    if not narrow:
        return session
    del session  # it holds all weights, which the next one holds as well
    carrier, names = carrying(model, narrow)
    return open_session(carrier, label).named(names)
