"""The request of a user: the model, the data, and all choices."""

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
    """The input of a run, which no stage changes.

    Attributes
    ----------
    model
        The path of a model, or a loaded model.
    data
        The calibration samples, in any form that ``data.open.open_source`` takes; None for synthetic images.
    options
        The user's choices.
    preprocess
        The preprocessing of photos, or its text, such as "caffe,resize=none".
    plan
        Forms and ranks that replace the search.
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
        """The preprocessing of photos.

        Raises
        ------
        UsageError
            If its text makes no sense.
        """
        return parse(self.preprocess) if isinstance(self.preprocess, str) else self.preprocess

    @property
    def data_label(self) -> str | None:
        """The path of the calibration samples, or the name of their type; None where there are none."""
        if self.data is None:
            return None
        return str(self.data) if isinstance(self.data, str | os.PathLike) else type(self.data).__name__
