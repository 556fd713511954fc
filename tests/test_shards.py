"""A run does not depend on how its samples are divided among shards, nor on callers that stop in the middle."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import models_for_tests
import numpy as np
import onnx
import pytest
from models_for_tests import build, classifier, conv, deep_residual, photo, relu, residual, weights

from onnx_lowrank.calibration.local_shard import LocalShard
from onnx_lowrank.calibration.shard import ProfileQuestion
from onnx_lowrank.calibration.shards import open_shards
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import Result, compress, prepare
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.refit import RefitStep
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import SolveStep, Step, steps
from onnx_lowrank.stages.walk import walk

ROOT = Path(__file__).resolve().parents[1]
MNIST, CALIBRATION = ROOT / "models" / "mnist_vgg.onnx", ROOT / "models" / "mnist_calib.npz"


def grouped() -> onnx.ModelProto:
    """A stem and two convolutions in groups."""
    stored = {"w1": weights(1, 16, 3, 3, 3), "w2": weights(2, 24, 8, 3, 3), "w3": weights(3, 24, 6, 3, 3)}
    nodes = [
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2", group=2), relu("c2", "r2"),
        conv("conv3", "r2", "w3", "y", group=4),
    ]  # fmt: skip
    return build(nodes, stored)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "residual": residual,
    "grouped": grouped,
    "classifier": lambda: classifier("MatMul and Add"),
    "deep": lambda: deep_residual(3),
}


def request_for(model: onnx.ModelProto, **options: Any) -> Request:
    return Request(model, photo(1, (50, 3, 12, 10)), Options(**{"speedup": 1.5, "threads": 1, **options}))


@contextlib.contextmanager
def prepared_run(request: Request) -> Iterator[tuple[Run, Prepared]]:
    run = Run.start(request)
    with contextlib.ExitStack() as stack:
        yield run, prepare(run, stack)


@contextlib.contextmanager
def fresh_shard(run: Run, prepared: Prepared) -> Iterator[LocalShard]:
    """A shard at the network's input, with all samples."""
    counted, sampling = prepared.counted, prepared.sampled.sampling
    with open_shards(prepared.read.network, sampling, run.open_session, counted.macs.all) as shard:
        assert isinstance(shard, LocalShard)
        yield shard


def same(one: Result, other: Result) -> bool:
    assert one.report.sites == other.report.sites and one.report.refitted == other.report.refitted
    return bool(one.model.SerializeToString(deterministic=True) == other.model.SerializeToString(deterministic=True))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"solver": "linear", "form": "3d"}], ids=str)
@pytest.mark.parametrize("shards", [2, 7])
def test_several_shards_give_the_same_bytes_as_one(name: str, options: dict[str, Any], shards: int) -> None:
    request = request_for(NETWORKS[name](), **options)
    assert same(compress(request, shards=shards), compress(request))


def test_more_shards_than_batches_are_as_many_as_batches() -> None:
    request = replace(request_for(residual()), data=photo(1, (3, 3, 12, 10)))
    assert same(compress(request, shards=50), compress(request))


def test_the_embedded_model_in_two_shards_has_the_same_bytes() -> None:
    request = Request(MNIST, CALIBRATION, Options(images=60, threads=1))
    assert same(compress(request, shards=2), compress(request))


def solve_steps(run: Run, prepared: Prepared) -> list[SolveStep]:
    return [step for step in steps(run, prepared) if isinstance(step, SolveStep)]


def rows_of(shard: LocalShard, step: SolveStep) -> list[np.ndarray[Any, Any]]:
    answer = shard.rows(step.site, step.forms, step.target.per_sample, 1 << 30)
    return [*answer.inputs, *([answer.shortcut] if answer.shortcut is not None else [])]


def test_a_question_that_fails_in_the_middle_leaves_the_shard_as_good_as_new() -> None:
    with prepared_run(request_for(deep_residual(3))) as (run, prepared):
        first, second, *_ = solve_steps(run, prepared)
        with fresh_shard(run, prepared) as healthy, fresh_shard(run, prepared) as interrupted:
            for shard in (healthy, interrupted):
                change = first.run(shard, 1 << 30)
                assert change.name == first.site.name
            expected = rows_of(healthy, second)
            for batches in (0, 1, 3):
                seen = 0

                def stop(patches: Any, batches: int = batches) -> Any:
                    nonlocal seen
                    seen += 1
                    if seen > batches:
                        raise InterruptedError
                    return second.forms[0].inputs(patches)

                broken = (replace(second.forms[0], inputs=stop),)
                with pytest.raises(InterruptedError):
                    interrupted.rows(second.site, broken, second.target.per_sample, 1 << 30)
                for one, other in zip(rows_of(interrupted, second), expected, strict=True):
                    np.testing.assert_array_equal(one, other)


def test_a_profile_that_is_left_early_changes_nothing() -> None:
    request = request_for(residual())
    with prepared_run(request) as (run, prepared):
        (first, *_) = solve_steps(run, prepared)
        with fresh_shard(run, prepared) as shard, fresh_shard(run, prepared) as other:
            per_sample = {site.name: 5 for site in prepared.counted.sites}
            question = ProfileQuestion(prepared.counted.sites, (), per_sample, frozenset(), 0)
            next(iter(shard.profile(question)))
            whole = [(s.batch, s.name, s.rows.tobytes()) for s in shard.profile(question)]
            assert whole == [(s.batch, s.name, s.rows.tobytes()) for s in other.profile(question)]
            for one, expected in zip(rows_of(shard, first), rows_of(other, first), strict=True):
                np.testing.assert_array_equal(one, expected)


def test_answers_are_rows_and_never_whole_activations() -> None:
    with prepared_run(request_for(residual())) as (run, prepared), fresh_shard(run, prepared) as shard:
        samples = prepared.sampled.sampling.samples
        for step in solve_steps(run, prepared):
            for rows in rows_of(shard, step):
                assert len(rows) == step.target.per_sample * samples


def test_a_walk_leaves_the_original_network_as_it_was() -> None:
    with prepared_run(request_for(classifier("transB 1"))) as (run, prepared):
        network, loaded = prepared.read.network, prepared.read.loaded
        before = export(network, loaded).SerializeToString(deterministic=True)
        queue: deque[Step] = deque(steps(run, prepared))
        walked = walk(run, network, queue, prepared.shard)
        assert not queue and walked.solutions
        assert export(network, loaded).SerializeToString(deterministic=True) == before
        assert export(walked.network, loaded).SerializeToString(deterministic=True) != before


def test_steps_come_in_the_order_of_the_network_and_each_says_what_it_takes() -> None:
    model = models_for_tests.classifier("transB 0")
    with prepared_run(request_for(model)) as (run, prepared):
        found = steps(run, prepared)
        outputs = [name for node in prepared.read.network.nodes for name in (tensor.name for tensor in node.outputs)]
        assert [step.output for step in found] == sorted((step.output for step in found), key=outputs.index)
        assert {type(step) for step in found} == {SolveStep, RefitStep}
        assert all(step.bytes() > 0 and step.target_bytes > 0 for step in found)


def test_a_layer_whose_fit_takes_too_much_memory_is_left_alone() -> None:
    with prepared_run(request_for(classifier("transB 1"), speedup=3.0)) as (run, prepared):
        refits = [step for step in steps(run, prepared) if isinstance(step, RefitStep)]
        assert refits
        for step in refits:
            change = replace(step, memory_limit=step.bytes() - 1).run(prepared.shard, 1 << 30)
            assert change.kept and change.reason == "left alone: its samples take too much memory (--memory)"
