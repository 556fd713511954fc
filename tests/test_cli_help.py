"""The help, the short usage and the suggestions of both commands."""

import dataclasses
import re
import shlex
from collections.abc import Callable

import pytest
from cli_for_tests import INSTANT

from onnx_lowrank.cli import bench, compress
from onnx_lowrank.data.photos.preprocess import PRESETS
from onnx_lowrank.factorise.forms.table import AUTO, FORMS
from onnx_lowrank.options import Options

pytestmark = pytest.mark.usefixtures("working_folder")

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "onnx-lowrank": lambda words: compress.main(words, INSTANT),
    "onnx-lowrank-bench": bench.main,
}
FORM_VALUES = ", ".join((AUTO, *FORMS.names))
CODES = {"onnx-lowrank": [0, 1, 2, 3, 4, 5, 6, 7, 130], "onnx-lowrank-bench": [0, 1, 2, 3, 6, 130]}


def help_text(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert COMMANDS[command](["--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_opens_with_three_examples_that_work(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    usage, description, examples, first_group, *_ = help_text(command, capsys).split("\n\n")
    assert usage.startswith(f"usage: {command} ") and description and first_group.startswith("files:\n")
    title, *lines = examples.splitlines()
    assert title == "examples:" and len(lines) == 6
    for line, sentence in zip(lines[::2], lines[1::2], strict=True):
        program, *words = shlex.split(line)
        assert program == command and sentence.endswith(".")
        # The instant pipeline reads no model, and the benchmark misses the first one that it would read.
        assert COMMANDS[command](words) == (0 if command == "onnx-lowrank" else 3)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_ends_with_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    title, *lines = help_text(command, capsys).split("\n\n")[-1].splitlines()
    assert title == "exit codes:"
    assert [int(line.split()[0]) for line in lines] == CODES[command]


def test_the_help_names_every_option_and_preset(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text("onnx-lowrank", capsys)
    for field in dataclasses.fields(Options):
        assert f"--{field.name.replace('_', '-')}" in text
    for preset in PRESETS:
        assert preset in text


@pytest.mark.parametrize("command", COMMANDS)
def test_without_arguments_a_command_shows_a_short_usage_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMANDS[command]([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 3
    assert re.search(rf"^usage: +{command} ", err) and re.search(rf"^example: {command} model.onnx ", err, re.MULTILINE)
    assert f"{command} --help" in err


@pytest.mark.parametrize(
    ("command", "line", "message"),
    [
        ("onnx-lowrank", "in.onnx out.onnx --speedp 3", "unknown option --speedp; did you mean --speedup?"),
        ("onnx-lowrank", "in.onnx out.onnx --speedp=3", "unknown option --speedp; did you mean --speedup?"),
        ("onnx-lowrank", "in.onnx out.onnx --speed 3", "unknown option --speed; did you mean --speedup?"),
        ("onnx-lowrank", "in.onnx out.onnx -speedup 3", "unknown option -speedup; did you mean --speedup?"),
        ("onnx-lowrank", "in.onnx out.onnx --no-resdual", "unknown option --no-resdual; did you mean --no-residual?"),
        ("onnx-lowrank", "--dry-rum", "unknown option --dry-rum; did you mean --dry-run?"),
        ("onnx-lowrank", "in.onnx out.onnx --xyz", "unknown option --xyz (see onnx-lowrank --help)"),
        ("onnx-lowrank", "in.onnx out.onnx --form spacial", f"none of {FORM_VALUES}; did you mean spatial?"),
        ("onnx-lowrank", "in.onnx out.onnx --form 3D", f"'3D' is none of {FORM_VALUES}; did you mean 3d?"),
        ("onnx-lowrank", "in.onnx out.onnx --solver liner", "did you mean linear?"),
        ("onnx-lowrank", "in.onnx out.onnx --ranks exat", "did you mean exact?"),
        ("onnx-lowrank", "in.onnx out.onnx --target latancy", "did you mean latency?"),
        ("onnx-lowrank", "in.onnx out.onnx --preset tensort", "did you mean tensorrt?"),
        ("onnx-lowrank-bench", "in.onnx --round 3", "unknown option --round; did you mean --rounds?"),
        ("onnx-lowrank-bench", "in.onnx --providrs cpu", "unknown option --providrs; did you mean --providers?"),
    ],
)
def test_a_misspelt_option_or_choice_gets_a_suggestion(
    command: str, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMANDS[command](line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"{command}: error: ") and err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    "line", ["in.onnx out.onnx --speedup -2", "in.onnx out.onnx --include=--speedp", "in.onnx -- --speedp"]
)
def test_a_value_or_a_file_is_not_taken_for_an_option(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    COMMANDS["onnx-lowrank"](line.split())
    assert "unknown option" not in capsys.readouterr().err
