"""Whole runs measure what outputs are for and change nothing else, and refuse early what cannot be measured."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_for_tests import contents, rows
from models_for_tests import run_model
from networks_for_tasks import detector, restorer, samples, segmenter
from numpy.typing import NDArray

from onnx_lowrank import compress
from onnx_lowrank.cli import compress as cli
from onnx_lowrank.errors import ModelError, QualityError, UsageError
from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.table import TASKS, recognise
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import Result
from onnx_lowrank.stages.request import Request

Array = NDArray[Any]

DATA = samples(30)
NETWORKS: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, str]]] = {
    "image": (restorer, {}),
    "segmentation": (segmenter, {"task": "segmentation"}),
    "detection": (detector, {"boxes": "cells"}),
}
"""Networks with random weights, of which only the first proves what it is for."""

every_network = pytest.mark.parametrize("name", NETWORKS)


def run(name: str, **more: Any) -> Result:
    make, options = NETWORKS[name]
    given = {"solver": "linear", "threads": 1, "require": "none", "exclude": "conv0|head", **options, **more}
    return compress(make(), DATA, 3, **given)


usual = functools.cache(run)


@every_network
def test_the_report_holds_the_measures_of_the_written_model(name: str) -> None:
    """On the samples that judge, which are the last fifth of the draw."""
    result = usual(name)
    (report,) = result.report.tasks
    assert (report.task, report.samples) == (name, 6) and tuple(report.measures) == TASKS[name].measures
    judging = DATA[np.random.default_rng(0).permutation(len(DATA))[-6:]]
    make, options = NETWORKS[name]
    before, after = (Batch(6, {"x": judging}, run_model(model, {"x": judging})) for model in (make(), result.model))
    (found,) = recognise([before], options.get("task", "auto"), options.get("boxes", "auto"))
    answers = zip(found.answers(before) or (), found.answers(after) or (), strict=True)
    scores = [found.score(found.truth(original), answer) for original, answer in answers]
    for measure, expected in found.values(scores, np.ones((1, 6))).items():
        assert report.measures[measure].value == pytest.approx(float(expected[0]), rel=1e-3)
    assert json.loads(result.report.to_json())["tasks"][0]["measures"].keys() == report.measures.keys()


@every_network
def test_measuring_changes_nothing_of_the_result(name: str) -> None:
    unmeasured = run(name, task="none", boxes="auto")
    assert unmeasured.model == usual(name).model and unmeasured.report.outputs == usual(name).report.outputs
    assert unmeasured.report.tasks == ()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "image",
            {"task": "embedding"},
            r"--task embedding needs .* and the model has the outputs y \[\d, 3, 32, 32\]",
        ),
        ("image", {"boxes": "columns"}, "--boxes columns needs an output"),
        ("image", {"require": "ap50=0.9"}, r"--require ap50=0\.9 needs boxes .*: say how they are read with --boxes"),
        ("segmentation", {"task": "auto", "require": "miou=0.9"}, "--task segmentation takes them as such"),
        ("segmentation", {"require": "cosine=0.9"}, r"--require cosine=0\.9 needs a floating-point output"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_work(name: str, options: dict[str, str], message: str) -> None:
    stages = list[str]()
    with pytest.raises(ModelError, match=message) as refused:
        run(name, progress=lambda stage, done, total: stages.append(stage), **options)
    assert "\n" not in str(refused.value) and set(stages) <= {"load", "data"}


def test_labels_for_outputs_of_another_kind_are_refused_before_the_work(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", x=DATA, masks=np.zeros((len(DATA), 32, 32), np.int64))
    stages = list[str]()
    with pytest.raises(ModelError, match=r"--test needs an output of class scores .*: --task segmentation takes them"):
        run("image", test=tmp_path / "test.npz", progress=lambda stage, done, total: stages.append(stage))
    assert set(stages) <= {"load", "data"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "boxes"}, "task is 'boxes': choose one of auto, detection"),
        ({"boxes": "yolo"}, "boxes is 'yolo': choose one of auto, cells"),
        ({"task": 3}, "task is 3: give a name"),
        ({"boxes": "cells", "task": "image"}, "boxes is 'cells', which the task image has none of"),
    ],
)
def test_choices_without_meaning(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**options)


def test_points_are_lost_on_labelled_samples_alone() -> None:
    with pytest.raises(UsageError, match=r"require is 'accuracy=0\.5': that needs labelled samples, so give test"):
        Request("in.onnx", options=Options(require="accuracy=0.5"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(segmenter(), "in.onnx")
    np.save("data.npy", DATA)
    masks = run_model(segmenter(), {"x": DATA[:5]})["y"].argmax(axis=1)
    np.savez("test.npz", x=DATA[:5], masks=masks)
    return tmp_path


LINE = ("in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "3", "--solver", "linear", "--exclude", "conv0")


def test_the_command_prints_what_the_outputs_are_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--task", "segmentation", "--require", "none", "--test", "test.npz", "--report", "r.json")
    assert cli.main([*LINE, *more]) == 0
    out, report = capsys.readouterr().out, json.loads(Path("r.json").read_text(encoding="utf-8"))
    (task,), labelled = report["tasks"], report["labelled"]
    found = task["measures"]["miou"]
    measured = f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
    table = out.split("What the outputs are for")[1].split("Segmentation on 5 labelled samples")
    assert rows(table[0])["segmentation, scores"] == ["y", "mIoU", measured, "6", "4 classes"]
    before, after = (labelled[which]["miou"]["value"] for which in ("before", "after"))
    assert before == 1 and rows(table[1])["mIoU"][1].startswith(f"{after:.3f} (")
    assert f"mIoU {measured}, on labelled samples mIoU 1.000 → {after:.3f}" in out.splitlines()[-1]


def test_a_result_that_misses_a_measure_is_not_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents()
    assert cli.main([*LINE, "--task", "segmentation", "--require", "miou=1"]) == QualityError.exit_code
    assert "mIoU of 'y' is 0." in capsys.readouterr().err and contents() == before


@pytest.mark.parametrize("option", [("--task", "image"), ("--boxes", "cells")])
def test_a_dry_run_measures_nothing(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["in.onnx", "--dry-run", *option]) == UsageError.exit_code
    assert f"--dry-run leaves nothing to measure: drop {option[0]} or --dry-run" in capsys.readouterr().err
