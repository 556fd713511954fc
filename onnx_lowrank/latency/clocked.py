"""The measurements before a plan by the clock: the rank multiple, the layers, and the whole model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnx_lowrank.factorise.forms.rank_multiple import BLOCKS, RankMultiple
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.layer_model import ConvGeometry
from onnx_lowrank.latency.deployment import Deployment
from onnx_lowrank.latency.rank_grid import ranks_to_measure
from onnx_lowrank.latency.stopwatch import Stopwatch
from onnx_lowrank.latency.table import ORIGINAL, Choice
from onnx_lowrank.latency.time_costs import LatencyCosts
from onnx_lowrank.options import AUTO, FILLED_BLOCKS
from onnx_lowrank.plan.plan import SitePlan
from onnx_lowrank.progress import Progress


@dataclass(frozen=True)
class Clocked:
    """A model whose layers were measured; the search may have more of their choices measured.

    Attributes
    ----------
    deployment
        The model as it is deployed.
    stopwatch
        The layers' times.
    multiple
        The rank multiple.
    original_ms
        Milliseconds of the whole model.
    """

    deployment: Deployment
    stopwatch: Stopwatch
    multiple: RankMultiple
    original_ms: float

    def costs(self, site: str) -> LatencyCosts:
        """Return the times of one site's choices that are known by now."""
        return LatencyCosts(self.stopwatch.layer(self.deployment.geometries[site]))

    def shared_costs(self, sites: Sequence[str]) -> LatencyCosts:
        """Return the times of sites that share a weight, of all together, in choices that were measured for each."""
        times = [self.costs(site).times for site in sites]
        common = [choice for choice in times[0] if all(choice in of_site for of_site in times)]
        return LatencyCosts({choice: sum(of_site[choice] for of_site in times) for choice in common})

    def measure(self, choices: Iterable[SitePlan]) -> None:
        """Measure choices of single sites; alike sites are measured once."""
        wanted: dict[ConvGeometry, dict[Choice, None]] = {}
        for choice in choices:
            geometry = self.deployment.geometries[choice.name]
            wanted.setdefault(geometry, {})[choice.form, choice.ranks] = None
        for geometry, of_geometry in wanted.items():
            self.stopwatch.layer(geometry, list(of_geometry))


def rank_multiple(deployment: Deployment, progress: Progress) -> RankMultiple:
    """Return the rank multiple of the options; measure it where they say so.

    Raises
    ------
    UsageError
        If the table of another device does not hold it.
    EnvironmentFault
        If the table cannot be written.
    """
    options = deployment.options
    if options.resolved_rank_multiple == FILLED_BLOCKS:
        return BLOCKS
    if options.resolved_rank_multiple != AUTO:
        return RankMultiple(int(options.resolved_rank_multiple))
    progress("measure", 0, 1)
    stopwatch = deployment.open_stopwatch()
    geometries = [deployment.geometries[site.name] for site in deployment.sites if site.kernel.ndim > 2]
    multiple = stopwatch.step(geometries) if geometries else 1
    stopwatch.save()
    progress("measure", 1, 1)
    # Blocks of 16 would leave layers of few channels out of every plan by the clock.
    return BLOCKS if multiple == BLOCKS.block else RankMultiple(multiple)


def clock_layers(
    deployment: Deployment,
    kinds: FormTable,
    multiple: RankMultiple,
    progress: Progress,
    stopwatch: Stopwatch | None = None,
) -> Clocked:
    """Measure the whole model and its layers, as far as the latency table does not hold their times.

    Parameters
    ----------
    deployment
        The model.
    kinds
        The kinds of form in which its layers are measured.
    multiple
        The numbers that all measured ranks are multiples of.
    progress
        Receives every step: the whole model, and each distinct layer.
    stopwatch
        Holds the table and takes the times; None for the one that the options ask for.

    Raises
    ------
    UsageError
        If the table of another device does not hold what is needed.
    EnvironmentFault
        If the table cannot be written.
    """
    stopwatch = stopwatch or deployment.open_stopwatch()
    choices = choices_to_measure(deployment, kinds, multiple)
    total = len(choices) + 1
    progress("measure", 0, total)
    try:
        original_ms = stopwatch.model(deployment.table_key, deployment.loaded.proto, deployment.feeds)
        progress("measure", 1, total)
        for done, (geometry, of_layer) in enumerate(choices.items(), 2):
            stopwatch.layer(geometry, of_layer)
            progress("measure", done, total)
    finally:
        stopwatch.save()
    return Clocked(deployment, stopwatch, multiple, original_ms)


def choices_to_measure(
    deployment: Deployment, kinds: FormTable, multiple: RankMultiple
) -> dict[ConvGeometry, list[Choice]]:
    """Return the choices of every distinct layer that are measured before any plan is known."""
    distinct = {geometry: deployment.shapes[name] for name, geometry in deployment.geometries.items()}
    return {geometry: [ORIGINAL, *ranks_to_measure(shape, kinds, multiple)] for geometry, shape in distinct.items()}
