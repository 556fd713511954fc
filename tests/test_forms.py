"""What every kind of form has in common, and a new one: a file, and an entry in a table that is passed in."""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from forms_for_tests import dense, form_at
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mirrored_form import MIRRORED
from models_for_tests import run_model
from numpy.typing import NDArray

from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.factors import Factorization, side_by_side
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import from_weights
from onnx_lowrank.factorise.forms.kind import FormKind, placeholder, preparations
from onnx_lowrank.factorise.forms.table import AUTO, FORMS, FormTable
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import compress, plan_only
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.report.schema import SiteReport
from onnx_lowrank.stages.request import Request

Array = NDArray[Any]


TABLE = FormTable((*FORMS.kinds, MIRRORED))

SOME = settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
"""A form does not take every layer that is drawn, so many draws may be left out."""

every_kind = pytest.mark.parametrize("kind", TABLE.kinds, ids=TABLE.names)


# ---- what every kind has in common


@dataclass(frozen=True)
class Layer:
    """A convolution: its geometry and its weights."""

    shape: ConvShape
    seed: int

    @property
    def kernels(self) -> tuple[Array, ...]:
        """The kernel [d, c, *sizes] of every group."""
        rng = np.random.default_rng(self.seed)
        size = (self.shape.filters, self.shape.channels, *self.shape.kernel)
        return tuple(rng.standard_normal(size) for _ in range(self.shape.group))

    @property
    def whole_kernel(self) -> Array:
        """[d of all groups, c of one, *sizes]."""
        return np.concatenate(self.kernels)

    def patches(self, count: int = 60) -> Array:
        """Correlated patches of one group with a mean, [count, c, *sizes]."""
        rng = np.random.default_rng(self.seed + 1)
        size = self.kernels[0][0].size
        rows = rng.standard_normal((count, size)) @ (rng.standard_normal((size, size)) * 0.8 ** np.arange(size)) + 0.3
        return rows.reshape(count, *self.kernels[0].shape[1:]).astype(np.float32)

    def evidence(self, kind: FormKind, *, profiled: bool) -> Evidence:
        """What is known of the layer, from its weights alone or from samples as well."""
        moments = []
        for preparation in preparations([kind], self.shape):
            moments.append((preparation, preparation.moments()))
            moments[-1][1].add(self.patches())
        prepared = tuple({own: own.of(k, m if profiled else None) for own, m in moments} for k in self.kernels)
        patches = self.patches().reshape(60, -1)
        responses = [patches @ kernel.reshape(len(kernel), -1).T for kernel in self.kernels]
        return Evidence(self.kernels, prepared, np.hstack(responses).astype(np.float32) if profiled else None)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    kernel = draw(st.sampled_from([(), (3,), (3, 3), (1, 3), (2, 3), (1, 1), (3, 1, 2), (2, 2, 2)]))
    sizes = st.integers(4, 9)
    read = tuple(draw(sizes) for _ in kernel)
    strides: tuple[int, ...] = tuple(draw(st.integers(1, 2)) for _ in kernel)
    transposed = bool(kernel) and draw(st.booleans())
    spread = strides if transposed else None
    written = tuple(n * step if spread else -(-n // step) for n, step in zip(read, strides, strict=True))
    group = draw(st.integers(1, 3)) if kernel else 1
    shape = ConvShape(draw(st.integers(1, 20)), draw(st.integers(1, 20)), kernel, read, written, group, spread)
    return Layer(shape, draw(st.integers(0, 99)))


def drawn_ranks(kind: FormKind, shape: ConvShape, seed: int) -> tuple[int, ...]:
    rng = np.random.default_rng(seed)
    return tuple(int(rng.integers(1, highest + 1)) for highest in kind.highest_ranks(shape))


def raised(kind: FormKind, shape: ConvShape, ranks: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All ranks of which one is higher by one."""
    limits = kind.highest_ranks(shape)
    higher = [tuple(rank + (i == j) for j, rank in enumerate(ranks)) for i in range(len(ranks))]
    return [own for own in higher if all(rank <= limit for rank, limit in zip(own, limits, strict=True))]


def test_names_are_unique_and_none_is_the_word_for_all_of_them() -> None:
    assert len({*TABLE.names, AUTO}) == len(TABLE.kinds) + 1
    for kind in TABLE:
        assert TABLE[kind.name] is kind and kind.name in TABLE
        assert TABLE.allowed(kind.name).kinds == (kind,)
        assert kind.summary and kind.needs
    assert TABLE.allowed(AUTO) == TABLE
    choices = ", ".join((AUTO, *FORMS.names))
    with pytest.raises(UsageError, match=re.escape(f"form is 'mirrored': choose one of {choices}")):
        FORMS.allowed("mirrored")


@every_kind
@given(layer=layers())
@settings(SOME, max_examples=30)
def test_every_rank_has_a_name_and_ranks_are_multiples_up_to_the_highest(kind: FormKind, layer: Layer) -> None:
    shape = layer.shape
    highest = kind.highest_ranks(shape)
    assert len(kind.rank_names) == len(set(kind.rank_names)) == len(highest) and min(highest) >= 1
    for multiple in (1, 3, 8):
        ranks = kind.rank_choices(shape, multiple)
        if not kind.takes(shape):
            assert ranks.shape == (0, len(highest)) and kind.lowest_cost(shape, multiple) is None
            continue
        step = kind.rank_step(shape, multiple)
        assert step % multiple == 0
        sides = [[rank for rank in range(1, limit + 1) if rank % step == 0] for limit in highest]
        assert ranks.tolist() == [list(choice) for choice in itertools.product(*sides)]
        costs = kind.macs(shape, ranks)
        assert kind.lowest_cost(shape, multiple) == (costs.min() if len(costs) else None)


@every_kind
@given(layer=layers(), seed=st.integers(0, 99))
@settings(SOME, max_examples=30)
def test_the_cost_is_that_of_the_links_and_rises_with_every_rank(kind: FormKind, layer: Layer, seed: int) -> None:
    shape = layer.shape
    assume(kind.takes(shape))
    ranks = drawn_ranks(kind, shape, seed)
    sizes, cost = list(shape.input), 0
    for link in kind.links((shape.filters, shape.channels, *shape.kernel), ranks):
        before = sizes
        sizes = [out if own else size for out, own, size in zip(shape.output, link.carries, sizes, strict=True)]
        applied = before if shape.transposed and any(link.carries) else sizes
        cost += shape.group * math.prod(link.kernel_shape(shape.kernel)) * math.prod(applied)
    assert kind.cost(shape, ranks) == cost
    assert all(kind.cost(shape, higher) > cost for higher in raised(kind, shape, ranks))


@every_kind
@given(layer=layers(), seed=st.integers(0, 99))
@settings(SOME, max_examples=30)
def test_every_axis_belongs_to_one_link_and_channels_match(kind: FormKind, layer: Layer, seed: int) -> None:
    shape = layer.shape
    assume(kind.takes(shape))
    channels = shape.channels
    links = kind.links((shape.filters, shape.channels, *shape.kernel), drawn_ranks(kind, shape, seed))
    for link in links:
        assert link.channels == (1 if link.depthwise else channels)
        assert link.filters == channels or not link.depthwise
        channels = link.filters
    assert channels == shape.filters
    for axis in range(len(shape.kernel)):
        assert sum(link.carries[axis] for link in links) == 1


@every_kind
@given(layer=layers(), weighted=st.booleans())
@settings(SOME, max_examples=30)
def test_at_the_highest_ranks_the_composed_factors_are_the_kernel(kind: FormKind, layer: Layer, weighted: bool) -> None:
    assume(kind.takes(layer.shape))
    ranks, patches = kind.highest_ranks(layer.shape), [layer.patches()] if weighted else []
    bias = np.arange(layer.shape.filters)
    parts = [from_weights(form_at(kind, kernel, ranks, *patches), kernel, bias) for kernel in layer.kernels]
    chain = side_by_side(parts)
    kernel = layer.whole_kernel
    np.testing.assert_allclose(dense(chain), kernel, atol=1e-6 * np.abs(kernel).max())
    np.testing.assert_array_equal(chain.bias, np.tile(bias, layer.shape.group))


@every_kind
@given(layer=layers(), seed=st.integers(0, 99))
@settings(SOME, max_examples=30)
def test_a_placeholder_has_the_links_of_the_factorisation(kind: FormKind, layer: Layer, seed: int) -> None:
    assume(kind.takes(layer.shape))
    ranks = drawn_ranks(kind, layer.shape, seed)
    bias = np.zeros(layer.shape.filters)
    real = side_by_side([from_weights(form_at(kind, kernel, ranks), kernel, bias) for kernel in layer.kernels])
    fake = placeholder(kind, layer.whole_kernel.shape, layer.shape.group, ranks)

    def structure(chain: Factorization) -> list[Any]:
        return [chain.group, chain.bias.shape, *((x.kernel.shape, x.carries, x.depthwise) for x in chain.links)]

    assert structure(fake) == structure(real)
    assert all(np.isfinite(link.kernel).all() and np.abs(link.kernel).max() > 0 for link in fake.links)


@every_kind
@given(layer=layers(), seed=st.integers(0, 99), profiled=st.booleans())
@settings(SOME, max_examples=30)
def test_energies_rise_with_every_rank_and_end_at_all_of_the_energy(
    kind: FormKind, layer: Layer, seed: int, profiled: bool
) -> None:
    shape = layer.shape
    assume(kind.takes(shape))
    energies = kind.log_energies(layer.evidence(kind, profiled=profiled))
    ranks = drawn_ranks(kind, shape, seed)
    (kept,) = energies(np.array([ranks]))
    for higher in raised(kind, shape, ranks):
        assert energies(np.array([higher]))[0] >= kept - 1e-9
    assert energies(np.array([kind.highest_ranks(shape)]))[0] == pytest.approx(0, abs=1e-9)
    assert kept <= 1e-9


@every_kind
def test_quick_and_brief_preparations_serve_the_same_form(kind: FormKind) -> None:
    kernel = np.random.default_rng(0).standard_normal((9, 8, 3, 3))
    ranks = tuple(max(1, highest // 3) for highest in kind.highest_ranks(ConvShape(9, 8, (3, 3), (1, 1), (1, 1))))
    prepared = kind.preparation.of(kernel, None) if kind.preparation else None
    errors = [
        float(np.square(dense(from_weights(kind.form(kernel, ranks, own), kernel, np.zeros(9))) - kernel).sum())
        for own in ((prepared, prepared.brief(), prepared.quick()) if prepared else (None, None, None))
    ]
    assert errors[0] <= errors[1] <= errors[2] < np.square(kernel).sum()


# ---- a new kind

MODELS = Path(__file__).resolve().parents[1] / "models"
MNIST, CALIBRATION, TEST = (MODELS / f"mnist_{name}" for name in ("vgg.onnx", "calib.npz", "test.npz"))


def request(plan: Plan | None = None, **options: Any) -> Request:
    return Request(MNIST, CALIBRATION, Options(threads=1, images=60, **options), "unit", plan)


def relative_error(model: onnx.ModelProto) -> float:
    """Of the class scores, on images that no run has seen."""
    with np.load(TEST) as arrays:
        images = arrays["input"][:200]
    expected, outputs = (run_model(one, {"input": images})["logits"] for one in (onnx.load(MNIST), model))
    return float(np.square(outputs - expected).sum() / np.square(expected).sum())


def test_a_model_is_compressed_in_a_new_form_alone() -> None:
    result = compress(request(form="mirrored", speedup=2.0), forms=TABLE)
    report = result.report
    factorised = [site for site in report.sites if not site.kept]
    assert factorised and {site.form for site in factorised} == {"mirrored"}
    assert all(list(site.ranks) == ["c'"] for site in factorised)
    assert report.speedup.macs >= 2
    kernels = {tensor.name: tuple(tensor.dims) for tensor in result.model.graph.initializer}
    for site in factorised:
        c, d = site.channels
        rank = site.ranks["c'"]
        assert kernels[f"{site.name}/rank-1of2.weight"] == (rank, c, 1, 1)
        assert kernels[f"{site.name}/rank-2of2.weight"] == (d, rank, 3, 3)
    blind = compress(request(form="mirrored", speedup=2.0, solver="weights"), forms=TABLE)
    assert relative_error(result.model) < relative_error(blind.model)


def test_a_new_form_competes_with_the_others() -> None:
    both = FormTable((CHANNEL, MIRRORED))
    sites = plan_only(request(speedup=2.0, solver="weights"), forms=both).sites
    assert {site.form for site in sites if not site.kept} == {"channel", "mirrored"}
    report = compress(request(speedup=2.0), forms=TABLE).report
    assert report.speedup.macs >= 2 and {site.form for site in report.sites} <= {*TABLE.names, None}


def plans_with_the_new_form() -> Iterator[Plan]:
    """As many plans as it takes to name every form that fits the model, each beside the new one."""
    sites = plan_only(request(speedup=1.0)).sites
    kinds = [kind for kind in FORMS if all(kind.takes(geometry(site)) for site in sites)]
    others = len(sites) - 1
    for first in range(0, len(kinds), others):
        chosen = (MIRRORED, *kinds[first : first + others])
        yield Plan(tuple(halved(site, kind) for site, kind in zip(sites, chosen, strict=False)))


def geometry(site: SiteReport) -> ConvShape:
    """The geometry of a layer of one group, on one pixel."""
    (c, d), one = site.channels, (1,) * len(site.kernel)
    return ConvShape(d, c, site.kernel, one, one)


def halved(site: SiteReport, kind: FormKind) -> SitePlan:
    """A layer in a form at half of its highest ranks."""
    highest = kind.highest_ranks(geometry(site))
    return SitePlan(site.name, kind.name, tuple(max(1, rank // 2) for rank in highest))


def test_a_plan_with_a_new_form_is_saved_and_replayed_beside_the_others() -> None:
    known = ", ".join(f'"{name}"' for name in FORMS.names)
    for plan in plans_with_the_new_form():
        text = plan.to_json()
        replayed = Plan.from_json(text, forms=TABLE)
        assert replayed == plan
        with pytest.raises(DataError, match=re.escape(f'has form "mirrored"; use one of {known}, null')):
            Plan.from_json(text)
        factorised = [site for site in compress(request(replayed), forms=TABLE).report.sites if not site.kept]
        assert [(site.name, site.form) for site in factorised] == [(site.name, site.form) for site in plan.sites]
        for site, choice in zip(factorised, plan.sites, strict=True):
            assert site.ranks == dict(zip(TABLE[str(choice.form)].rank_names, choice.ranks, strict=True))


def test_a_plan_asks_a_new_form_for_no_more_than_it_has() -> None:
    names = [site.name for site in plan_only(request(speedup=1.0)).sites]
    with pytest.raises(DataError, match=r"c' = 49 for .*; it can be 48 at most"):
        compress(request(Plan((SitePlan(names[1], "mirrored", (49,)),))), forms=TABLE)
