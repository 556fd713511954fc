"""A plan: the form and the ranks of every convolution, and the widths. It can be saved, edited and replayed."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from onnx_lowrank.errors import DataError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.table import FORMS, FormTable

SCHEMA = 1


@dataclass(frozen=True)
class SitePlan:
    """The choice for one convolution.

    Attributes
    ----------
    name
        The name of the site.
    form
        The name of a form, or None where the convolution is left alone.
    ranks
        The ranks of the form, from the input on; empty where the convolution is left alone.
    """

    name: str
    form: str | None
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class WidthPlan:
    """The choice for channels that a layer makes and others read.

    Attributes
    ----------
    name
        The name of the layer that makes them.
    width
        The number of channels that stay.
    """

    name: str
    width: int


@dataclass(frozen=True)
class Plan:
    """The choices for all sites of a model, in the model's order.

    Attributes
    ----------
    sites
        The forms and ranks.
    widths
        The sets of channels that become fewer.
    """

    sites: tuple[SitePlan, ...]
    widths: tuple[WidthPlan, ...] = ()

    def __getitem__(self, name: str) -> SitePlan:
        """Return the choice for the site of this name."""
        return next(site for site in self.sites if site.name == name)

    def fitted(
        self,
        shapes: Mapping[str, ConvShape],
        skipped: Mapping[str, str] = MappingProxyType({}),
        forms: FormTable = FORMS,
    ) -> "Plan":
        """Return the plan for exactly these sites, in their order; sites without an entry in this plan are left alone.

        Parameters
        ----------
        shapes
            The geometry of every site, by name.
        skipped
            The reasons, by name, why other convolutions are not factorised.
        forms
            The table of forms.

        Raises
        ------
        DataError
            If the plan names a site that does not exist, a form that is unknown or does not take the kernel, or ranks
            that the form cannot have.
        """
        for site in self.sites:
            if site.name in skipped:
                if site.form is None:
                    continue
                raise DataError(
                    f"the plan has the form {site.form} for {site.name!r}, which is skipped: {skipped[site.name]}"
                )
            if site.name not in shapes:
                raise DataError(f"the plan names {site.name!r}, which is not a convolution to factorise in this model")
            if site.form is not None:
                _check_form(site, shapes[site.name], forms)
        named = {site.name: site for site in self.sites}
        return replace(self, sites=tuple(named.get(name, SitePlan(name, None)) for name in shapes))

    def ordered(self, names: Iterable[str]) -> "Plan":
        """Return the plan with its sites, all of which are named, in the order of the names."""
        places = {name: place for place, name in enumerate(names)}
        return replace(self, sites=tuple(sorted(self.sites, key=lambda site: places[site.name])))

    def to_json(self) -> str:
        """Return the text that ``from_json`` reads."""
        document: dict[str, Any] = {"schema": SCHEMA, "sites": [asdict(site) for site in self.sites]}
        if self.widths:
            document["widths"] = [asdict(width) for width in self.widths]
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "the plan", forms: FormTable = FORMS) -> "Plan":
        """Read a saved plan.

        Parameters
        ----------
        text
            What ``to_json`` returned, perhaps edited.
        source
            The name of the plan in error messages.
        forms
            The table of forms.

        Raises
        ------
        DataError
            If the text is not a plan.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source} is not JSON ({error}): save a plan with --dry-run --plan FILE") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise DataError(f"{source} is not a plan of schema {SCHEMA}: save a plan with --dry-run --plan FILE")
        sites = document.get("sites")
        if not isinstance(sites, list):
            raise DataError(f'{source} has no list of "sites": save a plan with --dry-run --plan FILE')
        widths = document.get("widths", [])
        if not isinstance(widths, list):
            raise DataError(f'{source} has "widths" that are no list: save a plan with --dry-run --plan FILE')
        return cls(
            tuple(_site(entry, source, forms) for entry in sites), tuple(_width(entry, source) for entry in widths)
        )


def _site(entry: Any, source: str, forms: FormTable) -> SitePlan:
    """Read the entry of one site."""
    name, form, ranks = (
        (entry.get(key) for key in ("name", "form", "ranks")) if isinstance(entry, dict) else (None,) * 3
    )
    if not isinstance(name, str):
        raise DataError(f"{source} has a site without a name: {json.dumps(entry)[:80]}")
    if form is not None and form not in forms:
        raise DataError(f"{source}: site {name!r} has form {json.dumps(form)}; use one of {_known(forms)}")
    expected = 0 if form is None else len(forms[form].rank_names)
    if (
        not isinstance(ranks, list)
        or len(ranks) != expected
        or not all(isinstance(r, int) and not isinstance(r, bool) and r >= 1 for r in ranks)
    ):
        raise DataError(f"{source}: site {name!r} has ranks {ranks!r}; give {expected} whole numbers from 1 on")
    return SitePlan(name, form, tuple(ranks))


def _width(entry: Any, source: str) -> WidthPlan:
    """Read the entry of one set of channels."""
    name, width = (entry.get("name"), entry.get("width")) if isinstance(entry, dict) else (None, None)
    if not isinstance(name, str):
        raise DataError(f"{source} has a width without a name: {json.dumps(entry)[:80]}")
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise DataError(f"{source}: {name!r} has width {json.dumps(width)}; give a whole number from 1 on")
    return WidthPlan(name, width)


def _known(forms: FormTable) -> str:
    """Return the values that a plan file may give for a form."""
    return ", ".join(json.dumps(form) for form in (*forms.names, None))


def _check_form(site: SitePlan, shape: ConvShape, forms: FormTable) -> None:
    """Refuse a form or ranks that a convolution cannot have."""
    if site.form not in forms:
        raise DataError(f"the plan has form {json.dumps(site.form)} for {site.name!r}; use one of {_known(forms)}")
    kind = forms[str(site.form)]
    if not kind.takes(shape):
        sizes = "×".join(map(str, shape.kernel)) or "that of a fully connected layer"
        raise DataError(
            f"the plan has the form {kind.name} for {site.name!r}: it needs {kind.needs}; the kernel is {sizes}"
        )
    if len(site.ranks) != len(kind.rank_names):
        expected = ", ".join(kind.rank_names)
        raise DataError(f"the plan has ranks {site.ranks} for {site.name!r}; the form {kind.name} takes {expected}")
    for symbol, rank, highest in zip(kind.rank_names, site.ranks, kind.highest_ranks(shape), strict=True):
        if rank > highest:
            raise DataError(f"the plan has {symbol} = {rank} for {site.name!r}; it can be {highest} at most")
