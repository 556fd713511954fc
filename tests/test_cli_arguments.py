from pathlib import Path

import pytest
from cli_for_tests import INSTANT, Recorder

from onnx_lowrank._version import __version__
from onnx_lowrank.cli import compress
from onnx_lowrank.data.photos.preprocess import PRESETS, parse
from onnx_lowrank.options import FORM_CHOICES, Options
from onnx_lowrank.stages.request import Request

pytestmark = pytest.mark.usefixtures("working_folder")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--quiet", "the following arguments are required: IN"),
        ("in.onnx", "OUT is missing"),
        ("in.onnx --plan plan.json", "OUT is missing"),
        ("in.onnx out.onnx more", "unrecognized arguments: more"),
        ("in.onnx out.onnx --speedup", "--speedup: expected one argument"),
        ("in.onnx out.onnx --speedup fast", "--speedup: invalid float value: 'fast'"),
        ("in.onnx out.onnx --speedup 0.5", "speedup is 0.5"),
        ("in.onnx out.onnx --speedup -2", "speedup is -2"),
        ("in.onnx out.onnx --speedup nan", "speedup is nan"),
        ("in.onnx out.onnx --speed 4", "unknown option --speed; did you mean --speedup?"),
        ("in.onnx out.onnx --form tucker", f"--form: 'tucker' is none of {', '.join(FORM_CHOICES)}"),
        ("in.onnx out.onnx --solver best", "--solver: 'best' is none of nonlinear, linear, weights"),
        ("in.onnx out.onnx --ranks vbmf", "--ranks: 'vbmf' is none of exact, greedy, uniform"),
        ("in.onnx out.onnx --include (", "include is '(', which is not a regular expression"),
        ("in.onnx out.onnx --exclude [", "exclude is '[', which is not a regular expression"),
        ("in.onnx out.onnx --rank-multiple 0", "rank_multiple is 0"),
        ("in.onnx out.onnx --rank-multiple 8.5", "--rank-multiple: '8.5' is neither a whole number nor auto"),
        ("in.onnx out.onnx --preset npu", "--preset: 'npu' is none of tensorrt, tensorrt-int8"),
        ("in.onnx out.onnx --images 0", "images is 0"),
        ("in.onnx out.onnx --images 1.5", "--images: invalid int value: '1.5'"),
        ("in.onnx out.onnx --seed -1", "seed is -1"),
        ("in.onnx out.onnx --memory lots", "--memory: 'lots' is not a size: write for example 4GiB"),
        ("in.onnx out.onnx --memory 4XB", "--memory: '4XB' is not a size"),
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
    line: str, message: str, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress.main(line.split(), recorder.pipeline) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("onnx-lowrank: error: ") and err.count("\n") == 1
    assert message in err
    assert not recorder.requests


def test_a_link_to_the_input_is_the_input(capsys: pytest.CaptureFixture[str]) -> None:
    Path("link.onnx").symlink_to("in.onnx")
    assert compress.main(["in.onnx", "link.onnx"], INSTANT) == 2
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
def test_memory_sizes(text: str, expected: int, recorder: Recorder) -> None:
    assert compress.main(["in.onnx", "out.onnx", "--memory", text], recorder.pipeline) == 0
    assert recorder.requests[0].options.memory == expected


def test_without_options_the_defaults_are_those_of_the_library(recorder: Recorder) -> None:
    assert compress.main(["in.onnx", "out.onnx"], recorder.pipeline) == 0
    assert recorder.requests == [Request(Path("in.onnx"), None, Options(), PRESETS["imagenet"], None, None)]


def test_every_option_reaches_the_pipeline(recorder: Recorder) -> None:
    line = (
        "in.onnx --speedup 2.5 --form channel --solver linear --symmetric --no-residual --no-refit --ranks uniform "
        "--rank-multiple 16 --preset tensorrt --include a --exclude b --images 7 --seed 3 --memory 1GB "
        "--providers cuda,cpu --threads 2 --data photos --preprocess caffe,resize=none --test t.npz out.onnx"
    )
    assert compress.main(line.split(), recorder.pipeline) == 0
    (request,) = recorder.requests
    assert request.options == Options(
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
    assert request.data == Path("photos")
    assert request.preprocess == parse("caffe,resize=none")
    assert request.test == Path("t.npz")


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
    line: str, form: str, multiple: int, recorder: Recorder
) -> None:
    assert compress.main(["in.onnx", "out.onnx", *line.split()], recorder.pipeline) == 0
    options = recorder.requests[0].options
    assert (options.form, options.rank_multiple, options.preset) == (
        form,
        multiple,
        line.split("preset ")[1].split()[0],
    )


def test_a_replayed_plan_has_its_own_forms_and_ranks(recorder: Recorder) -> None:
    Path("plan.json").write_text('{"schema": 1, "sites": []}')
    assert compress.main(["in.onnx", "out.onnx", "--plan", "plan.json", "--preset", "tensorrt"], recorder.pipeline) == 0
    assert recorder.requests[0].options == Options(preset="tensorrt")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert compress.main(["--version"]) == 0
    assert capsys.readouterr().out == f"onnx-lowrank {__version__}\n"
