import dataclasses
from pathlib import Path
from typing import Any

import pytest

from onnx_lowrank import pipeline
from onnx_lowrank._version import __version__
from onnx_lowrank.cli import compress
from onnx_lowrank.data.photos.preprocess import PRESETS, parse
from onnx_lowrank.options import Options


class ReachedError(Exception):
    """The pipeline was reached."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What the pipeline was called with; it then stops. The working folder is empty but for in.onnx."""
    seen: list[dict[str, Any]] = []

    def record(model: object, data: object = None, **keywords: object) -> None:
        seen.append({"model": model, "data": data, **keywords})
        raise ReachedError

    monkeypatch.setattr(pipeline, "compress", record)
    monkeypatch.setattr(pipeline, "plan_only", record)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.onnx").touch()
    return seen


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: IN"),
        ("in.onnx", "OUT is missing"),
        ("in.onnx --plan plan.json", "OUT is missing"),
        ("in.onnx out.onnx more", "unrecognized arguments: more"),
        ("in.onnx out.onnx --speedup", "--speedup: expected one argument"),
        ("in.onnx out.onnx --speedup fast", "--speedup: invalid float value: 'fast'"),
        ("in.onnx out.onnx --speedup 0.5", "speedup is 0.5"),
        ("in.onnx out.onnx --speedup -2", "speedup is -2"),
        ("in.onnx out.onnx --speedup nan", "speedup is nan"),
        ("in.onnx out.onnx --speed 4", "unrecognized arguments: --speed"),
        ("in.onnx out.onnx --form tucker", "--form: invalid choice: 'tucker'"),
        ("in.onnx out.onnx --solver best", "--solver: invalid choice: 'best'"),
        ("in.onnx out.onnx --ranks vbmf", "--ranks: invalid choice: 'vbmf'"),
        ("in.onnx out.onnx --include (", "include is '(', which is no regular expression"),
        ("in.onnx out.onnx --exclude [", "exclude is '[', which is no regular expression"),
        ("in.onnx out.onnx --rank-multiple 0", "rank_multiple is 0"),
        ("in.onnx out.onnx --rank-multiple 8.5", "--rank-multiple: '8.5' is neither a whole number nor auto"),
        ("in.onnx out.onnx --preset npu", "--preset: invalid choice: 'npu'"),
        ("in.onnx out.onnx --images 0", "images is 0"),
        ("in.onnx out.onnx --images 1.5", "--images: invalid int value: '1.5'"),
        ("in.onnx out.onnx --seed -1", "seed is -1"),
        ("in.onnx out.onnx --memory lots", "--memory: 'lots' is no size: write for example 4GiB"),
        ("in.onnx out.onnx --memory 4XB", "--memory: '4XB' is no size"),
        ("in.onnx out.onnx --memory 1KiB", "memory is 1024 bytes"),
        ("in.onnx out.onnx --providers ,", "providers is empty"),
        ("in.onnx out.onnx --threads -1", "threads is -1"),
        ("in.onnx out.onnx --threads 99999999999999999999", "threads is 99999999999999999999"),
        ("in.onnx out.onnx --preprocess torch", "there is no preset 'torch'"),
        ("in.onnx out.onnx --data=", "--data: an empty name"),
        ("in.onnx --dry-run --report r.json", "drop --report or --dry-run"),
        ("in.onnx --dry-run --test t.npz", "drop --test or --dry-run"),
        ("in.onnx out.onnx --plan p.json --speedup 3", "drop --speedup or --plan"),
        ("in.onnx out.onnx --plan p.json --form channel", "drop --form or --plan"),
        ("in.onnx out.onnx --plan p.json --ranks uniform", "drop --ranks or --plan"),
        ("in.onnx out.onnx --plan p.json --rank-multiple 8", "drop --rank-multiple or --plan"),
        ("in.onnx in.onnx", "IN and OUT are the same file, in.onnx"),
        ("in.onnx ./in.onnx", "IN and OUT are the same file"),
        ("in.onnx out.onnx --data out.onnx", "--data and OUT are the same file"),
        ("in.onnx out.onnx --report out.onnx", "--report and OUT are the same file"),
        ("in.onnx out.onnx --report in.onnx", "IN and --report are the same file"),
        ("in.onnx out.onnx --plan out.onnx", "--plan and OUT are the same file"),
        ("in.onnx --dry-run --plan in.onnx", "IN and --plan are the same file"),
    ],
)
def test_a_bad_command_line_is_one_line_and_exit_code_2(
    line: str, message: str, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("onnx-lowrank: error: ") and err.count("\n") == 1
    assert message in err
    assert not calls


def test_a_link_to_the_input_is_the_input(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    Path("link.onnx").symlink_to("in.onnx")
    assert compress.main(["in.onnx", "link.onnx"]) == 2
    assert "are the same file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GiB", 4 << 30),
        ("4gib", 4 << 30),
        ("1.5 GB", 1_500_000_000),
        ("512MiB", 512 << 20),
        ("512MB", 512_000_000),
        ("2048KiB", 2 << 20),
        ("3000kb", 3_000_000),
        ("2000000B", 2_000_000),
        ("2000000", 2_000_000),
    ],
)
def test_memory_sizes(text: str, expected: int, calls: list[dict[str, Any]]) -> None:
    compress.main(["in.onnx", "out.onnx", "--memory", text])
    assert calls[0]["options"].memory == expected


def test_without_options_the_defaults_are_those_of_the_library(calls: list[dict[str, Any]]) -> None:
    assert compress.main(["in.onnx", "out.onnx"]) == 1
    assert calls[0]["options"] == Options()
    assert calls[0]["preprocess"] == PRESETS["imagenet"]
    assert (calls[0]["model"], calls[0]["data"], calls[0]["plan"], calls[0]["test"]) == (
        Path("in.onnx"),
        None,
        None,
        None,
    )


def test_every_option_reaches_the_pipeline(calls: list[dict[str, Any]]) -> None:
    line = (
        "in.onnx --speedup 2.5 --form channel --solver linear --symmetric --no-residual --no-refit --ranks uniform "
        "--rank-multiple 16 --preset tensorrt --include a --exclude b --images 7 --seed 3 --memory 1GB "
        "--providers cuda,cpu --threads 2 --data photos --preprocess caffe,resize=none --test t.npz out.onnx"
    )
    compress.main(line.split())
    assert calls[0]["options"] == Options(
        speedup=2.5,
        form="channel",
        solver="linear",
        symmetric=True,
        residual=False,
        refit=False,
        ranks="uniform",
        rank_multiple=16,
        preset="tensorrt",
        include="a",
        exclude="b",
        images=7,
        seed=3,
        memory=10**9,
        providers=("cuda", "cpu"),
        threads=2,
    )
    assert calls[0]["data"] == Path("photos")
    assert calls[0]["preprocess"] == parse("caffe,resize=none")
    assert calls[0]["test"] == Path("t.npz")


@pytest.mark.parametrize(
    ("line", "form", "multiple"),
    [
        ("--preset tensorrt", "channel", 8),
        ("--preset tensorrt-int8", "channel", 32),
        ("--preset tensorrt --form auto", "auto", 8),
        ("--rank-multiple 1 --preset tensorrt", "channel", 1),
    ],
)
def test_a_preset_stands_for_options_and_what_is_given_wins(
    line: str, form: str, multiple: int, calls: list[dict[str, Any]]
) -> None:
    compress.main(["in.onnx", "out.onnx", *line.split()])
    options = calls[0]["options"]
    assert (options.form, options.rank_multiple, options.preset) == (
        form,
        multiple,
        line.split("preset ")[1].split()[0],
    )


def test_a_replayed_plan_has_its_own_forms_and_ranks(calls: list[dict[str, Any]]) -> None:
    Path("plan.json").write_text('{"schema": 1, "sites": []}')
    compress.main(["in.onnx", "out.onnx", "--plan", "plan.json", "--preset", "tensorrt"])
    assert calls[0]["options"] == Options(preset="tensorrt")


def test_the_help_names_every_option_preset_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert compress.main(["--help"]) == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(Options):
        assert f"--{field.name.replace('_', '-')}" in text
    for preset in PRESETS:
        assert preset in text
    for code in (0, 1, 2, 3, 4, 5, 6, 130):
        assert f"\n  {code:<5}" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert compress.main(["--version"]) == 0
    assert capsys.readouterr().out == f"onnx-lowrank {__version__}\n"
