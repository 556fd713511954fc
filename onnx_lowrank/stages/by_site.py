"""What is computed of every layer on its own, for several layers at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.factorise.workers import in_order
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.stages.room import LEAST

R = TypeVar("R")

WORK_OF_RANK = 10
"""What is computed of a layer before it is solved takes about so many products of all its weights with a filter's
worth of columns: the sweeps of a form, and the eigenvectors of the responses."""


def by_site(
    function: Callable[[ConvSite], R], sites: Sequence[ConvSite], shapes: Mapping[str, ConvShape], kinds: FormTable
) -> Iterator[R]:
    """Yield the results of a function of every site, in the order of the sites.

    Parameters
    ----------
    function
        Called in any thread.
    sites
        The sites.
    shapes
        The geometry of every site, by name.
    kinds
        The forms in question, whose statistics decide how many sites fit in memory at a time.
    """
    own = [shapes[site.name] for site in sites]
    statistics = [kind.statistics_bytes(shape) for shape in own for kind in kinds if kind.takes(shape)]
    work = WORK_OF_RANK * max((float(site.kernel.size * len(site.kernel)) for site in sites), default=0.0)
    yield from in_order(function, sites, work, at_once=max(1, LEAST // max([*statistics, 1])))
