"""A run does not depend on how its samples are divided among shards, nor on questions that were left in the middle."""

import contextlib
import gc
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from models_for_tests import build, classifier, conv, deep_residual, photo, relu, residual, weights
from numpy.typing import NDArray

from onnx_lowrank.calibration.local_shard import LocalShard
from onnx_lowrank.calibration.shard import ProfileQuestion, Shard
from onnx_lowrank.calibration.shards import open_shards
from onnx_lowrank.interface import Feeds
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import compress, prepare
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.report.schema import Report
from onnx_lowrank.runtime.session import Session
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import SolveStep, steps

Array = NDArray[Any]

PLENTY = 1 << 30

ALL_ROWS_NO_ACTIVATIONS = 512 << 20
"""Memory for all rows of a small network, of which the process itself leaves nothing for activations."""


def grouped() -> onnx.ModelProto:
    """A stem and two convolutions in groups."""
    stored = {"w1": weights(1, 16, 3, 3, 3), "w2": weights(2, 24, 8, 3, 3), "w3": weights(3, 24, 6, 3, 3)}
    nodes = [
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2", group=2), relu("c2", "r2"),
        conv("conv3", "r2", "w3", "y", group=4),
    ]  # fmt: skip
    return build(nodes, stored)


def in_fours() -> onnx.ModelProto:
    """A network that demands a batch of four samples."""
    nodes = [conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "y")]
    stored = {"w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 8, 8, 3, 3)}
    return build(nodes, stored, input_shape=(4, 3, 12, 10), output_shape=(4, 8, 12, 10))


def refits(report: Report) -> bool:
    return any(not layer.kept for layer in report.refitted)


def factorises(report: Report) -> bool:
    return any(site.form for site in report.sites)


@dataclass(frozen=True)
class Case:
    """A run to be divided among shards.

    Attributes
    ----------
    model, samples, options, plan
        The run.
    shards
        The number of shards.
    memory
        The memory of the divided run; None for that of the run in one shard.
    shows
        Whether a report shows that the case does what its name says.
    """

    model: onnx.ModelProto
    shards: int
    samples: int = 50
    options: dict[str, Any] = field(default_factory=dict)
    plan: Plan | None = None
    memory: int | None = None
    shows: Callable[[Report], bool] = factorises


CASES = {
    "a shortcut that is made behind its site": Case(residual(), 2),
    "groups, and a batch of another size at the end": Case(grouped(), 7, options={"solver": "linear", "form": "3d"}),
    "a fully connected layer that is fitted again": Case(
        classifier("MatMul and Add"), 3, options={"speedup": 3.0}, shows=refits
    ),
    "a fully connected layer that is factorised": Case(
        classifier("transB 0"), 2, options={"include_gemm": True, "include": "fc"},
        plan=Plan((SitePlan("fc", "channel", (3,)),)),
    ),
    "layers that are refined together": Case(
        deep_residual(3), 3, options={"refine": 8}, shows=lambda report: any(not own.kept for own in report.refined)
    ),
    "later sites that see the original network": Case(deep_residual(2), 3, options={"symmetric": True}),
    "activations that are computed again or go to disk": Case(
        deep_residual(10), 3, samples=12, options={"solver": "linear"}, memory=ALL_ROWS_NO_ACTIVATIONS
    ),
    "rows that do not all fit in memory": Case(
        deep_residual(2), 2, options={"memory": 1 << 20}, shows=lambda report: report.cost.rows_per_site < 45 * 120
    ),
    "a batch size that the model demands": Case(in_fours(), 4, samples=18),
    "as many shards as batches of one sample": Case(residual(), 50, samples=3),
}  # fmt: skip


def request_for(model: onnx.ModelProto, samples: int = 50, **options: Any) -> Request:
    return Request(
        model, photo(1, (samples, 3, 12, 10)), Options(**{"speedup": 1.5, "threads": 1, "require": "none", **options})
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_several_shards_give_the_same_bytes_as_one(case: Case) -> None:
    request = replace(request_for(case.model, case.samples, **case.options), plan=case.plan)
    divided = request
    if case.memory:
        divided = replace(request, options=replace(request.options, memory=case.memory))
    one, several = compress(request), compress(divided, shards=case.shards)
    assert factorises(one.report) and case.shows(one.report)
    assert one.report.sites == several.report.sites and one.report.refitted == several.report.refitted
    assert one.model.SerializeToString(deterministic=True) == several.model.SerializeToString(deterministic=True)
    # Every sample passes every layer as often as in one shard, unless there is less memory.
    passes, passes_divided = one.report.cost.forward_passes, several.report.cost.forward_passes
    assert passes_divided > passes if case.memory else passes_divided == passes


@contextlib.contextmanager
def prepared_run(model: onnx.ModelProto, **options: Any) -> Iterator[tuple[Run, Prepared]]:
    run = Run.start(request_for(model, **options))
    with contextlib.ExitStack() as stack:
        yield run, prepare(run, stack)


@contextlib.contextmanager
def fresh_shard(run: Run, prepared: Prepared, count: int = 1) -> Iterator[Shard]:
    """A shard at the network's input, with all samples."""
    counted, sampling = prepared.counted, prepared.sampled.sampling
    with open_shards(prepared.read.network, sampling, run.open_session, counted.macs.all, count) as shard:
        yield shard


def solve_steps(run: Run, prepared: Prepared) -> list[SolveStep]:
    return [step for step in steps(run, prepared) if isinstance(step, SolveStep)]


def rows_of(shard: Shard, step: SolveStep, memory: int = PLENTY) -> list[Array]:
    (answer,) = shard.rows(step.questions, step.forms, memory)
    return [*answer.inputs, *([answer.shortcut] if answer.shortcut is not None else [])]


def interrupted(step: SolveStep, batches: int) -> SolveStep:
    """The step, whose rows the user interrupts after some batches."""
    seen = 0

    def inputs(patches: Array) -> Array:
        nonlocal seen
        seen += 1
        if seen > batches:
            raise KeyboardInterrupt
        return step.forms[0].inputs(patches)

    return replace(step, forms=(replace(step.forms[0], inputs=inputs),))


@pytest.mark.parametrize(("memory", "count"), [(PLENTY, 1), (0, 1), (PLENTY, 2), (0, 2)])
def test_a_question_that_is_left_in_the_middle_leaves_the_shard_as_good_as_new(
    memory: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with prepared_run(deep_residual(3)) as (run, prepared):
        first, second, *_ = solve_steps(run, prepared)
        with fresh_shard(run, prepared) as healthy, fresh_shard(run, prepared, count) as shard:
            for one in (healthy, shard):
                assert first.run(one, memory).name == first.sites[0].name
            assert any(tmp_path.rglob("*.npz")) == (memory == 0)
            expected = rows_of(healthy, second, PLENTY)
            for batches in (0, 1, 8):
                with pytest.raises(KeyboardInterrupt):
                    rows_of(shard, interrupted(second, batches), memory)
                for rows, expected_rows in zip(rows_of(shard, second, memory), expected, strict=True):
                    np.testing.assert_array_equal(rows, expected_rows)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_question_keeps_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with prepared_run(deep_residual(3)) as (run, prepared), fresh_shard(run, prepared) as shard:
        first, second, *_ = solve_steps(run, prepared)
        rows_of(shard, first, 0)
        assert list(tmp_path.rglob("*.npz"))
        with pytest.raises(KeyboardInterrupt):
            rows_of(shard, interrupted(second, 2), 0)
        assert list(tmp_path.iterdir()) == []


def test_a_profile_that_is_left_early_changes_nothing() -> None:
    with prepared_run(residual()) as (run, prepared):
        (first, *_) = solve_steps(run, prepared)
        with fresh_shard(run, prepared) as shard, fresh_shard(run, prepared) as other:
            question = ProfileQuestion(
                prepared.counted.sites, (), {site.name: 5 for site in prepared.counted.sites}, frozenset(), 0
            )
            next(iter(shard.profile(question)))
            whole = [(s.batch, s.name, s.rows.tobytes()) for s in shard.profile(question)]
            assert whole == [(s.batch, s.name, s.rows.tobytes()) for s in other.profile(question)]
            for one, expected in zip(rows_of(shard, first), rows_of(other, first), strict=True):
                np.testing.assert_array_equal(one, expected)


def test_answers_are_rows_and_never_whole_activations() -> None:
    with prepared_run(residual()) as (run, prepared), fresh_shard(run, prepared) as shard:
        samples = prepared.sampled.sampling.samples
        for step in solve_steps(run, prepared):
            for rows in rows_of(shard, step):
                assert len(rows) == step.questions[0].per_sample * samples


class Watched:
    """An opener of sessions that knows which sessions and which of their outputs are still alive."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.sessions: list[weakref.ref[Session]] = []
        self.outputs: list[weakref.ref[Array]] = []
        self.most_sessions = 0

    def open(self, model: onnx.ModelProto | bytes, label: str) -> Session:
        session = self._run.open_session(model, label)
        self.sessions.append(weakref.ref(session))
        self.most_sessions = max(self.most_sessions, alive(self.sessions))

        class Recorded:
            outputs, types = session.outputs, session.types

            def __call__(recorded, feeds: Feeds) -> dict[str, Array]:  # noqa: N805
                answer = session(feeds)
                self.outputs += [weakref.ref(value) for value in answer.values()]
                return answer

        return cast(Session, Recorded())


def alive(references: Sequence[weakref.ref[Any]]) -> int:
    gc.collect()
    return sum(reference() is not None for reference in references)


def test_a_shard_runs_one_model_at_a_time_and_holds_no_activation_once_it_is_closed() -> None:
    with prepared_run(deep_residual(3)) as (run, prepared):
        watched, sampling = Watched(run), prepared.sampled.sampling
        step, *_ = solve_steps(run, prepared)
        macs, batches = prepared.counted.macs.all, range(len(sampling.batches))
        with LocalShard(prepared.read.network.copy(), sampling, batches, watched.open, macs) as shard:
            sites = prepared.counted.sites
            question = ProfileQuestion(
                sites, (), {site.name: 5 for site in sites}, frozenset(site.name for site in sites), 2
            )
            assert len(list(shard.profile(question))) == len(sites) * len(batches)
            assert (len(watched.sessions), watched.most_sessions) == (2, 1)
            rows_of(shard, step)
            assert watched.most_sessions == 1 and alive(watched.sessions) == 0
            assert alive(watched.outputs) >= len(batches)
        assert alive(watched.outputs) == 0
