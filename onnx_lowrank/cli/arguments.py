"""The command line of ``onnx-lowrank`` as data."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from onnx_lowrank.cli.compress_parser import PROGRAM, compress_parser
from onnx_lowrank.data.input_shapes import parse_shapes
from onnx_lowrank.data.photos.preprocess import Preprocess, parse
from onnx_lowrank.errors import UsageError
from onnx_lowrank.options import Options
from onnx_lowrank.presets import PRESET_OPTIONS
from onnx_lowrank.quality import ACCURACY
from onnx_lowrank.stages.request import Request

REPLAYED = ("speedup", "keep", "curve", "target", "form", "ranks", "rank_multiple")
"""The options that a plan replaces."""


@dataclass(frozen=True)
class CommandLine:
    """A command line whose parts do not contradict each other.

    Attributes
    ----------
    model
        The ONNX file to compress.
    out
        The ONNX file to write; None for a dry run or a measurement.
    data, test
        The calibration samples and the labelled samples.
    preprocess
        The preprocessing of photos.
    options
        The choices of the run.
    plan
        The file of a plan, which a dry run writes and any other run reads.
    report
        The file for the JSON report.
    dry_run, measure_latency
        Whether only the plan is wanted, or only a measurement of the layers.
    external_data
        Whether the weights go to a file of their own.
    quiet
        Whether only warnings and errors are printed.
    """

    model: Path
    out: Path | None
    data: Path | None
    test: Path | None
    preprocess: Preprocess
    options: Options
    plan: Path | None
    report: Path | None
    dry_run: bool
    measure_latency: bool
    external_data: bool
    quiet: bool

    @property
    def request(self) -> Request:
        """The request to the pipeline, without the plan, which has yet to be read."""
        return Request(self.model, self.data, self.options, self.preprocess, test=self.test)


def arguments(argv: Sequence[str]) -> CommandLine:
    """Parse and check the command line.

    Raises
    ------
    UsageError
        If the line has no meaning or contradicts itself.
    """
    args = compress_parser().parse_line(argv)
    for name, value in vars(args).items():
        values = value if name == "input_shapes" and value else [value]  # an option that may be given several times
        if any(isinstance(item, list) for item in values):  # argparse drops the value of --option=--
            raise UsageError(f"argument {_option(name)}: expected one argument (see {PROGRAM} --help)")
    preprocess = parse(args.preprocess)
    given = {field.name: getattr(args, field.name) for field in fields(Options) if hasattr(args, field.name)}
    if "input_shapes" in given:
        given["input_shapes"] = parse_shapes(given["input_shapes"])
    if args.measure_latency:
        _check_measurement(args, given)
        given["target"] = "latency"
    else:
        _check_run(args, given)
    if "keep" in given and "speedup" in given:
        raise UsageError("--keep asks for a quality and --speedup for a speedup: drop one of them")
    if "preset" in given and (args.dry_run or not args.plan):  # a replayed plan has its own forms and ranks
        given = {**PRESET_OPTIONS[given["preset"]], **given}
    return CommandLine(
        model=args.model,
        out=None if args.dry_run else args.out,
        data=args.data,
        test=args.test,
        preprocess=preprocess,
        options=Options(**given),
        plan=args.plan,
        report=args.report,
        dry_run=args.dry_run,
        measure_latency=args.measure_latency,
        external_data=args.save_as_external_data,
        quiet=args.quiet,
    )


def _check_measurement(args: argparse.Namespace, given: Mapping[str, Any]) -> None:
    """Refuse ``--measure-latency`` without a table, or with what a measurement does not use."""
    if "latency_table" not in given:
        raise UsageError("--measure-latency fills a table: name it with --latency-table FILE")
    lone = ("require", "keep", "curve", "task", "boxes", "plan", "report", "dry_run", "latency_device")
    for name in ("out", "data", "test", *lone):
        if getattr(args, name, None):
            shown = "OUT" if name == "out" else _option(name)
            raise UsageError(f"--measure-latency only measures: drop {shown}")


_NOTHING_TO = (
    ("report", "write"),
    ("test", "measure"),
    ("task", "measure"),
    ("boxes", "measure"),
    ("require", "judge"),
)
"""What a dry run has no use for, and what for it would be."""


def _check_run(args: argparse.Namespace, given: Mapping[str, Any]) -> None:
    """Refuse a missing OUT, and options that have no use in a dry run or with a plan."""
    if args.dry_run:
        kept = str(given.get("keep", "")).strip().lower().startswith(ACCURACY)
        for name, purpose in _NOTHING_TO:
            if getattr(args, name, None) and not (name == "test" and kept):
                raise UsageError(f"--dry-run leaves nothing to {purpose}: drop --{name} or --dry-run")
    elif args.out is None:
        raise UsageError("OUT is missing: name the ONNX file to write, or only look with --dry-run")
    elif args.plan:
        for name in (*REPLAYED, "latency_device"):
            if name in given:
                raise UsageError(
                    f"--plan replays forms and ranks that are already chosen: drop {_option(name)} or --plan"
                )


def _option(name: str) -> str:
    """Spell the name of a parsed value as an option."""
    return f"--{name.replace('_', '-')}"
