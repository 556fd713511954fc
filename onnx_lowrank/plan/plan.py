"""A plan: which convolutions are factorised, and at which ranks. It can be saved, edited and replayed."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnx_lowrank.errors import DataError

SCHEMA = 1


@dataclass(frozen=True)
class SitePlan:
    """The choice for one convolution.

    Attributes
    ----------
    name
        Of the site.
    form
        "channel", or None where the convolution is left alone.
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

    def fitted(self, filters: Mapping[str, int]) -> "Plan":
        """The plan for exactly these sites (name → d), in their order; sites that it does not name are left alone.

        Raises
        ------
        DataError
            Where it names a site that is not there, or a rank above d.
        """
        for site in self.sites:
            if site.name not in filters:
                raise DataError(f"the plan names {site.name!r}, which is no convolution to factorise in this model")
            if any(rank > filters[site.name] for rank in site.ranks):
                raise DataError(
                    f"the plan asks {site.name!r} for rank {max(site.ranks)}; it has {filters[site.name]} filters"
                )
        named = {site.name: site for site in self.sites}
        return Plan(tuple(named.get(name, SitePlan(name, None)) for name in filters))

    def to_json(self) -> str:
        """As text that ``from_json`` reads."""
        return json.dumps({"schema": SCHEMA, "sites": [asdict(site) for site in self.sites]}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "the plan") -> "Plan":
        """Read a saved plan; ``source`` names it in errors.

        Raises
        ------
        DataError
            Where the text is no plan.
        """
        try:
            document = json.loads(text)
        except ValueError as error:
            raise DataError(f"{source} is not JSON ({error}): save a plan with --dry-run --plan FILE") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise DataError(f"{source} is no plan of schema {SCHEMA}: save a plan with --dry-run --plan FILE")
        sites = document.get("sites")
        if not isinstance(sites, list):
            raise DataError(f'{source} has no list of "sites": save a plan with --dry-run --plan FILE')
        return cls(tuple(_site(entry, source) for entry in sites))


def _site(entry: Any, source: str) -> SitePlan:
    name, form, ranks = (
        (entry.get(key) for key in ("name", "form", "ranks")) if isinstance(entry, dict) else (None,) * 3
    )
    if not isinstance(name, str):
        raise DataError(f"{source} has a site without a name: {json.dumps(entry)[:80]}")
    if form not in ("channel", None):
        raise DataError(f'{source}: site {name!r} has form {form!r}; use "channel" or null')
    expected = 0 if form is None else 1
    if (
        not isinstance(ranks, list)
        or len(ranks) != expected
        or not all(isinstance(r, int) and not isinstance(r, bool) and r >= 1 for r in ranks)
    ):
        raise DataError(f"{source}: site {name!r} has ranks {ranks!r}; give {expected} whole numbers from 1 on")
    return SitePlan(name, form, tuple(ranks))
