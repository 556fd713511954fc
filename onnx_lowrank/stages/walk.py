"""The walk over the sites, from the input on: sample, solve, rewrite, advance.

Asymmetric (§2.4): a site is rewritten as soon as it is solved, so that later sites see its error and can undo it; their
regressors, and what a shortcut adds to their responses, come from the network approximated so far, their targets from
the original. Fully connected layers that read what has changed are fitted again in their turn. Symmetric (§2.2): all
sites are solved on the original network and rewritten at the end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.frontier import Frontier
from onnx_lowrank.calibration.positions import gather_points
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.factorise.factors import Factorization, side_by_side
from onnx_lowrank.factorise.forms.form import Form, from_weights
from onnx_lowrank.factorise.forms.kind import FormKind, PreparedKernel, form_of
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.groups import Outcome, solve_groups
from onnx_lowrank.graph.edit.rewrite import rewrite
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import behind, position
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime import blas_threads
from onnx_lowrank.runtime.session import Opener
from onnx_lowrank.stages.plan import dense_bytes
from onnx_lowrank.stages.profile import Targets, site_patches
from onnx_lowrank.stages.refit import Refitted, refit_bytes, refit_layer

Array = NDArray[Any]
Forms = tuple[Form, ...]
"""How every group of a convolution is split: one form for each."""

Step = tuple[ConvSite, Forms] | DenseLayer

OVERHEAD = 700 << 20
"""Bytes of the process itself: the libraries, the model, and the runtime's buffers for one batch."""


@dataclass(frozen=True)
class Solution:
    """What was found for one site, from how many rows; ``outcome`` is None where no data was looked at."""

    factorization: Factorization
    outcome: Outcome | None
    rows: int


@dataclass(frozen=True)
class Walked:
    """The walk's result: a solution by site name, the MACs that running the network took, the layers fitted again."""

    solutions: dict[str, Solution]
    macs_executed: int
    refitted: tuple[Refitted, ...]


@blas_threads.one_for_scipy()
def walk(
    graph: Network,
    sites: Sequence[ConvSite],
    plan: Plan,
    targets: dict[str, Targets],
    prepared: Mapping[str, tuple[PreparedKernel, ...]],
    forms: FormTable,
    costs: dict[str, tuple[int, int]],
    macs: dict[str, int],
    sampling: Sampling,
    open_session: Opener,
    options: Options,
    progress: Progress,
    linears: Sequence[DenseLayer] = (),
) -> Walked:
    """Solve every planned site and rewrite the graph in place.

    Parameters
    ----------
    targets
        By site name, of the fully connected layers too; each is given up when its site is solved.
    prepared
        What the planned forms need of the kernel of every group, by site name.
    forms
        The table of forms.
    costs
        (MACs before, MACs after) by site name.
    macs
        MACs of one sample by output tensor, of the graph as it is given.
    linears
        Fully connected layers to fit again where a rewritten convolution stands before them.
    """
    todo = [
        (site, _forms(site, forms[choice.form], choice.ranks, prepared[site.name]))
        for site, choice in zip(sites, plan.sites, strict=True)
        if choice.form
    ]
    solutions: dict[str, Solution] = {}
    current = dict(macs)
    changed = behind(graph, [site.output for site, _ in todo])
    solved = {site.name for site, _ in todo}
    again = [s for s in linears if s.input in changed and s.name in targets and s.name not in solved]
    allowed = options.memory // 2
    refitted = []
    steps: list[Step] = [*todo, *again]
    # The frontier only goes forward. A rewritten site makes the same tensor, so the order stays what it is.
    steps.sort(key=lambda step: position(graph, step[0].output if isinstance(step, tuple) else step.output))
    progress("factorise", 0, len(steps))
    with Frontier(graph, sampling, open_session, current) as frontier:
        for done, step in enumerate(steps, 1):
            held = sum(target.rows.nbytes for target in targets.values())
            # What is held between this step and the next one has to leave room for solving this one.
            frontier.memory = max(0, options.memory - OVERHEAD - held - _solving_bytes(step, targets, sampling))
            if isinstance(step, DenseLayer):
                rows_of_step = targets.pop(step.name).rows
                with blas_threads.for_shape(step.shape):
                    refitted.append(refit_layer(frontier, graph, step, rows_of_step, sampling, allowed))
            else:
                site, own_forms = step
                if options.solver == "weights":
                    solutions[site.name] = Solution(_from_weights(site, own_forms), None, 0)
                else:
                    solutions[site.name] = _solve(frontier, site, own_forms, targets.pop(site.name), sampling, options)
                if not options.symmetric:
                    rewrite(graph, site, solutions[site.name].factorization)
                    current[site.output] = costs[site.name][1]
            progress("factorise", done, len(steps))
    if options.symmetric:
        for site, _ in todo:
            rewrite(graph, site, solutions[site.name].factorization)
    return Walked(solutions, frontier.macs_executed, tuple(refitted))


def _forms(site: ConvSite, kind: FormKind, ranks: tuple[int, ...], prepared: tuple[PreparedKernel, ...]) -> Forms:
    with blas_threads.for_shape(site.kernel.shape[:2]):
        return tuple(form_of(kind, kernel, ranks, own) for kernel, own in zip(site.kernels, prepared, strict=True))


def _from_weights(site: ConvSite, forms: Forms) -> Factorization:
    biases = np.split(site.bias, site.group)
    return side_by_side([from_weights(*group) for group in zip(forms, site.kernels, biases, strict=True)])


def _solving_bytes(step: Step, targets: Mapping[str, Targets], sampling: Sampling) -> int:
    """What a step holds at once: its inputs, and the regressors and targets in two orders."""
    if isinstance(step, DenseLayer):
        return refit_bytes(step, sampling.samples)
    site, forms = step
    if site.name not in targets:  # solved from the weights alone
        return 0
    d, p = (int(size) for size in forms[0].prior.shape)
    inputs = p if forms[0].first is None else int(site.kernel[0].size)
    return dense_bytes(site) + 4 * len(targets[site.name].rows) * (len(forms) * inputs + 2 * p + 2 * d)


def _solve(
    frontier: Frontier, site: ConvSite, forms: Forms, target: Targets, sampling: Sampling, options: Options
) -> Solution:
    inputs: list[Array] = []
    made, shortcuts = 0, []
    for b, (x, shortcut) in enumerate(frontier.visit(site)):
        where = sampling.positions(site.name, b, site.output_size(x.shape[2:]), target.per_sample)
        parts = [form.inputs(patches) for form, patches in zip(forms, site_patches(site, x, where), strict=True)]
        if not inputs:
            inputs = [np.empty((len(target.rows), *part.shape[1:]), np.float32) for part in parts]
        for whole, part in zip(inputs, parts, strict=True):
            whole[made : made + len(part)] = part
        made += len(parts[0])
        if shortcut is not None:
            assert site.join is not None
            shortcut = site.join.as_response(shortcut)
            # One sample's shapes do not tell a shortcut that all samples of a batch share.
            shortcuts.append(gather_points(np.broadcast_to(shortcut, (len(x), *shortcut.shape[1:])), where))
    joined = np.concatenate(shortcuts) if shortcuts else None
    rows = Rows(target.rows, target.rows, sampling.judging_rows(len(target.rows)), joined)
    with blas_threads.for_shape(forms[0].prior.shape):
        found = solve_groups(forms, inputs, rows, site.activation, nonlinear=options.solver == "nonlinear")
    return Solution(*found, len(target.rows))
