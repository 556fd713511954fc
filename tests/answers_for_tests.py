"""What networks of many kinds would answer: boxes in the form of every head, and outputs that only look alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.boxes import Boxes
from onnx_lowrank.measures.heads.grid import Grid, grid_of

Array = NDArray[Any]

HEIGHT, WIDTH, CLASSES = 96, 128, 3
MAPS = ((12, 16), (6, 8), (3, 4))


def images(samples: int, channels: int = 3, height: int = HEIGHT, width: int = WIDTH) -> Array:
    """Blurred noise between 0 and 1."""
    rng = np.random.default_rng(7)
    coarse = rng.random((samples, channels, height // 8, width // 8))
    return np.kron(coarse, np.ones((1, 1, 8, 8))).astype(np.float32)


def scene(seed: int, most: int = 5) -> Boxes:
    """Boxes in cells of 32 pixels, so that none overlaps another."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, most + 1))
    places = rng.permutation((HEIGHT // 32) * (WIDTH // 32))[:count]
    middles = np.stack([places % (WIDTH // 32), places // (WIDTH // 32)], axis=1) * 32 + rng.uniform(13, 19, (count, 2))
    sides = rng.uniform(10, 24, (count, 2))
    corners = np.concatenate([middles - sides / 2, middles + sides / 2], axis=1)
    scores = np.sort(rng.uniform(0.5, 0.95, count))[::-1]
    return Boxes(corners, scores, rng.integers(0, CLASSES, count))


def _grid_rows(boxes: Boxes, repeats: int, rng: np.random.Generator) -> tuple[Grid, Array, Array]:
    """The grid, the rows [A, 2 + 2 + 1 + classes] in pixels with a score of the object, and the rows that are boxes."""
    grid = grid_of((HEIGHT, WIDTH), repeats * sum(rows * columns for rows, columns in MAPS))
    assert grid is not None and grid.repeats == repeats
    count = len(grid.cells)
    middles = grid.centres + rng.normal(0, 0.4, (count, 2)) * grid.strides
    sides = grid.strides * np.exp(rng.normal(0, 0.5, (count, 2)))
    rows = np.concatenate([middles, sides, rng.uniform(0, 0.005, (count, 1 + CLASSES))], axis=1)
    centres, sizes = (boxes.corners[:, :2] + boxes.corners[:, 2:]) / 2, boxes.corners[:, 2:] - boxes.corners[:, :2]
    places = [int(np.abs(grid.centres[: MAPS[0][0] * MAPS[0][1]] - centre).sum(axis=1).argmin()) for centre in centres]
    rows[places, :2], rows[places, 2:4], rows[places, 4] = centres, sizes, 0.96
    rows[places, 5:] = 0.01
    rows[places, 5 + boxes.classes] = boxes.scores / 0.96
    return grid, rows, np.array(places)


def as_cells(boxes: Boxes, rng: np.random.Generator) -> dict[str, Array]:
    grid, rows, _ = _grid_rows(boxes, 1, rng)
    rows[:, :2] = rows[:, :2] / grid.strides - grid.cells
    rows[:, 2:4] = np.log(rows[:, 2:4] / grid.strides)
    return {"output": rows}


def as_decoded_cells(boxes: Boxes, rng: np.random.Generator) -> dict[str, Array]:
    return {"output": _grid_rows(boxes, 1, rng)[1]}


def as_rows(boxes: Boxes, rng: np.random.Generator) -> dict[str, Array]:
    return {"output": _grid_rows(boxes, 3, rng)[1], "raw": rng.normal(size=(3, 12, 16, 8))}


def as_columns(boxes: Boxes, rng: np.random.Generator) -> dict[str, Array]:
    _, rows, places = _grid_rows(boxes, 1, rng)
    rows[places, 5:] *= 0.96
    return {"output": np.delete(rows, 4, axis=1).T}


def as_turned_columns(boxes: Boxes, rng: np.random.Generator) -> dict[str, Array]:
    return {"output": as_columns(boxes, rng)["output"].T}


def as_columns_with_masks(boxes: Boxes, rng: np.random.Generator) -> dict[str, Array]:
    rows = as_columns(boxes, rng)["output"]
    coefficients = rng.normal(size=(32, rows.shape[1]))
    return {"output": np.concatenate([rows, coefficients]), "prototypes": rng.normal(size=(32, 24, 32))}


def _finished(boxes: Boxes, rng: np.random.Generator, rows: int = 20) -> Array:
    """Corners, score and class; below the boxes stand others of low scores."""
    low = rng.uniform(0, 60, (rows - len(boxes), 2))
    corners = np.concatenate([boxes.corners, np.concatenate([low, low + rng.uniform(5, 30, low.shape)], axis=1)])
    scores = np.concatenate([boxes.scores, np.sort(rng.uniform(0.02, 0.08, len(low)))[::-1]])
    classes = np.concatenate([boxes.classes, rng.integers(0, CLASSES, len(low))])
    return np.concatenate([corners, scores[:, None], classes[:, None]], axis=1)


def as_end_to_end(boxes: Boxes, rng: np.random.Generator) -> dict[str, Array]:
    return {"output": _finished(boxes, rng)}


def as_class_first(boxes: Boxes, rng: np.random.Generator) -> dict[str, Array]:
    """The class is −1 in rows without a box."""
    rows = _finished(boxes, rng)[:, [5, 4, 0, 1, 2, 3]]
    return {"output": np.concatenate([rows, np.full((4, 6), -1.0)])}


def as_numbered(boxes: Boxes, rng: np.random.Generator) -> dict[str, Array]:
    rows = _finished(boxes, rng)
    return {"output": np.concatenate([np.zeros((len(rows), 1)), rows[:, [0, 1, 2, 3, 5, 4]]], axis=1)}


def as_separate(boxes: Boxes, rng: np.random.Generator) -> dict[str, Array]:
    rows = _finished(boxes, rng)
    return {"boxes": rows[:, :4], "labels": rows[:, 5].astype(np.int64), "scores": rows[:, 4]}


def as_shares(boxes: Boxes, rng: np.random.Generator) -> dict[str, Array]:
    """Shares of the image, classes as floating-point numbers, and a count behind which the rows mean nothing."""
    rows = _finished(boxes, rng)
    rows[:, :4] /= [WIDTH, HEIGHT, WIDTH, HEIGHT]
    count = np.array([len(boxes)], np.float32)
    return {"places": rows[:, :4], "kinds": rows[:, 5], "sure": rows[:, 4], "count": count[0]}


def as_queries(boxes: Boxes, rng: np.random.Generator) -> dict[str, Array]:
    """Centres in shares of the image, and logits in which the last class stands for nothing."""
    rows = _finished(boxes, rng)
    middles, sides = (rows[:, :2] + rows[:, 2:4]) / 2, rows[:, 2:4] - rows[:, :2]
    probabilities = np.full((len(rows), CLASSES + 1), 1e-3)
    probabilities[np.arange(len(rows)), rows[:, 5].astype(int)] = rows[:, 4]
    probabilities[:, -1] = np.maximum(1 - probabilities[:, :-1].sum(axis=1), 1e-3)
    places = np.concatenate([middles, sides], axis=1) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    return {"logits": np.log(probabilities) + 5, "places": places}


@dataclass(frozen=True)
class Form:
    """A head: its name, and how it states boxes."""

    name: str
    state: Callable[[Boxes, np.random.Generator], dict[str, Array]]


FORMS = (
    *(Form("cells", as_cells), Form("cells", as_decoded_cells), Form("rows", as_rows), Form("columns", as_columns)),
    *(Form("columns", as_turned_columns), Form("columns", as_columns_with_masks), Form("end-to-end", as_end_to_end)),
    *(Form("end-to-end", as_class_first), Form("end-to-end", as_numbered), Form("separate", as_separate)),
    *(Form("separate", as_shares), Form("separate", as_queries)),
)


def stated(form: Form, scenes: list[Boxes], *, alone: bool = False) -> list[Batch]:
    """What a detector answers to images of these boxes: in one batch, or alone, without a dimension for samples."""
    rng = np.random.default_rng(3)
    answers = [{name: _typed(value) for name, value in form.state(boxes, rng).items()} for boxes in scenes]
    pictures = images(len(scenes))
    if alone:
        return [Batch(1, {"x": picture[None]}, answer) for picture, answer in zip(pictures, answers, strict=True)]
    outputs = {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}
    return [Batch(len(scenes), {"x": pictures}, outputs)]


def _typed(value: Array) -> Array:
    return value if np.asarray(value).dtype == np.int64 else np.asarray(value, np.float32)


def smooth(shape: tuple[int, ...], seed: int = 5, cell: int = 8) -> Array:
    """Blobs of normal numbers, [samples, channels, height, width]."""
    coarse = np.random.default_rng(seed).normal(size=(*shape[:2], -(-shape[2] // cell), -(-shape[3] // cell)))
    return np.kron(coarse, np.ones((1, 1, cell, cell)))[:, :, : shape[2], : shape[3]].astype(np.float32)


def _softmax(values: Array, axis: int) -> Array:
    powers = np.exp(values - values.max(axis=axis, keepdims=True))
    result: Array = powers / powers.sum(axis=axis, keepdims=True)
    return result


def _bumps(channels: int) -> Array:
    """Heat maps with a few round bumps between 0 and 1."""
    rows, columns = np.mgrid[:48, :64]
    maps = np.zeros((6, channels, 48, 64))
    rng = np.random.default_rng(2)
    for sample in range(6):
        for channel in range(channels):
            for _ in range(3):
                y, x = rng.uniform(4, 44), rng.uniform(4, 60)
                maps[sample, channel] += np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 20)
    return maps.clip(0, 1)


def _rng() -> np.random.Generator:
    return np.random.default_rng(11)


LOOK_ALIKES: dict[str, Callable[[], Array]] = {
    "heat maps of two channels": lambda: _bumps(2),
    "a heat map": lambda: _bumps(1),
    "logits of a heat map": lambda: np.log((_bumps(1) + 1e-4) / (1 - _bumps(1) + 1e-4)),
    "heat maps of two channels, last": lambda: np.moveaxis(_bumps(2), 1, 3),
    "heat maps of key points": lambda: _bumps(17),
    "features of a level": lambda: np.maximum(smooth((6, 64, 24, 32)), 0),
    "features of the last level": lambda: np.maximum(_rng().normal(size=(6, 512, 3, 4)), 0),
    "depth in metres": lambda: 4 + smooth((6, 1, HEIGHT, WIDTH)),
    "disparity between 0 and 1": lambda: (smooth((6, 1, HEIGHT, WIDTH)) * 0.2 + 0.5).clip(0, 1),
    "noise of three channels": lambda: _rng().normal(size=(6, 3, HEIGHT, WIDTH)),
    "class scores": lambda: 8 * _rng().normal(size=(6, 10)),
    "probabilities": lambda: _softmax(20 * _rng().normal(size=(6, 40)), 1),
    "features behind ReLU": lambda: np.maximum(_rng().normal(size=(6, 256)), 0),
    "probabilities of letters": lambda: _softmax(9 * _rng().normal(size=(6, 40, 97)), 2),
    "rows on a grid that are no boxes": lambda: _rng().normal(size=(6, 252, 85)),
    "probabilities on a grid": lambda: _rng().random((6, 252, 85)),
    "tokens": lambda: _rng().normal(size=(6, 197, 6)),
    "offsets of anchors": lambda: _rng().normal(size=(6, 252, 4)),
    "maps of one level of a detector": lambda: _rng().normal(size=(6, 24, 12, 16)),
    "probabilities of one sample alone": lambda: _softmax(_rng().normal(size=(1, 10)), 1),
    "one number": lambda: _rng().random((6, 1)),
    "nothing": lambda: np.zeros((6, 0, 6)),
}
"""Outputs of 6 images of which nothing can be said for sure."""
