"""The samples are divided in three: those that solve, those that choose, and those that only judge."""

from itertools import chain

import models_for_tests
import numpy as np
import pytest
from cli_for_tests import WatchedSamples
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank import compress
from onnx_lowrank.calibration.sampling import Sampling, split
from onnx_lowrank.data.arrays import ArraySource
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec


def divided(samples: int, batch: int | None = None, first: int | None = None) -> Sampling:
    """This many samples, for a model that demands the batch or leaves it open."""
    source = ArraySource({"x": np.zeros((samples, 2), np.float32)}, "zeros")
    specs = (TensorSpec("x", np.dtype(np.float32), ("n" if batch is None else batch, 2)),)
    return split(source, specs, 0, first=first)


def roles(sampling: Sampling) -> tuple[list[int], list[int], list[int]]:
    """The numbers of the samples that solve, that choose and that judge."""
    calibration = list(zip(sampling.batches, sampling.judges, strict=True))
    solving, choosing = (
        [number for batch, chooses in calibration if chooses == role for number in batch] for role in (False, True)
    )
    return solving, choosing, list(chain(*sampling.validation))


@settings(deadline=None)
@given(samples=st.integers(1, 3000), batch=st.none() | st.integers(1, 40))
def test_every_sample_has_one_role_and_each_role_its_share(samples: int, batch: int | None) -> None:
    if batch and samples < batch:
        with pytest.raises(DataError, match="give more"):
            divided(samples, batch)
        return
    used = samples - samples % (batch or 1)
    solving, choosing, judging = roles(divided(samples, batch))
    assert sorted([*solving, *choosing, *judging]) == list(range(used))
    assert solving
    whole = batch or 1
    assert all(len(role) % whole == 0 for role in (solving, choosing, judging))
    if used >= 3 * whole:
        assert len(solving) >= len(choosing)
    if used >= max(10, 15 * whole):
        # A fifth, up to a whole batch; and a fifth of the others' batches, up to one of them.
        assert abs(len(judging) - 0.2 * used) <= whole
        assert abs(len(choosing) - 0.2 * (used - len(judging))) <= max(4, whole)


@settings(deadline=None)
@given(samples=st.integers(1, 900), first=st.integers(1, 900), batch=st.none() | st.integers(1, 20))
def test_samples_that_appraise_have_no_other_role_and_cost_the_solver_nothing(
    samples: int, first: int, batch: int | None
) -> None:
    if batch and min(samples, first) < batch:
        return
    alone, appraised = divided(min(samples, first), batch), divided(samples, batch, first)
    appraising = list(chain(*appraised.appraising))
    assert roles(appraised)[:2] == roles(alone)[:2]
    everything = [*chain(*roles(appraised)), *appraising]
    assert len(set(everything)) == len(everything) and set(everything) <= set(range(samples))
    judging = len(roles(appraised)[2])
    if samples - first >= judging + (batch or 4):
        assert roles(appraised) == roles(alone) and len(appraising) >= judging
    else:  # those that would judge are shared
        assert abs(len(appraised.appraising) - len(appraised.validation)) <= 1


@pytest.mark.parametrize(
    ("samples", "judging"),
    [(1, 0), (2, 0), (5, 0), (6, 1), (9, 1), (10, 2), (60, 12), (300, 60), (500, 100), (501, 100), (2000, 400)],
)
def test_a_fifth_judges_and_few_samples_mostly_solve(samples: int, judging: int) -> None:
    assert len(roles(divided(samples))[2]) == judging


@pytest.mark.parametrize(("samples", "judging"), [(16, 0), (32, 0), (48, 16), (96, 32), (160, 32), (500, 112)])
def test_a_demanded_batch_stays_whole(samples: int, judging: int) -> None:
    assert len(roles(divided(samples, 16))[2]) == judging


def test_what_judges_changes_nothing_of_the_result() -> None:
    """The samples that judge are the last ones of those that were drawn; whatever they hold, the model is the same."""
    model = models_for_tests.plain()
    samples = models_for_tests.photo(1, (40, 3, 12, 10))
    source = WatchedSamples("x", samples)
    first = compress(model, source, 1.5, threads=1)
    others = samples.copy()
    others[32:] = models_for_tests.photo(2, (8, 3, 12, 10))
    second = compress(model, WatchedSamples("x", others), 1.5, threads=1)
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert first.report.data["validation"] == 8
    assert first.report.sites == second.report.sites
    assert first.report.outputs != second.report.outputs
