"""README says what the program does: its commands, options, exit codes and example are the real ones."""

import re
import shlex
from pathlib import Path

import pytest

from onnx_lowrank import errors
from onnx_lowrank.cli import bench
from onnx_lowrank.cli.compress import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def quick_start() -> list[str]:
    return code_blocks(section("Quick start"))[0].splitlines()


def command_options(capsys: pytest.CaptureFixture[str]) -> set[str]:
    assert main(["--help"]) == 0
    return set(OPTION.findall(capsys.readouterr().out))


def bench_options(capsys: pytest.CaptureFixture[str]) -> set[str]:
    assert bench.main(["--help"]) == 0
    return set(OPTION.findall(capsys.readouterr().out))


def test_quick_start_begins_with_a_block_of_two_commands() -> None:
    work, test = quick_start()
    assert re.fullmatch(r"python -m pip install \S+ && onnx-lowrank .*", work)
    assert re.fullmatch(r"python -m pip install \S+ && python -m pytest", test)


def test_quick_start_reads_files_that_exist_and_writes_one_that_git_ignores() -> None:
    words = shlex.split(quick_start()[0].split("&&")[1])
    files = {word for word in words if re.search(r"\.(onnx|npz)$", word)}
    missing = {name for name in files if not (ROOT / name).exists() or name == "mnist_4x.onnx"}
    assert len(files) == 4
    assert missing == {"mnist_4x.onnx"}
    assert "/*.onnx" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_quick_start_line_is_one_that_the_command_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # With --dry-run in place of what it may not be given, so that nothing is solved or written.
    words = shlex.split(quick_start()[0].split("&&")[1])[1:]
    at = words.index("--test")
    monkeypatch.chdir(ROOT)
    assert main([*words[:at], *words[at + 2 :], "--dry-run", "--quiet"]) == 0


def test_every_option_in_readme_exists(capsys: pytest.CaptureFixture[str]) -> None:
    options, of_bench = command_options(capsys), bench_options(capsys)
    without_comments = re.sub(r"<!--.*?-->", "", README, flags=re.DOTALL)
    pieces = [line for block in code_blocks(without_comments) for line in block.splitlines()]
    pieces += re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", without_comments, flags=re.MULTILINE | re.DOTALL))
    for piece in pieces:
        for command in piece.split("&&"):
            if tool := re.search(r"tools/\w+\.py", command):
                allowed = set(OPTION.findall((ROOT / "tools" / "measuring.py").read_text(encoding="utf-8")))
                allowed |= set(OPTION.findall((ROOT / tool[0]).read_text(encoding="utf-8")))
            elif command.split()[:1] in (["ruff"], ["trtexec"]) or "modelopt" in command:
                continue
            elif command.split()[:1] == ["onnx-lowrank-bench"]:
                allowed = of_bench
            elif command.split()[:1] == ["onnx-lowrank"]:
                allowed = options
            else:  # an option in the text, of either command
                allowed = options | of_bench
            assert set(OPTION.findall(command)) <= allowed, command


def test_readme_mentions_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_options(capsys) - set(OPTION.findall(README)) == set()
    assert bench_options(capsys) - set(OPTION.findall(section("Measuring speed"))) == set()


def test_exit_codes_are_those_of_the_errors() -> None:
    stated = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)}
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    of_errors = {kind.exit_code for kind in kinds if issubclass(kind, errors.LowRankError)}
    assert stated == of_errors | {0, 130, 143}


def test_exit_codes_are_worded_as_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = re.findall(r"^  (\d) +(.+)$", capsys.readouterr().out, re.MULTILINE)
    assert len(lines) == 7
    for code, text in lines:
        assert f"| {code} | {text} |" in section("Exit codes")


def test_links_lead_somewhere() -> None:
    headings = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", README, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_python_example_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    (example,) = code_blocks(section("Python"))
    exec(compile(example, "README.md", "exec"), {})
    speedup, error = map(float, capsys.readouterr().out.split())
    assert 4 <= speedup <= 4.04
    assert error < 0.2
    assert (tmp_path / "mnist_4x.onnx").exists()
