"""The request of a user: the model, the data, and all choices."""

import os
import reprlib
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx

from onnx_lowrank.data.photos.preprocess import Preprocess, parse
from onnx_lowrank.errors import UsageError
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.quality import ACCURACY

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

    def __post_init__(self) -> None:
        """Refuse arguments of other types.

        Raises
        ------
        UsageError
            With the name of the argument.
        """
        if not (_is_path(self.model) or isinstance(self.model, onnx.ModelProto)):
            inside = ", such as its model_proto" if hasattr(self.model, "model_proto") else ""
            raise UsageError(f"model is {_described(self.model)}: give a path or an onnx.ModelProto{inside}")
        if not isinstance(self.options, Options):
            raise UsageError(f"options is {_described(self.options)}: give Options")
        if not isinstance(self.preprocess, str | Preprocess):
            raise UsageError(
                f"preprocess is {_described(self.preprocess)}: give a text, such as 'mean=127.5,scale=0.0078'"
            )
        if not (self.plan is None or isinstance(self.plan, Plan)):
            raise UsageError(f"plan is {_described(self.plan)}: give what Plan.from_json makes of a plan's text")
        if not (self.test is None or _is_path(self.test)):
            raise UsageError(f"test is {_described(self.test)}: give the path of labelled samples")
        if self.options.requirement.measure == ACCURACY and self.test is None:
            raise UsageError(f"require is {str(self.options.require)!r}: that needs labelled samples, so give test")
        if self.plan is not None and (self.options.keep or self.options.curve):
            option = "keep" if self.options.keep else "curve"
            raise UsageError(f"a plan decides forms and ranks, and {option} looks for others: drop one of them")
        kept = self.options.kept
        if kept is not None and kept.measure == ACCURACY and self.test is None:
            raise UsageError(f"keep is {kept}: give labelled samples as test")

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


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str)


def _described(value: object) -> str:
    """Return a value of a simple type itself, and of any other the name of its type."""
    return reprlib.repr(value) if isinstance(value, int | float | str | None) else f"of the type {type(value).__name__}"
