"""All heads of detectors, in the order in which they are looked for."""

from onnx_lowrank.measures.heads.end_to_end import END_TO_END
from onnx_lowrank.measures.heads.head import HeadKind
from onnx_lowrank.measures.heads.separate import SEPARATE
from onnx_lowrank.measures.heads.yolov5 import YOLOV5
from onnx_lowrank.measures.heads.yolov8 import YOLOV8
from onnx_lowrank.measures.heads.yolox import YOLOX

HEADS: dict[str, HeadKind] = {kind.name: kind for kind in (YOLOX, YOLOV5, YOLOV8, END_TO_END, SEPARATE)}
"""The kinds of heads by their names in options."""
