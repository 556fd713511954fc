"""The parser of both commands: how it refuses, how it helps, and how it reads single values."""

import argparse
import difflib
import errno
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onnx_lowrank._version import __version__
from onnx_lowrank.data.photos.preprocess import PRESETS
from onnx_lowrank.errors import UsageError
from onnx_lowrank.options import AUTO, FILLED_BLOCKS

EXIT_CODES: Mapping[int, str] = MappingProxyType(
    {
        0: "done",
        1: "an internal error, which is a bug",
        2: "the command line: options that have no meaning or contradict each other",
        3: "the model or the data cannot be read, or do not fit",
        4: "the speedup, or what --keep asks for, is out of reach",
        5: "the rewritten model broke a promise; nothing was written",
        6: "the machine: the output cannot be written, ONNX Runtime is broken, memory ran out",
        7: "the result is further from the original than --require accepts; nothing was written",
        130: "interrupted (143 by SIGTERM); nothing was written",
    }
)
"""The meaning of every exit code."""

PREPROCESS_HELP = (
    f"how photos become inputs: a preset ({', '.join(PRESETS)}), optionally with changes, as in caffe,resize=none "
    "(default: %(default)s)"
)
PROVIDERS_HELP = "ONNX Runtime execution providers in order of preference, such as cuda,cpu; the first one must run"

UNITS = {"": 1, "b": 1, "kb": 10**3, "kib": 2**10, "mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": 2**30}
"""Bytes in a unit of memory, by its lower-case name."""

_OPTION = re.compile(r"--?[A-Za-z]")


class Parser(argparse.ArgumentParser):
    """A parser that refuses as every other error does, and suggests the nearest name for a misspelt one.

    Parameters
    ----------
    program
        The name of the command.
    usage
        The lines of arguments that the command accepts, without its name.
    description
        What the command does.
    examples
        Lines of arguments, and a sentence on what each of them does.
    epilog
        The end of the help.
    """

    def __init__(
        self, program: str, usage: Sequence[str], description: str, examples: Mapping[str, str], epilog: str
    ) -> None:
        worked = "\n".join(f"  {program} {line}\n      {sentence}" for line, sentence in examples.items())
        super().__init__(
            program,
            usage="\n       ".join(f"{program} {line}" for line in usage),
            description=f"{description}\n\nexamples:\n{worked}",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,  # its place is among the general options
        )

    def error(self, message: str) -> Any:
        """Refuse the command line in one line."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_line(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse arguments, in which files and options may stand in any order.

        Raises
        ------
        UsageError
            If an option is unknown, a value cannot be read, or a file is missing or superfluous.
        """
        self._check_options(argv)
        return self.parse_intermixed_args(argv)

    def add_general_options(self) -> None:
        """Add the options that both commands have, as the last group."""
        add = self.add_argument_group("general").add_argument
        add("--quiet", action="store_true", help="print warnings and errors only")
        add("--traceback", action="store_true", help="print the traceback of an error")
        add("--version", action="version", version=f"{self.prog} {__version__}", help="print the version and exit")
        add("-h", "--help", action="help", help="print this help and exit")

    def _check_options(self, argv: Sequence[str]) -> None:
        """Refuse unknown options before argparse does: it would first complain about whatever they upset."""
        known = list(self._option_string_actions)
        for word in argv:
            if word == "--":
                return
            name = word.partition("=")[0]
            if _OPTION.match(name) and name not in known:
                self.error(f"unknown option {name}{nearest(name, known)}")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return a question that suggests the known name most like a misspelt one, or nothing where none is like it."""
    longer = [other for other in known if other.startswith(name)]
    matches = longer or difflib.get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def exit_codes(*codes: int) -> str:
    """Return the end of a help text, which lists these exit codes."""
    return "exit codes:\n" + "\n".join(f"  {code:<5}{EXIT_CODES[code]}" for code in codes)


def data_help(samples: str, default: str) -> str:
    """Return the help of ``--data``, given the purpose of the samples and what replaces them."""
    return f"{samples}: a folder of photos, an .npy or an .npz file (default: {default})"


def one_of(choices: Sequence[str]) -> dict[str, Any]:
    """Return the keywords of an argparse option that takes one of some words and suggests one for a misspelt word."""

    def convert(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}{nearest(text, choices)}")
        return text

    return {"type": convert, "choices": choices}


def path_argument(text: str) -> Path:
    """Convert the name of a file or folder, for argparse."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    try:
        Path(text).stat()
    except FileNotFoundError:
        pass  # the command may be about to write it
    except (OSError, ValueError) as error:
        # A name that is too long, holds a NUL or cannot be encoded would fail wherever it is used later.
        if not isinstance(error, OSError) or error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            raise argparse.ArgumentTypeError(f"no file can have the name {text[:80]!r} ({error})") from None
    return Path(text)


def byte_size(text: str) -> int:
    """Convert a number of bytes, such as 4GiB, for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower(), re.ASCII)
    if match is None or match[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: write for example 4GiB or 500MB")
    return round(float(match[1]) * UNITS[match[2]])


def comma_list(text: str) -> tuple[str, ...]:
    """Convert names separated by commas, for argparse."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def whole_numbers(text: str) -> tuple[int, ...]:
    """Convert whole numbers separated by commas, for argparse."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, such as 1,2") from None


def refine(text: str) -> int | str:
    """Convert a whole number or "auto", for argparse."""
    try:
        return text if text == AUTO else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor {AUTO}") from None


def rank_multiple(text: str) -> int | str:
    """Convert a whole number, "blocks" or "auto", for argparse."""
    if text in (FILLED_BLOCKS, AUTO):
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor {AUTO} nor {FILLED_BLOCKS}") from None
