"""Tasks are recognised from what a network answers, or not at all: never wrongly."""

from typing import Any

import answers_for_tests as answers
import numpy as np
import pytest
from answers_for_tests import FORMS, HEIGHT, LOOK_ALIKES, WIDTH, Form, images, scene, smooth, stated
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.detection import Detection
from onnx_lowrank.measures.heads.table import HEADS
from onnx_lowrank.measures.table import TASK_CHOICES, TASKS, recognise
from onnx_lowrank.measures.tally import Tally

Array = NDArray[Any]

SCENES = [scene(seed) for seed in range(6)]


def batch(**outputs: Array) -> Batch:
    return Batch(6, {"x": images(6)}, {name: np.asarray(value) for name, value in outputs.items()})


def names(*found: object) -> list[str]:
    return [str(getattr(task, "name", "")) for task in found]


every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.state.__name__)


@every_form
@pytest.mark.parametrize("alone", [False, True], ids=["in one batch", "without samples"])
def test_a_head_is_recognised_and_gives_the_boxes_that_it_states(form: Form, alone: bool) -> None:
    batches = stated(form, SCENES, alone=alone)
    (task,) = recognise(batches)
    assert isinstance(task, Detection) and task.kind == form.name
    found = [boxes for each in batches for boxes in task.answers(each) or ()]
    for boxes, wanted in zip(found, SCENES, strict=True):
        boxes = task.truth(boxes)
        np.testing.assert_array_equal(boxes.classes, wanted.classes)
        np.testing.assert_allclose(boxes.corners, wanted.corners, atol=0.01)
        np.testing.assert_allclose(boxes.scores, wanted.scores, atol=0.01)


@every_form
def test_a_head_that_is_given_reads_the_same(form: Form) -> None:
    batches = stated(form, SCENES)
    assert recognise(batches, "auto", form.name) == recognise(batches) == recognise(batches, "detection")


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_what_only_looks_alike_is_left_alone(name: str) -> None:
    value = LOOK_ALIKES[name]().astype(np.float32)
    assert recognise([Batch(len(value), {"x": images(len(value))}, {"y": value})]) == ()


def test_scores_of_a_small_image_are_no_box_in_its_only_cell() -> None:
    scores = np.random.default_rng(0).random((8, 1, 10)).astype(np.float32)
    seen = [Batch(1, {"x": images(1, height=32, width=32)}, {"y": value}) for value in scores]
    assert recognise(seen) == ()


def test_outputs_that_look_alike_do_not_disturb_each_other() -> None:
    everything = {str(number): make().astype(np.float32) for number, make in enumerate(LOOK_ALIKES.values())}
    assert recognise([batch(**everything)]) == ()


def scores(classes: int, fraction: int = 1) -> Array:
    return 9 * smooth((6, classes, HEIGHT // fraction, WIDTH // fraction), cell=max(8, 16 // fraction))


def probabilities(classes: int, fraction: int = 1) -> Array:
    powers = np.exp(scores(classes, fraction))
    result: Array = powers / powers.sum(axis=1, keepdims=True)
    return result


RECOGNISED: dict[str, tuple[Array, str, str | None]] = {
    "class scores of pixels": (scores(5), "segmentation", "scores"),
    "class scores of pixels, last": (np.moveaxis(scores(5), 1, 3), "segmentation", "scores"),
    "class scores at a quarter": (scores(19, 4), "segmentation", "scores"),
    "probabilities of two classes": (probabilities(2, 2), "segmentation", "scores"),
    "class numbers": (scores(5).argmax(axis=1), "segmentation", "class numbers"),
    "class numbers with a channel": (scores(5).argmax(axis=1)[:, None], "segmentation", "class numbers"),
    "a mask": ((scores(1) > 0).astype(np.float32), "segmentation", "mask"),
    "logits of a mask": (50 * scores(1), "segmentation", "logits of a mask"),
    "a picture": (images(6) + 0.01 * smooth((6, 3, HEIGHT, WIDTH)), "image", None),
    "a picture of 0 to 255": (255 * images(6), "image", None),
    "a larger picture": (np.kron(images(6), np.ones((1, 1, 4, 4))), "image", None),
    "a picture with its channels last": (np.moveaxis(images(6), 1, 3), "image", None),
    "a gray picture": (images(6).mean(axis=1, keepdims=True), "image", None),
    "unit vectors": (
        (lambda x: x / np.linalg.norm(x, axis=1, keepdims=True))(np.random.default_rng(1).normal(size=(6, 64))),
        "embedding",
        None,
    ),
}


@pytest.mark.parametrize("name", RECOGNISED)
def test_tasks_are_recognised(name: str) -> None:
    value, task, kind = RECOGNISED[name]
    (found,) = recognise([batch(y=value if value.dtype == np.int64 else value.astype(np.float32))])
    assert (found.name, found.kind, found.outputs) == (task, kind, ("y",))


def test_several_tasks_of_one_network_are_found_together() -> None:
    detector = stated(FORMS[0], SCENES)[0].outputs
    found = recognise([batch(**detector, roads=scores(3).astype(np.float32), lines=scores(2).astype(np.float32))])
    assert names(*found) == ["detection", "segmentation", "segmentation"]


@pytest.mark.parametrize("task", ["none", "classification"])
def test_some_choices_measure_nothing(task: str) -> None:
    assert recognise(stated(FORMS[0], SCENES), task) == ()


@pytest.mark.parametrize("task", TASKS)
def test_a_task_that_no_output_fits_is_refused(task: str) -> None:
    with pytest.raises(ModelError, match=rf"--task {task} needs .*, and the model has the outputs y \[6, 2, 2, 2, 2\]"):
        recognise([batch(y=np.zeros((6, 2, 2, 2, 2), np.float32))], task)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_no_output_fits_is_refused(head: str) -> None:
    with pytest.raises(ModelError, match=rf"--boxes {head} needs .*, and the model has the outputs y \[6, 10\]"):
        recognise([batch(y=np.zeros((6, 10), np.float32))], "auto", head)


def test_a_task_that_is_given_needs_no_proof() -> None:
    features = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    assert recognise([batch(y=features)]) == ()
    assert names(*recognise([batch(y=features)], "embedding")) == ["embedding"]
    maps = answers._bumps(2).astype(np.float32)
    assert names(*recognise([batch(y=maps)], "segmentation")) == ["segmentation"]


@every_form
def test_numbers_that_are_none_do_no_harm(form: Form) -> None:
    batches = stated(form, SCENES)
    (task,) = recognise(batches)
    broken = {
        name: np.full_like(value, np.nan) if value.dtype.kind == "f" else value
        for name, value in batches[0].outputs.items()
    }
    for boxes in task.answers(Batch(6, batches[0].inputs, broken)) or ():
        assert len(boxes) == 0


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_outputs_are_looked_at_without_harm(data: st.DataObject) -> None:
    """Whatever is recognised can be measured, or is said not to be."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    samples = data.draw(st.integers(1, 3))
    shapes = st.lists(st.sampled_from([0, 1, 2, 4, 6, 7, 20, 21, 32, 63]), max_size=3)
    given_shapes = data.draw(st.lists(shapes, min_size=1, max_size=3))
    choice = data.draw(st.sampled_from([*((task, "auto") for task in TASK_CHOICES), *(("auto", h) for h in HEADS)]))
    dtype = data.draw(st.sampled_from([np.float32, np.float16, np.int64, np.bool_]))

    def answered(number: int) -> Batch:
        rng = np.random.default_rng([seed, number])
        outputs = {}
        for index, shape in enumerate(given_shapes):
            values = rng.normal(size=(samples, *shape)) * 10.0 ** rng.integers(-2, 4)
            values[rng.random(values.shape) < 0.1 * rng.integers(0, 2)] = rng.choice([np.nan, np.inf, 0])
            with np.errstate(all="ignore"):
                outputs[f"y{index}"] = (
                    np.nan_to_num(values).astype(dtype) if dtype is np.int64 else values.astype(dtype)
                )
        return Batch(samples, {"x": images(samples, height=32, width=32)}, outputs)

    try:
        found = recognise([answered(0), answered(1)], *choice)
    except ModelError:
        return
    for task in found:
        added = Tally(task).with_batch(answered(0), answered(2))
        if added is not None:
            assert all(np.isfinite(each.value) for each in added.estimates().values())
            task.details(added.scores)
