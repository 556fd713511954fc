"""The command line as data: what ``onnx-lowrank`` may be told, and the `Options` that it comes to."""

import argparse
import errno
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from onnx_lowrank._version import __version__
from onnx_lowrank.data.input_shapes import parse_shapes
from onnx_lowrank.data.photos.preprocess import PRESETS as PREPROCESSES
from onnx_lowrank.data.photos.preprocess import parse
from onnx_lowrank.errors import UsageError
from onnx_lowrank.factorise.forms.table import AUTO
from onnx_lowrank.options import (
    ALLOCATION_CHOICES,
    DEFAULTS,
    FORM_CHOICES,
    PRESET_CHOICES,
    SOLVERS,
    TARGETS,
    Options,
)
from onnx_lowrank.presets import STANDS_FOR

PROGRAM = "onnx-lowrank"

EPILOG = """\
exit codes:
  0    done
  1    an internal error, which is a bug
  2    the command line: options that have no meaning or contradict each other
  3    the model or the data cannot be read, or do not fit
  4    the speedup is out of reach
  5    the rewritten model broke a promise; nothing was written
  6    the machine: the output cannot be written, ONNX Runtime is broken, memory ran out
  130  interrupted (143 by SIGTERM); nothing was written

OUT appears only when it is whole and validated.
"""

DATA_HELP = "calibration samples without labels: a folder of photos, .npy or .npz (default: synthetic images)"
PREPROCESS_HELP = (
    f"how photos become inputs: a preset ({', '.join(PREPROCESSES)}), and changes to it as in caffe,resize=none "
    "(default: %(default)s)"
)
SHAPES_HELP = "sizes that the model leaves open: name:1,3,224,224 or name:1x3x224x224; with one input also 1,3,224,224"
TEST_HELP = "labelled samples for the accuracy before and after: an .npz, or a folder with a sub-folder for each class"

MULTIPLE_HELP = "every rank is one of N; auto: of what pays here (default: 1, and auto by the clock)"

UNITS = {"": 1, "b": 1, "kb": 10**3, "kib": 2**10, "mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": 2**30}


class Parser(argparse.ArgumentParser):
    """A parser that refuses as every other error does."""

    def error(self, message: str) -> Any:
        """Refuse on one line."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def path_argument(text: str) -> Path:
    """A file or folder; for argparse."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    try:
        Path(text).stat()
    except FileNotFoundError:
        pass  # it may be one to be written
    except (OSError, ValueError) as error:
        # Too long, with a NUL in it, or not to be encoded: every later look at it would fail.
        if not isinstance(error, OSError) or error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            raise argparse.ArgumentTypeError(f"no file can have the name {text[:80]!r} ({error})") from None
    return Path(text)


def byte_size(text: str) -> int:
    """A number of bytes, such as 4GiB; for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower(), re.ASCII)
    if match is None or match[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write for example 4GiB or 500MB")
    return round(float(match[1]) * UNITS[match[2]])


def comma_list(text: str) -> tuple[str, ...]:
    """Names with commas between; for argparse."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def rank_multiple(text: str) -> int | str:
    """A whole number, or "auto"; for argparse."""
    if text == AUTO:
        return AUTO
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor {AUTO}") from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        PROGRAM,
        description="Low-rank factorisation of the convolutions in an ONNX file: fewer multiply-accumulates (MACs), "
        "nearly the same answers, no labels and no training framework.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="IN", type=path_argument, help="the ONNX file to compress")
    parser.add_argument(
        "out", metavar="OUT", type=path_argument, nargs="?", help="the ONNX file to write (not by --dry-run)"
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")

    # An option of `Options` that is not given is absent, so that class alone states the defaults.
    group = parser.add_argument_group("what to reach", argument_default=argparse.SUPPRESS)
    add = group.add_argument
    add("--speedup", metavar="X", type=float, help=f"before over after, of the target (default: {DEFAULTS.speedup:g})")
    add("--target", choices=TARGETS, help=f"conv MACs, or the clock on this machine (default: {DEFAULTS.target})")
    add("--form", choices=FORM_CHOICES, help=f"how a convolution is split (default: {DEFAULTS.form})")
    add("--solver", choices=SOLVERS, help=f"weights: the kernel's SVD, without data (default: {DEFAULTS.solver})")
    add("--symmetric", action="store_true", help="solve every layer on the original network's inputs")
    toggle = argparse.BooleanOptionalAction
    add("--residual", action=toggle, help="solve for the sum where a shortcut is added to a layer (default: it is)")
    add("--refit", action=toggle, help="fit the fully connected layers to what the new ones deliver (default: it is)")
    add("--include-gemm", action="store_true", help="factorise fully connected layers, too; X counts their MACs, then")
    add("--ranks", choices=ALLOCATION_CHOICES, help=f"how the layers share the budget (default: {DEFAULTS.ranks})")
    add("--rank-multiple", metavar="N", type=rank_multiple, help=MULTIPLE_HELP)
    add("--preset", choices=PRESET_CHOICES, help="forms and ranks that suit the place where the result will run")
    add("--include", metavar="RE", help="only Conv nodes whose name matches this regular expression")
    add("--exclude", metavar="RE", help="leave Conv nodes whose name matches alone")
    add("--images", metavar="N", type=int, help=f"calibration samples to use (default: {DEFAULTS.images})")
    add("--input-shapes", metavar="SHAPES", action="append", help=SHAPES_HELP)
    add("--seed", metavar="N", type=int, help=f"of every random choice (default: {DEFAULTS.seed})")
    add("--memory", metavar="SIZE", type=byte_size, help=f"for activations (default: {DEFAULTS.memory >> 30}GiB)")
    add(
        "--providers",
        metavar="LIST",
        type=comma_list,
        help=f"such as cuda,cpu (default: {','.join(DEFAULTS.providers)})",
    )
    add("--threads", metavar="N", type=int, help="of ONNX Runtime (default: its own choice)")

    group = parser.add_argument_group("latency", argument_default=argparse.SUPPRESS)
    add = group.add_argument
    add("--latency-table", metavar="FILE", type=str, help="keep measured times here, and use those that are there")
    add("--latency-device", metavar="NAME", help="plan for this device of the table; measure nothing")
    add(
        "--latency-batch", metavar="N", type=int, help="samples in a measured run (default: 1, or as the model demands)"
    )
    add("--measure-latency", action="store_true", help="only fill the table: no OUT, no data", default=False)

    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="PATH", type=path_argument, help=DATA_HELP)
    add("--preprocess", metavar="SPEC", default="imagenet", help=PREPROCESS_HELP)
    add("--test", metavar="PATH", type=path_argument, help=TEST_HELP)

    add = parser.add_argument_group("plan and output").add_argument
    add("--dry-run", action="store_true", help="choose the ranks and print them; with --plan, save them")
    add(
        "--plan", metavar="FILE", type=path_argument, help="replay a saved plan; with --dry-run, the file to save it to"
    )
    add("--report", metavar="FILE", type=path_argument, help="write everything about the run as JSON")
    add("--save-as-external-data", action="store_true", help="keep the weights in a file beside OUT")
    add("--quiet", action="store_true", help="print warnings and errors only")
    add("--traceback", action="store_true", help="show where an error was raised")
    return parser


def arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Options]:
    """Read the command line.

    Parameters
    ----------
    argv
        The arguments; None for those of the process.

    Returns
    -------
    argparse.Namespace
        The files and what is said about them; ``preprocess`` is parsed.
    Options
        The choices of the run.

    Raises
    ------
    UsageError
        Where the line makes no sense or contradicts itself.
    """
    # Intermixed: OUT may follow an option.
    args = _parser().parse_intermixed_args(argv)
    for name, value in vars(args).items():
        values = value if name == "input_shapes" and value else [value]  # an option that may be given several times
        if any(isinstance(item, list) for item in values):  # argparse takes the value out of --option=--
            raise UsageError(f"argument --{name}: expected one argument (see {PROGRAM} --help)")
    args.preprocess = parse(args.preprocess)
    given = {field.name: getattr(args, field.name) for field in fields(Options) if hasattr(args, field.name)}
    if "input_shapes" in given:
        given["input_shapes"] = parse_shapes(given["input_shapes"])
    if args.measure_latency:
        if "latency_table" not in given:
            raise UsageError("--measure-latency fills a table: name it with --latency-table FILE")
        for name in ("out", "data", "test", "plan", "report", "dry_run", "latency_device"):
            if getattr(args, name, None):
                shown = "OUT" if name == "out" else f"--{name.replace('_', '-')}"
                raise UsageError(f"--measure-latency only measures: drop {shown}")
        given["target"] = "latency"
    elif args.dry_run:
        for name, purpose in (("report", "write"), ("test", "measure")):
            if getattr(args, name):
                raise UsageError(f"--dry-run leaves nothing to {purpose}: drop --{name} or --dry-run")
    elif args.out is None:
        raise UsageError("OUT is missing: name the ONNX file to write, or only look with --dry-run")
    elif args.plan:
        for name in ("speedup", "target", "form", "ranks", "rank_multiple", "latency_device"):
            if name in given:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"--plan replays forms and ranks that are already chosen: drop {option} or --plan")
    if "preset" in given and (args.dry_run or not args.plan):  # else forms and ranks are the plan's
        given = {**STANDS_FOR[given["preset"]], **given}
    return args, Options(**given)
