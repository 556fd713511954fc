"""Samples of many sizes: batches of one size each, from every source."""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs_for_tests import Array, Reader, as_folder, ladder, lines
from models_for_tests import classifier, photo, plain, residual, run_model
from PIL import Image

from onnx_lowrank import compress, pipeline
from onnx_lowrank.calibration.local_shard import LocalShard
from onnx_lowrank.calibration.sampling import JUDGE_EVERY, Sampling, split
from onnx_lowrank.calibration.shard import ProfileQuestion
from onnx_lowrank.data.arrays import ArraySource
from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.preprocess import parse
from onnx_lowrank.data.source import elements, groups
from onnx_lowrank.errors import DataError
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import Result
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.progress import ignore
from onnx_lowrank.runtime.session import opener
from onnx_lowrank.stages import steps
from onnx_lowrank.stages.positions import level
from onnx_lowrank.stages.request import Request

SPEC = TensorSpec("x", np.dtype(np.float32), ("N", 3, 8, "W"))
WIDTHS = [int(width) for width in np.random.default_rng(0).choice([5, 8, 12, 20, 33], 40)]
LINES = [photo(number, (1, 3, 8, width)) for number, width in enumerate(WIDTHS)]


def as_objects(arrays: Sequence[Array]) -> Array:
    objects = np.empty(len(arrays), object)
    for number, array in enumerate(arrays):
        objects[number] = array
    return objects


def as_list_in_one_file(arrays: Sequence[Array], folder: Path) -> Path:
    np.savez(folder / "lines.npz", *arrays)
    return folder / "lines.npz"


SOURCES: dict[str, Callable[[Path], object]] = {
    "folder of npy": lambda folder: as_folder(LINES, folder / "lines"),
    "folder of npy without a batch": lambda folder: as_folder([line[0] for line in LINES], folder / "lines"),
    "reader": lambda folder: Reader([{"x": line} for line in LINES]),
    "generator": lambda folder: (line for line in LINES),
    "list": lambda folder: LINES,
    "list without a batch": lambda folder: [line[0] for line in LINES],
    "list of inputs with labels": lambda folder: [(line, np.array([1])) for line in LINES],
    "object array": lambda folder: as_objects([line[0] for line in LINES]),
    "npz of a list": lambda folder: as_list_in_one_file(LINES, folder),
    "dict of a list": lambda folder: {"x": LINES},
    "dict of an object array": lambda folder: {"x": as_objects(LINES)},
}


def full_rank(data: object, **options: Any) -> Result:
    plan = Plan((SitePlan("conv2", "channel", (12,)), SitePlan("conv3", "channel", (6,))))
    return compress(lines(), data, plan=plan, include="conv[23]", threads=1, **options)


@pytest.mark.parametrize("source", SOURCES)
def test_samples_of_many_sizes_come_from_every_source(source: str, tmp_path: Path) -> None:
    result = full_rank(SOURCES[source](tmp_path))
    for line in LINES[:5]:
        before, after = (run_model(model, {"x": line})["y"] for model in (lines(), result.model))
        np.testing.assert_allclose(after, before, atol=1e-5)
    output = result.report.outputs["y"]
    assert output.samples == 8 and output.relative_error < 1e-9
    assert result.report.cost.images == 40 and result.report.data["calibration"] == 32
    assert not result.report.warnings


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("unit,resize=none,crop=none", {(8, 12), (8, 20), (8, 31)}),
        ("unit,resize=8,crop=none", {(8, 12), (8, 20), (8, 31)}),
        ("unit,resize=16,crop=none", set()),
        ("unit,resize=8x10,crop=none", {(8, 10)}),
        ("unit,crop=8x10", {(8, 10)}),
        ("unit", {(8, 224)}),
    ],
)
@pytest.mark.parametrize("keep", [True, False])
def test_photos_may_keep_their_size(text: str, sizes: set[tuple[int, int]], keep: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        width = (12, 20, 31)[number % 3]
        Image.fromarray(rng.integers(0, 256, (8, width, 3), np.uint8)).save(tmp_path / f"{number}.png")

    def opened() -> Any:
        return open_source(tmp_path, (SPEC,), preprocess=parse(text), count=9, seed=0, on_warning=ignore)

    if not sizes:
        with pytest.raises(DataError, match="not 8x\\?, and resize=16 makes it 16x"):
            opened()
        return
    source = opened()
    if not keep:
        object.__setattr__(source, "kept", None)
    shapes = [source.feeds([row])["x"].shape for row in range(9)]
    assert {shape[2:] for shape in shapes} == sizes
    numbers = groups(source)
    for row in range(9):
        alike = np.flatnonzero(numbers == numbers[row]).tolist()
        assert source.feeds(alike)["x"].shape == (len(alike), *shapes[row][1:])
    if len(sizes) > 1:
        assert (elements(source) * 3 == [np.prod(shape) for shape in shapes]).all()


def test_photos_of_many_sizes_calibrate(tmp_path: Path) -> None:
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 9 + number % 4, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    result = full_rank(tmp_path, preprocess="unit,resize=none,crop=none")
    assert result.report.outputs["y"].samples == 4 and result.report.outputs["y"].relative_error < 1e-9


def test_other_inputs_come_along_with_lists() -> None:
    specs = (
        SPEC,
        TensorSpec("state", np.dtype(np.float32), (2, "N", 4), 1),
        TensorSpec("rate", np.dtype(np.int64), (), None),
    )
    states = photo(1, (2, 40, 4))
    for data in (
        {"x": LINES, "state": states, "rate": np.array(7)},
        {"x": LINES, "state": np.moveaxis(states, 1, 0), "rate": np.full(40, 7)},
        [{"x": line, "state": states[:, i : i + 1], "rate": 7} for i, line in enumerate(LINES)],
    ):
        source = open_source(data, specs, preprocess=parse("raw"), count=50, seed=0, on_warning=ignore)
        assert len(source) == 40 and len(set(groups(source).tolist())) == 5
        for row in range(40):
            feeds = source.feeds([row])
            number = next(i for i, line in enumerate(LINES) if np.array_equal(line, feeds["x"]))
            np.testing.assert_array_equal(feeds["state"], states[:, number : number + 1])
            assert feeds["rate"].shape == () and feeds["rate"] == 7
    with pytest.raises(DataError, match="'state' has shape 2x39x4, which is not one value for each of the 40 samples"):
        open_source(
            {"x": LINES, "state": states[:, :39], "rate": 7}, specs,
            preprocess=parse("raw"), count=50, seed=0, on_warning=ignore,
        )  # fmt: skip


@pytest.mark.parametrize("odd", [range(40), range(32, 40), range(32)], ids=["anywhere", "judging", "calibrating"])
def test_a_size_that_the_model_refuses_is_named(odd: range) -> None:
    even = [photo(i, (3, 8, 12 + 2 * (i % 2))) for i in range(40)]
    some_odd = [photo(i, (3, 8, 7)) if i in odd and i % 5 == 0 else line for i, line in enumerate(even)]
    with pytest.raises(DataError, match=r"the samples have several sizes, and it fails for 'x' \dx3x8x7: leave such"):
        compress(ladder(), ArraySource({"x": some_odd}), 1.5, threads=1)
    compress(ladder(), ArraySource({"x": even}), 1.2, threads=1)


# ---- the division of the samples


def of_sizes(sizes: Sequence[int]) -> ArraySource:
    return ArraySource({"x": [np.full((size,), number, np.float32) for number, size in enumerate(sizes)]})


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=80), batch=st.none() | st.integers(1, 5))
def test_every_batch_holds_samples_of_one_size(sizes: list[int], batch: int | None) -> None:
    specs = (TensorSpec("x", np.dtype(np.float32), ("N" if batch is None else batch, None)),)
    try:
        sampling = split(of_sizes(sizes), specs, 0)
    except DataError as error:
        assert batch and "give more" in str(error)
        return
    batches = [*sampling.batches, *sampling.validation]
    used = list(chain(*batches))
    assert len(used) == len(set(used)) and all(len({sizes[i] for i in members}) == 1 for members in batches)
    if batch is None:
        assert sorted(used) == list(range(len(sizes)))
    else:
        assert all(len(members) == batch for members in batches)
    assert len(sampling.judges) == len(sampling.batches) and not sampling.judges.all()
    if len(set(sizes)) > 1:
        single, others = sizes[sampling.single[0]], [sizes[i] for members in sampling.batches for i in members]
        assert min(sum(size <= single for size in others), sum(size >= single for size in others)) >= len(others) / 2
        assert sampling.amounts().sum() * sizes[sampling.single[0]] == pytest.approx(
            sum(sizes[i] for members in sampling.batches for i in members)
        )


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 900))
def test_the_level_is_the_smallest_that_gives_what_is_wanted(available: list[int], wanted: int) -> None:
    held = np.array(available)
    found = level(held, wanted)
    if held.sum() <= wanted:
        assert found == held.max()
    else:
        assert np.minimum(held, found).sum() >= wanted
        assert found == 1 or np.minimum(held, found - 1).sum() < wanted


def test_judging_rows_belong_to_judging_samples() -> None:
    sampling = split(of_sizes([1 + i % 3 for i in range(60)]), (TensorSpec("x", np.dtype(np.float32), ("N", None)),), 0)
    positions = np.random.default_rng(0).integers(1, 9, sampling.samples)
    mask = sampling.judging_rows(positions)
    owners = np.repeat(np.arange(sampling.samples), positions)
    chosen = np.repeat(sampling.judges, [len(batch) for batch in sampling.batches])
    assert (mask == chosen[owners]).all() and 0 < mask.mean() < 2 / JUDGE_EVERY


@pytest.mark.parametrize("build", [plain, residual, lambda: classifier("MatMul")])
def test_any_mixture_of_sizes_gives_the_rows_of_each_sample(build: Callable[[], Any]) -> None:
    """The rows in batches of one size are those of the samples one by one, at the positions of their batch."""
    sizes = [(12, 10), (6, 14), (12, 10), (9, 9), (6, 14), (12, 10), (20, 8), (12, 10), (6, 14), (12, 10)] * 3
    source = ArraySource({"x": [photo(i, (3, *size)) for i, size in enumerate(sizes)]})
    network = normalise(build())
    sites = tuple(find_sites(network).sites)
    together = split(source, (TensorSpec("x", np.dtype(np.float32), ("N", 3, None, None)),), 0)
    open_session = opener(("cpu",), 1, spinning=False)
    question = ProfileQuestion(sites, (), {site.name: 7 for site in sites}, frozenset(), 0)
    answers = list(LocalShard(network, together, range(len(together.batches)), open_session, {}).profile(question))
    assert {len(batch) for batch in together.batches} > {1}
    for answer in answers:
        site = next(site for site in sites if site.name == answer.name)
        members = together.batches[answer.batch]
        pieces = np.split(answer.rows, len(members))
        for piece, sample in zip(pieces, members, strict=True):
            alone = Sampling(source, ((sample,),), np.array([False]), (), False, 0)
            with LocalShard(network, alone, range(1), open_session, {}) as shard:
                all_rows = next(
                    iter(shard.profile(ProfileQuestion((site,), (), {site.name: 10_000}, frozenset(), 0)))
                ).rows
            # Each sampled row is a row of the sample.
            distances = np.abs(all_rows[None] - piece[:, None]).max(axis=2).min(axis=1)
            assert distances.max() < 1e-4


def test_a_step_takes_the_same_positions_of_targets_and_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step with little memory looks at the first positions of every sample alone, however many each has."""
    roomy = full_rank(LINES)
    monkeypatch.setattr(steps, "OVERHEAD", 1 << 50)
    monkeypatch.setattr(steps, "LEAST_ROOM", 400_000)
    tight = full_rank(LINES)
    assert tight.report.cost.rows_per_site < roomy.report.cost.rows_per_site
    assert tight.report.outputs["y"].relative_error < 1e-9


def test_samples_of_many_sizes_are_timed_and_labelled(tmp_path: Path) -> None:
    report = full_rank(LINES, latency_batch=3).report
    assert report.speedup.latency is not None and report.speedup.latency.batch == 3
    assert report.cost.forward_passes < 3


@pytest.mark.parametrize("shards", [2, 5])
def test_the_result_does_not_depend_on_the_number_of_shards(shards: int) -> None:
    options = Options(speedup=1.5, threads=1, require="none")
    results = [pipeline.compress(Request(lines(), LINES, options), shards=count) for count in (1, shards)]
    assert results[0].model == results[1].model
