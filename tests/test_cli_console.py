import io
import re
import sys
import time

import pytest

from onnx_lowrank.cli import progress_bars, tables
from onnx_lowrank.cli.progress_bars import ProgressBars, time_left
from onnx_lowrank.cli.tables import NONE
from onnx_lowrank.report.schema import SiteReport, SkippedReport


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def lines() -> list[str]:
    return []


def site(name: str) -> SiteReport:
    return SiteReport(
        name,
        "channel",
        (3, 3),
        (64, 128),
        {"d'": 20},
        924_844_032,
        312_000_000,
        "Relu",
        None,
        0.0123,
        None,
        False,
        "linear",
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (576, "576"), (999, "999"), (1728, "1.728 k"), (15_346_630_656, "15.35 G"), (2 * 10**15, "2,000 T")],
)
def test_counts(number: int, text: str) -> None:
    assert tables.count(number) == text


@pytest.mark.parametrize(("number", "text"), [(12, "12 B"), (1 << 20, "1 MiB"), (553_438_000, "527.8 MiB")])
def test_sizes(number: int, text: str) -> None:
    assert tables.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10 s"), (31.2, "31 s"), (65, "1 min 5 s"), (7265, "2 h 1 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "expected"), [("a\n  b\t c", "a b c"), ("\x1b[31mred", "\\x1b[31mred"), ("é [bold]", "é [bold]")]
)
def test_one_line(text: str, expected: str) -> None:
    assert tables.one_line(text) == expected


def test_a_pipe_gets_no_colours_and_unfolded_lines() -> None:
    long = "/backbone" * 40 + "/Conv"
    text = tables.render([tables.sites_table([site(long)])], io.StringIO())
    assert "\x1b" not in text
    (row,) = (line for line in text.splitlines() if long in line)
    assert row.split() == [
        *(
            long,
            "3×3",
            "64→128",
            "Relu",
            "channel",
            "20",
            "924.8",
            "M",
            "312",
            "M",
            "33.7",
            "%",
            "0.0123",
            NONE,
            "linear",
        ),
    ]


@pytest.mark.parametrize("name", ["block[bold]1[/bold]/Conv", "stage[0]:rocket:", "[/]"])
@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_names_are_not_markup(name: str, stream: io.StringIO) -> None:
    assert name in tables.render([tables.skipped_table([SkippedReport(name, "[red]")])], stream)


def test_a_narrow_terminal_folds_names_and_keeps_numbers_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = re.sub("\x1b\\[\\d+m", "", tables.render([tables.sites_table([site("x" * 200)])], Terminal()))
    assert all(len(line) <= tables.NARROWEST for line in text.splitlines())
    for whole in ("64→128", "924.8 M", "312 M", "33.7 %", "0.0123"):
        assert whole in text
    assert "…" not in text


def test_what_the_stream_cannot_encode_is_replaced() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    text = tables.render([tables.sites_table([site("conv")])], stream)
    assert text.isascii() and "3?3" in text


def test_a_short_stage_is_not_shown(lines: list[str]) -> None:
    with ProgressBars(lines.append) as bars:
        bars("profile", 0, 2)
        bars("profile", 2, 2)
    assert lines == []


def test_a_long_stage_is_one_line_where_there_is_no_terminal(lines: list[str]) -> None:
    with ProgressBars(lines.append, patience=0.05) as bars:
        for _ in range(2):
            bars("profile", 0, 9)
            for done in range(1, 9):
                time.sleep(0.02)
                bars("profile", done, 9)
            bars("profile", 9, 9)
        bars("validate", 0, 1)
    assert lines == ["profile …"]


def test_a_long_stage_is_a_bar_on_a_terminal(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with ProgressBars(lines.append, patience=0.05) as bars:
        bars("pro[b]file", 0, 9)
        assert terminal.getvalue() == ""
        time.sleep(0.15)
        bars("pro[b]file", 4, 9)
        print("a warning", file=sys.stderr)
    shown = terminal.getvalue()
    assert "pro[b]file" in shown and "4/9" in shown and "a warning" in shown
    assert "\x1b[?25h" in shown, "the cursor is back"
    assert lines == [] and sys.stderr is terminal


def test_a_stage_that_takes_long_says_now_and_then_what_is_left(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_bars, "PAUSE", 0.0)
    with ProgressBars(lines.append, patience=0.01) as bars:
        for done in range(4):
            bars("keep", done, 3)
            time.sleep(0.1)
    assert [re.sub(r"[\d.]+ s", "… s", line) for line in lines] == [
        *("keep …", "keep 1/3, about … s left", "keep 2/3, about … s left"),
    ]


@pytest.mark.parametrize(
    ("seconds", "done", "total", "text"),
    [
        (10, 1, 3, "about 20 s left"), (600, 4, 5, "about 2 min 30 s left"),
        (1, 0, 5, ""), (5, 5, 5, ""), (5, 1, None, ""),
    ],
)  # fmt: skip
def test_the_time_that_is_left_follows_from_the_steps_that_are_done(
    seconds: float, done: float, total: float | None, text: str
) -> None:
    assert time_left(seconds, done, total) == text


def test_a_stage_that_was_left_behind_is_never_shown_afterwards(lines: list[str]) -> None:
    with pytest.raises(KeyError), ProgressBars(lines.append, patience=0.05) as bars:
        bars("profile", 0, 9)
        raise KeyError
    bars("profile", 1, 9)
    time.sleep(0.1)
    assert lines == []


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ((2.67, 2.6, 2.75), "2.67× faster (2.60 to 2.75)"),
        ((0.5, 0.4, 0.8), "2.00× slower (1.25 to 2.50)"),
        ((0.5, 0.0, 2.0), "2.00× slower (0.50 to ∞)"),  # a small model on a busy machine
    ],
)
def test_a_speedup_has_its_interval_whatever_its_bounds_are(bounds: tuple[float, float, float], text: str) -> None:
    assert tables.speed(*bounds) == text
