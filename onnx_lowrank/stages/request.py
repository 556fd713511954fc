"""What a run is asked to do: the model, the data, and everything that a user can choose."""

import os
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx

from onnx_lowrank.data.photos.preprocess import Preprocess, parse
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan

ModelLike: TypeAlias = str | os.PathLike[str] | onnx.ModelProto
"""A path, or a model in memory."""


@dataclass(frozen=True)
class Request:
    """The input of a run; no stage changes it.

    Attributes
    ----------
    model
        A path or a loaded model, which is not changed.
    data
        Calibration samples: anything that ``data.open.open_source`` takes; None for synthetic images.
    options
        The user's choices.
    preprocess
        How photos become inputs, or the text that says it, such as "caffe,resize=none".
    plan
        Forms and ranks to use in place of a search.
    test
        Labelled samples, which serve to measure the accuracy and nothing else.
    """

    model: ModelLike
    data: object = None
    options: Options = field(default_factory=Options)
    preprocess: Preprocess | str = "imagenet"
    plan: Plan | None = None
    test: str | os.PathLike[str] | None = None

    @property
    def parsed_preprocess(self) -> Preprocess:
        """How photos become inputs.

        Raises
        ------
        UsageError
            If the text makes no sense.
        """
        return parse(self.preprocess) if isinstance(self.preprocess, str) else self.preprocess

    @property
    def data_label(self) -> str | None:
        """The path of the calibration samples, or the name of their type; None where none were given."""
        if self.data is None:
            return None
        return str(self.data) if isinstance(self.data, str | os.PathLike) else type(self.data).__name__
