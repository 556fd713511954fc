"""The steps of a walk: their order, the memory that they leave to one another, and the network that they change."""

import contextlib
import gc
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from models_for_tests import classifier, deep_residual, photo, plain

from onnx_lowrank.calibration.shard import Shard
from onnx_lowrank.calibration.store import TensorStore
from onnx_lowrank.factorise.forms.cp import PixelMoments, Polyadic
from onnx_lowrank.factorise.forms.spatial import ColumnMoments, Columns
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import compress, prepare
from onnx_lowrank.progress import Listener
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.profile import Targets
from onnx_lowrank.stages.refit import RefitStep, Refitted
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import SolveStep, Step, steps
from onnx_lowrank.stages.walk import walk


@contextlib.contextmanager
def prepared_run(model: onnx.ModelProto, speedup: float = 1.5, **options: Any) -> Iterator[tuple[Run, Prepared]]:
    run = Run.start(Request(model, photo(1, (50, 3, 12, 10)), Options(speedup=speedup, threads=1, **options)))
    with contextlib.ExitStack() as stack:
        yield run, prepare(run, stack)


def test_a_walk_leaves_the_original_network_as_it_was() -> None:
    with prepared_run(classifier("transB 1")) as (run, prepared):
        network, loaded = prepared.read.network, prepared.read.loaded
        before = export(network, loaded).SerializeToString(deterministic=True)
        queue: deque[Step] = deque(steps(run, prepared))
        walked = walk(run, network, queue, prepared.shard)
        assert not queue and walked.solutions
        assert export(network, loaded).SerializeToString(deterministic=True) == before
        assert export(walked.network, loaded).SerializeToString(deterministic=True) != before


def test_steps_come_in_the_order_of_the_network_and_say_how_much_memory_they_take() -> None:
    with prepared_run(classifier("transB 0")) as (run, prepared):
        ordered = steps(run, prepared)
        outputs = [name for node in prepared.read.network.nodes for name in (tensor.name for tensor in node.outputs)]
        assert [step.outputs[0] for step in ordered] == sorted((step.outputs[0] for step in ordered), key=outputs.index)
        assert {type(step) for step in ordered} == {SolveStep, RefitStep}
        assert all(step.bytes() > 0 and step.target_bytes > 0 for step in ordered)


def test_a_step_takes_about_as_much_memory_as_it_says() -> None:
    with prepared_run(classifier("transB 0")) as (run, prepared):
        for step in steps(run, prepared):
            if isinstance(step, SolveStep):
                (answer,) = prepared.shard.rows(step.questions, step.forms, 0)
                regressors = [form.regressors(rows) for form, rows in zip(step.forms, answer.inputs, strict=True)]
                taken = sum(rows.nbytes for rows in answer.inputs) + 2 * sum(rows.nbytes for rows in regressors)
                assert step.bytes() == pytest.approx(taken + 2 * step.target_bytes, rel=0.01)


def test_a_layer_whose_fit_takes_too_much_memory_is_left_alone() -> None:
    with prepared_run(classifier("transB 1"), speedup=3.0) as (run, prepared):
        refits = [step for step in steps(run, prepared) if isinstance(step, RefitStep)]
        assert refits
        for step in refits:
            change = replace(step, memory_limit=step.bytes() - 1).run(prepared.shard, 1 << 30)
            assert change.kept and change.reason == "left alone: its samples take too much memory (--memory)"


@dataclass
class Idle:
    """A step that changes nothing and remembers the memory that it was given."""

    target_bytes: int
    own_bytes: int
    outputs: tuple[str, ...] = ("y",)
    memory: list[int] = field(default_factory=list)

    def bytes(self) -> int:
        return self.own_bytes

    def run(self, shard: Shard, memory: int) -> Refitted:
        self.memory.append(memory)
        return Refitted(cast(Any, None), None, True, "left alone")


class NoSamples:
    """A shard that is never asked for rows."""

    macs_executed = 0


def test_a_shard_may_hold_what_the_remaining_targets_and_the_step_leave() -> None:
    run = Run.start(Request(plain(), options=Options(memory=1 << 20)))
    idle = [Idle(300_000, 50_000), Idle(200_000, 400_000), Idle(100_000, 0), Idle(0, 2_000_000)]
    queue: deque[Step] = deque(idle)
    walk(run, normalise(plain()), queue, cast(Shard, NoSamples()), overhead=1000)
    spare = (1 << 20) - 1000
    assert [step.memory for step in idle] == [
        [spare - 600_000 - 50_000], [spare - 300_000 - 400_000], [spare - 100_000], [0]
    ]  # fmt: skip


class Living:
    """A progress that counts, at every step of a stage, the objects of a type that are alive."""

    def __init__(self, kind: type, stage: str) -> None:
        self._kind, self._stage = kind, stage
        self._before = self._alive()
        self.counts: list[tuple[int, int, int]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == self._stage:
            self.counts.append((done, total, self._alive() - self._before))

    def _alive(self) -> int:
        gc.collect()
        return sum(isinstance(thing, self._kind) for thing in gc.get_objects())


def mild_request() -> Request:
    """A run that leaves some layers alone."""
    return Request(
        deep_residual(3),
        photo(1, (20, 3, 12, 10)),
        Options(speedup=1.3, threads=1, rank_multiple=1, objective="energies"),
    )


def test_rows_are_given_up_step_by_step_and_those_of_layers_that_stay_at_once() -> None:
    living = Living(Targets, "factorise")
    report = compress(mild_request(), Listener(living)).report
    assert any(site.kept for site in report.sites)
    assert living.counts == [(0, living.counts[0][1], living.counts[0][1])] + [
        # The step that has just ended is still at hand.
        (done, total, total - done + 1) for done, total, _ in living.counts[1:]
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [ColumnMoments, PixelMoments, Columns, Polyadic])
def test_what_only_the_planner_needs_is_given_up_before_the_walk(kind: type) -> None:
    living = Living(kind, "factorise")
    compress(mild_request(), Listener(living))
    assert living.counts and {alive for _, _, alive in living.counts} == {0}


@pytest.mark.parametrize("shards", [1, 2])
def test_no_activations_are_held_while_the_models_are_compared(shards: int) -> None:
    living = Living(TensorStore, "validate")
    compress(mild_request(), Listener(living), shards=shards)
    assert {alive for _, _, alive in living.counts} == {0}


def test_weights_alone_take_no_rows() -> None:
    with prepared_run(deep_residual(2), solver="weights") as (run, prepared):
        ordered = steps(run, prepared)
        assert ordered and all(step.bytes() == step.target_bytes == 0 for step in ordered)
        walked = walk(run, prepared.read.network, deque(ordered), cast(Shard, NoSamples()))
        assert walked.macs_executed == 0 and len(walked.solutions) == len(ordered)
        assert all(np.isfinite(s.replacements[0].factorization.bias).all() for s in walked.solutions.values())
