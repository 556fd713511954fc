"""The usage, the options and the help of ``onnx-lowrank``."""

import argparse

from onnx_lowrank.cli.parser import (
    PREPROCESS_HELP,
    PROVIDERS_HELP,
    Parser,
    byte_size,
    comma_list,
    data_help,
    exit_codes,
    one_of,
    path_argument,
    rank_multiple,
    refine,
)
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.measures.table import HEAD_CHOICES, TASK_CHOICES
from onnx_lowrank.options import (
    ALLOCATION_CHOICES,
    DEFAULTS,
    FORM_CHOICES,
    INTEGERS,
    OBJECTIVES,
    PRESET_CHOICES,
    SOLVERS,
    TARGETS,
    WIDTHS,
)
from onnx_lowrank.quality import AGREEMENT, BY_DEFAULT, ERROR, MEASURES

PROGRAM = "onnx-lowrank"

USAGE = (
    "[options] IN OUT",
    "[options] IN --dry-run",
    "[options] IN --measure-latency --latency-table FILE",
)

DESCRIPTION = """\
Make a trained convolutional network cheaper. The network is an ONNX file; its
convolutions become chains of smaller ones that need fewer multiply-accumulates
(MACs) and give nearly the same outputs. This needs a few hundred unlabelled
samples, and no labels, training or training framework."""

EXAMPLES = {
    "model.onnx small.onnx --speedup 4 --data photos": "Reduce the MACs of the convolutions to a quarter, "
    "calibrated on a folder of photos.",
    "model.onnx --dry-run --data photos --plan plan.json": "Choose forms and ranks, print them, and save them without "
    "solving anything.",
    "model.onnx fast.onnx --target latency --speedup 1.5 --data photos": "Make the model run 1.5 times as fast on this "
    "machine.",
}

FORM_SUMMARIES = "; ".join(f"{kind.name} is {kind.summary}" for kind in FORMS)

SHORT_USAGE = f"""\
usage:   {PROGRAM} IN OUT [options]
example: {PROGRAM} {next(iter(EXAMPLES))}
{PROGRAM} --help explains all options."""


def compress_parser() -> Parser:
    """Make the parser of the command.

    An option that is a field of ``Options`` has no default here and is absent from the parsed values where it is not
    given, so that only ``Options`` states the defaults.
    """
    parser = Parser(
        PROGRAM,
        USAGE,
        DESCRIPTION,
        EXAMPLES,
        exit_codes(0, 1, 2, 3, 4, 5, 6, 7, 130),
    )
    add = parser.add_argument_group("files").add_argument
    add("model", metavar="IN", type=path_argument, help="the ONNX file to compress")
    add(
        "out",
        metavar="OUT",
        type=path_argument,
        nargs="?",
        help="the ONNX file to write, which appears only when it is whole and validated",
    )
    _add_goal(parser)
    _add_plan(parser)
    _add_data(parser)
    _add_output(parser)
    _add_solver(parser)
    _add_machine(parser)
    parser.add_general_options()
    return parser


def _add_goal(parser: Parser) -> None:
    add = parser.add_argument_group("speedup and layers", argument_default=argparse.SUPPRESS).add_argument
    add(
        "--speedup",
        metavar="X",
        type=float,
        help=f"factor by which the cost named by --target must fall (default: {DEFAULTS.speedup:g})",
    )
    add(
        "--keep",
        metavar="QUALITY",
        help="ask for a quality instead of a speedup: the fastest model with agreement=0.99, error=0.01, or "
        "accuracy=0.5 (points that may be lost on --test)",
    )
    add("--curve", action="store_true", help="solve models of other speedups as well, and show what each costs")
    add(
        "--target",
        **one_of(TARGETS),
        help="the cost to reduce: the MACs of the convolutions, or the time of a run on this machine "
        f"(default: {DEFAULTS.target})",
    )
    add("--include", metavar="RE", help="factorise only layers whose name matches this regular expression")
    add("--exclude", metavar="RE", help="leave layers whose name matches this regular expression as they are")
    add(
        "--include-gemm",
        action="store_true",
        help="factorise fully connected layers as well as convolutions, and count their MACs in the speedup",
    )


def _add_plan(parser: Parser) -> None:
    add = parser.add_argument_group("forms, ranks and widths", argument_default=argparse.SUPPRESS).add_argument
    add(
        "--preset",
        **one_of(PRESET_CHOICES),
        help="choose the form and the rank multiple that suit this runtime, and with --quantize the kind of integers",
    )
    add(
        "--quantize",
        **one_of(INTEGERS),
        help="round weights and activations to 8 bits as well, layer by layer, so that each layer makes up for what "
        "rounding those before it has lost; with --speedup 1 nothing else happens (default: no)",
    )
    add(
        "--form",
        **one_of(FORM_CHOICES),
        help=f"the chain that replaces a convolution from c to d channels: {FORM_SUMMARIES}; auto takes the best one "
        f"for every layer (default: {DEFAULTS.form})",
    )
    add(
        "--width",
        **one_of(WIDTHS),
        help="whether layers may lose channels: auto chooses widths and ranks together, none keeps all channels, only "
        f"leaves the layers otherwise whole (default: {DEFAULTS.width})",
    )
    add(
        "--ranks",
        **one_of(ALLOCATION_CHOICES),
        help="how the layers share the budget: exact keeps the most energy, greedy is the paper's heuristic, uniform "
        f"reduces all layers by the same ratio (default: {DEFAULTS.ranks})",
    )
    add(
        "--objective",
        **one_of(OBJECTIVES),
        help="what the plan preserves: energies takes all layers as equal, as the paper does; outputs weighs the error "
        "of each layer by what it does to the outputs, as rehearsed on a few samples (default: "
        f"{DEFAULTS.objective})",
    )
    add(
        "--rank-multiple",
        metavar="N",
        type=rank_multiple,
        help="make every rank a multiple of N; blocks fills the blocks of channels that processors compute at once: of "
        "16, or of 8 in layers too small for 16; auto measures which multiple pays on this machine (default: "
        "blocks, or auto with --target latency)",
    )


def _add_data(parser: Parser) -> None:
    add = parser.add_argument_group("data").add_argument
    add(
        "--data",
        metavar="PATH",
        type=path_argument,
        help=data_help("calibration samples without labels", "synthetic images"),
    )
    add("--preprocess", metavar="SPEC", default="imagenet", help=f"{PREPROCESS_HELP}; auto chooses one by measuring")
    add(
        "--images",
        metavar="N",
        type=int,
        default=argparse.SUPPRESS,
        help="number of calibration samples to use; a fifth of them takes no part in solving and judges the result "
        f"(default: {DEFAULTS.images})",
    )
    add(
        "--require",
        metavar="LIMIT",
        default=argparse.SUPPRESS,
        help="what the result must keep to be written: agreement=0.95 is a floor for the top-1 agreement with the "
        f"original, error=0.02 a ceiling for the centred error of its outputs, none accepts anything; other measures "
        f"are {', '.join(name for name in MEASURES if name not in (AGREEMENT, ERROR))} (default: {BY_DEFAULT})",
    )
    add(
        "--task",
        **one_of(TASK_CHOICES),
        default=argparse.SUPPRESS,
        help="what the outputs are for, which decides how the result is measured against the original; auto recognises "
        f"it where the answers prove it (default: {DEFAULTS.task})",
    )
    add(
        "--boxes",
        **one_of(HEAD_CHOICES),
        default=argparse.SUPPRESS,
        help=f"how the outputs of a detector say where boxes are (default: {DEFAULTS.boxes})",
    )
    add(
        "--input-shapes",
        metavar="SHAPES",
        action="append",
        default=argparse.SUPPRESS,
        help="sizes that the model leaves open: name:1,3,224,224 or name:1x3x224x224; a model with one input also "
        "takes 1,3,224,224",
    )
    add(
        "--test",
        metavar="PATH",
        type=path_argument,
        help="labelled samples that measure both models: an .npz, a folder with a sub-folder for each class, a COCO "
        "JSON of boxes, or a folder with images and masks",
    )


def _add_output(parser: Parser) -> None:
    add = parser.add_argument_group("plan and output").add_argument
    add("--dry-run", action="store_true", help="print forms and ranks, and solve nothing; with --plan, save them")
    add("--plan", metavar="FILE", type=path_argument, help="replay a saved plan; with --dry-run, save the plan here")
    add("--report", metavar="FILE", type=path_argument, help="write everything about the run as JSON")
    add("--save-as-external-data", action="store_true", help="store the weights in a file of their own beside OUT")


def _add_solver(parser: Parser) -> None:
    add = parser.add_argument_group("solving", argument_default=argparse.SUPPRESS).add_argument
    toggle = argparse.BooleanOptionalAction
    add(
        "--solver",
        **one_of(SOLVERS),
        help="fit the responses behind the activation (nonlinear) or before it (linear), or truncate the SVD of the "
        f"weights without looking at data (default: {DEFAULTS.solver})",
    )
    add(
        "--symmetric",
        action="store_true",
        help="solve every layer on the original network's inputs, ignoring the error of the layers before it",
    )
    add(
        "--residual",
        action=toggle,
        help="where a shortcut is added to a layer's responses, solve for the activation of the sum (default: yes)",
    )
    add(
        "--refit",
        action=toggle,
        help="fit the fully connected layers behind factorised convolutions again (default: yes)",
    )
    add(
        "--refine",
        metavar="STEPS",
        type=refine,
        help="refine the weights of a few neighbouring layers together, such as those of a residual block, in so many "
        "steps; 0 for none; auto refines where rehearsals have shown that the plan loses much (default: "
        f"{DEFAULTS.refine})",
    )
    add("--seed", metavar="N", type=int, help=f"seed for all random choices (default: {DEFAULTS.seed})")


def _add_machine(parser: Parser) -> None:
    add = parser.add_argument_group("machine and latency", argument_default=argparse.SUPPRESS).add_argument
    add(
        "--memory",
        metavar="SIZE",
        type=byte_size,
        help=f"memory for activations and sampled rows (default: {DEFAULTS.memory >> 30}GiB)",
    )
    add(
        "--providers",
        metavar="LIST",
        type=comma_list,
        help=f"{PROVIDERS_HELP} (default: {','.join(DEFAULTS.providers)})",
    )
    add("--threads", metavar="N", type=int, help="number of threads of ONNX Runtime (default: its own choice)")
    add("--latency-table", metavar="FILE", help="read measured times from this file, and add new ones to it")
    add("--latency-device", metavar="NAME", help="plan for this device of the latency table, and measure nothing")
    add(
        "--latency-batch",
        metavar="N",
        type=int,
        help="number of samples in a measured run (default: 1, or the number that the model demands)",
    )
    add(
        "--measure-latency",
        action="store_true",
        default=False,
        help="only measure the layers and fill the latency table, without OUT and without data",
    )
