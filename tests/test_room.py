"""What a form never needs is not collected, and solving a layer keeps within its memory."""

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from forms_for_tests import dense, every_kind, form_at, highest_ranks, judging
from models_for_tests import build, conv, photo, relu, weights
from numpy.typing import NDArray

from onnx_lowrank import compress
from onnx_lowrank.calibration.local_shard import pieces, site_patches
from onnx_lowrank.errors import TargetError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import compact
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.layer import solve
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import prepare
from onnx_lowrank.stages.profile import needed_preparations
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.room import left_out, statistics_room
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import SolveStep, steps

Array = NDArray[Any]
KERNEL = np.random.default_rng(1).standard_normal((4, 3, 3, 5))
PATCHES = np.random.default_rng(2).standard_normal((500, *KERNEL.shape[1:])).astype(np.float32)
TARGETS = np.einsum("nchw,dchw->nd", PATCHES, KERNEL).astype(np.float32)


@every_kind
@pytest.mark.parametrize("nonlinear", [False, True])
def test_a_compact_form_is_exact_at_full_rank_and_reads_less(kind: FormKind, nonlinear: bool) -> None:
    form = form_at(kind, KERNEL, highest_ranks(kind, KERNEL), PATCHES)
    small = compact(form)
    columns = small.inputs(PATCHES)
    assert columns.shape == (len(PATCHES), 1, form.prior.shape[1])
    chain, _ = solve(small, Rows(columns, TARGETS, judging(len(PATCHES))), None, nonlinear=nonlinear)
    np.testing.assert_allclose(dense(small.compose(chain)), KERNEL, atol=1e-4)


@every_kind
def test_the_linear_solution_of_a_compact_form_is_that_of_the_form(kind: FormKind) -> None:
    form = form_at(kind, KERNEL, tuple(-(-rank // 3) for rank in highest_ranks(kind, KERNEL)), PATCHES)
    kernels = []
    for one in (form, compact(form)):
        chain, _ = solve(one, Rows(one.inputs(PATCHES), TARGETS, judging(len(PATCHES))), None, nonlinear=False)
        kernels.append(dense(one.compose(chain)))
    np.testing.assert_allclose(kernels[0], kernels[1], atol=1e-4)


@pytest.mark.parametrize("most", [0, 1, 5, 7, 8, 20, 23, 24, 1000])
def test_patches_gathered_in_pieces_come_in_the_same_order(most: int) -> None:
    (site,) = find_sites(normalise(build([conv("c", "x", "w", "y", group=2)], {"w": weights(1, 4, 2, 3, 3)},
                                         input_shape=("N", 4, "H", "W"))), include=".").sites  # fmt: skip
    x, places = photo(1, (3, 4, 6, 5)), np.random.default_rng(0).permutation(30)[:8]
    whole = site_patches(site, x, places)
    parts = [site_patches(site, *piece) for piece in pieces(x, places, most)]
    assert all(len(part[0]) <= max(1, most) for part in parts)
    for group in range(2):
        np.testing.assert_array_equal(np.concatenate([part[group] for part in parts]), whole[group])


def grouped_sound(channels: int = 24, group: int = 4, taps: int = 65) -> onnx.ModelProto:
    """A stem, and a long convolution in groups as wav2vec's for positions."""
    nodes = [
        conv("stem", "x", "w0", "c0", pads=[1, 1]), relu("c0", "r0"),
        conv("long", "r0", "w1", "c1", group=group, pads=[taps // 2] * 2), relu("c1", "y"),
    ]  # fmt: skip
    stored = {"w0": weights(1, channels, 2, 3), "w1": weights(2, channels, channels // group, taps)}
    return build(nodes, stored, input_shape=("N", 2, "T"), output_shape=("N", channels, None))


def test_a_step_takes_no_more_memory_than_there_is_and_still_solves() -> None:
    run = Run.start(Request(grouped_sound(), photo(3, (20, 2, 90)), Options(speedup=2.0, threads=1, form="cp")))
    with contextlib.ExitStack() as stack:
        prepared = prepare(run, stack)
        (step,) = steps(run, prepared)
        assert isinstance(step, SolveStep)
        full, errors = step.bytes(), []
        for room in (full, full // 2, full // 8, full // 40):
            smaller = step.fitted(room)
            assert smaller.bytes() <= room
            # The answers of a shard that does not advance are the same every time.
            solution = replace(smaller, advances=False).run(prepared.shard, 1 << 30)
            assert solution.outcome is not None
            errors.append(solution.outcome.error_linear)
        assert step.fitted(full) is step
        assert errors[1] == pytest.approx(errors[0], rel=1e-3)  # only the refinement reads the columns themselves
        assert errors[-1] < 3 * errors[0] + 1e-6


def test_nothing_is_collected_for_a_form_that_a_layer_never_gets() -> None:
    shapes = {
        "flat": ConvShape(8, 8, (1, 1), (9, 9), (9, 9)),
        "depthwise": ConvShape(1, 1, (31, 31), (40, 40), (40, 40), 48),
        "wide": ConvShape(512, 512, (15, 15), (40, 40), (40, 40)),
        "usual": ConvShape(32, 32, (3, 3), (40, 40), (40, 40)),
    }
    needed = needed_preparations(shapes, FORMS, None, statistics_room(4 << 30))
    names = {name: {kind.name for kind in FORMS if kind.preparation in needed[name]} for name in shapes}
    assert names == {"flat": set(), "depthwise": {"spatial", "3d"}, "wide": set(), "usual": {"spatial", "3d", "cp"}}
    (line,) = left_out(shapes, FORMS, 4 << 30)
    assert line.startswith("wide is not considered for the forms spatial, 3d and cp, whose statistics take 1.")
    assert left_out(shapes, FORMS, 64 << 30) == []


def test_a_form_whose_statistics_take_too_much_is_left_out_and_said() -> None:
    nodes = [conv("stem", "x", "w0", "c0", pads=[0] * 4), relu("c0", "r0"), conv("big", "r0", "w1", "y", pads=[4] * 4)]
    stored = {"w0": weights(1, 340, 3, 1, 1), "w1": weights(2, 8, 340, 9, 9)}
    model, data = build(nodes, stored), photo(1, (10, 3, 9, 9))
    result = compress(model, data, 2.0, threads=1, memory=1 << 30, solver="linear")
    assert {site.form for site in result.report.sites} <= {"channel", "cp"}
    assert any(
        line.startswith("big is not considered for the forms spatial and 3d, whose statistics take 0.28 GiB")
        for line in result.report.warnings
    )
    with pytest.raises(TargetError, match="out of reach"):
        compress(model, data, 2.0, threads=1, memory=1 << 30, form="spatial", width="none")
