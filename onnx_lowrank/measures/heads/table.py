"""All heads of detectors, in the order in which they are looked for."""

from onnx_lowrank.measures.heads.cells import CELLS
from onnx_lowrank.measures.heads.columns import COLUMNS
from onnx_lowrank.measures.heads.end_to_end import END_TO_END
from onnx_lowrank.measures.heads.head import HeadKind
from onnx_lowrank.measures.heads.rows import ROWS
from onnx_lowrank.measures.heads.separate import SEPARATE

HEADS: dict[str, HeadKind] = {kind.name: kind for kind in (CELLS, ROWS, COLUMNS, END_TO_END, SEPARATE)}
"""The kinds of heads by their names in options."""
