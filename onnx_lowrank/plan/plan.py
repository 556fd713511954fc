"""A plan: which convolutions are factorised, and at which ranks. It can be saved, edited and replayed."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from onnx_lowrank.errors import DataError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape

SCHEMA = 1

NUMBER_OF_RANKS = {"channel": 1, "spatial": 1, "3d": 2, "cp": 1, None: 0}


@dataclass(frozen=True)
class SitePlan:
    """The choice for one convolution.

    Attributes
    ----------
    name
        Of the site.
    form
        "channel", "spatial", "3d" or "cp", or None where the convolution is left alone.
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

    def fitted(self, shapes: Mapping[str, ConvShape], skipped: Mapping[str, str] = MappingProxyType({})) -> "Plan":
        """The plan for exactly these sites, in their order; sites that it does not name are left alone.

        ``skipped`` holds the reasons, by name, why other convolutions are no sites.

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
            shape = shapes[site.name]
            if not shape.takes(site.form):
                raise DataError(f"the plan asks {site.name!r} for the form {site.form}; its kernel is {shape.kernel}")
            for rank, highest in zip(site.ranks, shape.highest_ranks(site.form), strict=True):
                if rank > highest:
                    raise DataError(f"the plan asks {site.name!r} for rank {rank}; it can have {highest} at most")
        named = {site.name: site for site in self.sites}
        return Plan(tuple(named.get(name, SitePlan(name, None)) for name in shapes))

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
        except (ValueError, RecursionError) as error:
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
    if not isinstance(form, str | None) or form not in NUMBER_OF_RANKS:
        known = ", ".join(str(json.dumps(known)) for known in NUMBER_OF_RANKS)
        raise DataError(f"{source}: site {name!r} has form {json.dumps(form)}; use one of {known}")
    expected = NUMBER_OF_RANKS[form]
    if (
        not isinstance(ranks, list)
        or len(ranks) != expected
        or not all(isinstance(r, int) and not isinstance(r, bool) and r >= 1 for r in ranks)
    ):
        raise DataError(f"{source}: site {name!r} has ranks {ranks!r}; give {expected} whole numbers from 1 on")
    return SitePlan(name, form, tuple(ranks))
