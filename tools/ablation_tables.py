"""The combinations of choices that tools/ablation.py measures, its CSV files and its Markdown tables."""

import csv
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from measuring import markdown, percent

from onnx_lowrank.errors import UsageError
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.spatial import SPATIAL
from onnx_lowrank.factorise.forms.table import AUTO, FORMS
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan, SitePlan

INPUTS = ("symmetric", "asymmetric")

SCHEMES = {SPATIAL.name: "weights (Jaderberg)", CHANNEL.name: "weights (SVD)"}
"""The schemes from the literature that the solver "weights" carries out, by form."""


@dataclass(frozen=True)
class Combination:
    """One combination of choices."""

    speedup: float
    form: str
    ranks: str
    solver: str
    inputs: str

    @property
    def method(self) -> str:
        """All choices but the speedup, in words."""
        solving = self.solver_name if self.solver == "weights" else f"{self.solver} {self.inputs}"
        return f"{self.form}, {self.ranks}, {solving}"

    @property
    def solver_name(self) -> str:
        """The solver, with the name of the scheme where it looks at no data."""
        return SCHEMES.get(self.form, self.solver) if self.solver == "weights" else self.solver

    @property
    def distinct(self) -> "Combination":
        """The one of all equivalent combinations that is measured: the solver "weights" looks at no inputs."""
        inputs = INPUTS[0] if self.solver == "weights" else self.inputs
        return Combination(self.speedup, self.form, self.ranks, self.solver, inputs)

    def options(self, images: int) -> Options:
        """Return the choices as the pipeline takes them.

        Raises
        ------
        UsageError
            If a choice is unknown.
        """
        FORMS.allowed(self.form)
        if self.inputs not in INPUTS:
            raise UsageError(f"inputs is {self.inputs!r}: choose one of {', '.join(INPUTS)}")
        return Options(
            speedup=self.speedup,
            form=self.form,
            ranks=self.ranks,
            solver=self.solver,
            symmetric=self.inputs == "symmetric",
            images=images,
        )


@dataclass(frozen=True)
class Row:
    """A combination and its results.

    Attributes
    ----------
    combination
        The choices.
    conv_macs
        The ratio of the conv MACs before and after.
    relative_error
        The relative error of the output, or of the tapped tensor.
    agreement
        The share of samples on which both networks name the same class.
    top1
        The share of samples whose class the factorised network names.
    seconds
        The time for planning and solving.
    """

    combination: Combination
    conv_macs: float
    relative_error: float
    agreement: float
    top1: float
    seconds: float

    @property
    def numbers(self) -> dict[str, float]:
        """The results alone, by name."""
        return {name: value for name, value in vars(self).items() if name != "combination"}


COMBINATION_COLUMNS = tuple(field.name for field in fields(Combination))
RESULT_COLUMNS = tuple(field.name for field in fields(Row) if field.name != "combination")


def read_rows(file: Path) -> list[Row]:
    """Read the rows that were measured so far."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return [
            Row(
                Combination(float(line["speedup"]), *(line[name] for name in COMBINATION_COLUMNS[1:])),
                *(float(line[name]) for name in RESULT_COLUMNS),
            )
            for line in csv.DictReader(stream)
        ]


def append_row(file: Path, row: Row) -> None:
    """Add a row to the file; a new file begins with the names of the columns."""
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*COMBINATION_COLUMNS, *RESULT_COLUMNS])
        if new:
            writer.writeheader()
        writer.writerow(asdict(row.combination) | row.numbers)


def read_ranks(file: Path) -> dict[Combination, Plan]:
    """Read the plans of the rows that were measured so far."""
    if not file.exists():
        return {}
    plans: dict[Combination, list[SitePlan]] = {}
    with file.open(newline="", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            combination = Combination(float(line["speedup"]), *(line[name] for name in COMBINATION_COLUMNS[1:]))
            ranks = tuple(map(int, line["layer_ranks"].split()))
            site = SitePlan(line["layer"], line["layer_form"] or None, ranks)
            plans.setdefault(combination, []).append(site)
    return {combination: Plan(tuple(sites)) for combination, sites in plans.items()}


def write_ranks(file: Path, plans: dict[Combination, Plan]) -> None:
    """Write a line for every layer of every plan; a layer that is left alone has no form and no ranks."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        # The column "form" has the form that was asked for, which may be "auto", and "layer_form" that of the layer.
        writer.writerow([*COMBINATION_COLUMNS, "layer", "layer_form", "layer_ranks"])
        for combination, plan in plans.items():
            for site in plan.sites:
                writer.writerow([*astuple(combination), site.name, site.form or "", " ".join(map(str, site.ranks))])


def rows_table(rows: list[Row]) -> str:
    """Return the Markdown table of all rows, sorted by their choices."""
    header = ("speedup", "form", "ranks", "solver", "inputs", "conv MACs", "relative error", "agreement", "top-1", "s")
    body = []
    for row in sorted(rows, key=lambda row: astuple(row.combination)):
        own = row.combination
        inputs = "–" if own.solver == "weights" else own.inputs
        body.append(
            (
                *(f"{own.speedup:g}×", own.form, own.ranks, own.solver_name, inputs, f"{row.conv_macs:.3f}×"),
                *(f"{row.relative_error:.4f}", percent(row.agreement), percent(row.top1), f"{row.seconds:.0f}"),
            )
        )
    return markdown(header, body)


def ranks_table(plans: dict[Combination, Plan]) -> str:
    """Return the Markdown table of the ranks of all layers; solvers with the same plan share a line."""
    lines: dict[tuple[Any, ...], set[str]] = {}
    for own, plan in sorted(plans.items(), key=lambda item: astuple(item[0])):
        lines.setdefault((own.speedup, own.form, own.ranks, plan), set()).add(own.solver)
    body = []
    for (speedup, form, ranks, plan), solvers in lines.items():
        cells = ", ".join(layer_text(site, with_form=form == AUTO) for site in plan.sites)
        body.append((f"{speedup:g}×", form, ranks, ", ".join(sorted(solvers)), cells))
    return markdown(("speedup", "form", "ranks", "solvers", "ranks of the layers from the input on"), body)


def layer_text(site: SitePlan, *, with_form: bool) -> str:
    """Write the ranks of a layer; the form says what they mean where it differs between layers."""
    if site.form is None:
        return "–"
    return "/".join(map(str, site.ranks)) + (f" {site.form}" if with_form else "")
