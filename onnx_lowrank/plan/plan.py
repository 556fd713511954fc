"""A plan: which convolutions are factorised, and at which ranks. It can be saved, edited and replayed."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from onnx_lowrank.errors import DataError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.factorise.forms.table import FORMS, FormTable

SCHEMA = 1


@dataclass(frozen=True)
class SitePlan:
    """The choice for one convolution.

    Attributes
    ----------
    name
        Of the site.
    form
        The name of a form, or None where the convolution is left alone.
    ranks
        The numbers of channels between the stages, from the input on; empty where it is left alone.
    """

    name: str
    form: str | None
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The choices for all sites of a model, in the model's order."""

    sites: tuple[SitePlan, ...]

    def __getitem__(self, name: str) -> SitePlan:
        return next(site for site in self.sites if site.name == name)

    def fitted(
        self,
        shapes: Mapping[str, ConvShape],
        skipped: Mapping[str, str] = MappingProxyType({}),
        forms: FormTable = FORMS,
    ) -> "Plan":
        """The plan for exactly these sites, in their order; sites that it does not name are left alone.

        Parameters
        ----------
        shapes
            The geometry of every site, by name.
        skipped
            The reasons, by name, why other convolutions are no sites.
        forms
            The table of forms.

        Raises
        ------
        DataError
            Where it names a site that is not there, a form that its kernel cannot take, or a rank that is too high.
        """
        for site in self.sites:
            if site.name in skipped:
                if site.form is None:
                    continue
                raise DataError(f"the plan asks {site.name!r} for the form {site.form}; skipped: {skipped[site.name]}")
            if site.name not in shapes:
                raise DataError(f"the plan names {site.name!r}, which is no convolution to factorise in this model")
            if site.form is not None:
                _check_ranks(site, forms[site.form], shapes[site.name])
        named = {site.name: site for site in self.sites}
        return Plan(tuple(named.get(name, SitePlan(name, None)) for name in shapes))

    def to_json(self) -> str:
        """As text that ``from_json`` reads."""
        return json.dumps({"schema": SCHEMA, "sites": [asdict(site) for site in self.sites]}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "the plan", forms: FormTable = FORMS) -> "Plan":
        """Read a saved plan; ``source`` names it in errors.

        Raises
        ------
        DataError
            Where the text is no plan.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source} is not JSON ({error}): save a plan with --dry-run --plan FILE") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise DataError(f"{source} is no plan of schema {SCHEMA}: save a plan with --dry-run --plan FILE")
        sites = document.get("sites")
        if not isinstance(sites, list):
            raise DataError(f'{source} has no list of "sites": save a plan with --dry-run --plan FILE')
        return cls(tuple(_site(entry, source, forms) for entry in sites))


def _site(entry: Any, source: str, forms: FormTable) -> SitePlan:
    name, form, ranks = (
        (entry.get(key) for key in ("name", "form", "ranks")) if isinstance(entry, dict) else (None,) * 3
    )
    if not isinstance(name, str):
        raise DataError(f"{source} has a site without a name: {json.dumps(entry)[:80]}")
    if form is not None and form not in forms:
        known = ", ".join(json.dumps(known) for known in (*forms.names, None))
        raise DataError(f"{source}: site {name!r} has form {json.dumps(form)}; use one of {known}")
    expected = 0 if form is None else len(forms[form].rank_names)
    if (
        not isinstance(ranks, list)
        or len(ranks) != expected
        or not all(isinstance(r, int) and not isinstance(r, bool) and r >= 1 for r in ranks)
    ):
        raise DataError(f"{source}: site {name!r} has ranks {ranks!r}; give {expected} whole numbers from 1 on")
    return SitePlan(name, form, tuple(ranks))


def _check_ranks(site: SitePlan, kind: FormKind, shape: ConvShape) -> None:
    if not kind.takes(shape):
        raise DataError(f"the plan asks {site.name!r} for the form {site.form}; its kernel is {shape.kernel}")
    for rank, highest in zip(site.ranks, kind.highest_ranks(shape), strict=True):
        if rank > highest:
            raise DataError(f"the plan asks {site.name!r} for rank {rank}; it can have {highest} at most")
