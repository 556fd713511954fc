"""The pages say what the program does: their commands, options, exit codes, links and examples are the real ones."""

import inspect
import re
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from onnx_lowrank import errors, pipeline
from onnx_lowrank.cli import bench, compress
from onnx_lowrank.factorise.forms.table import AUTO, FORMS
from onnx_lowrank.report import latency_schema, output_schema, schema, task_schema, trade_off_schema

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "onnx_lowrank"
README, CLI, BENCH = ROOT / "README.md", PACKAGE / "cli" / "README.md", PACKAGE / "bench" / "README.md"
FORMS_PAGE = PACKAGE / "factorise" / "forms" / "README.md"
PAGES = [
    README,
    *(page for folder in ("onnx_lowrank", "models", "tools") for page in sorted((ROOT / folder).rglob("*.md"))),
]

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
LINK = re.compile(r"\]\(([^)]+)\)")
CODE_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON_FILE = re.compile(r"`([\w/]+\.py)`")

FOREIGN = ("ruff", "trtexec", "pip")
"""Other programs that the pages call; `modelopt` is a Python module."""


LONGEST = 150
"""Lines of README."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def text_of(page: Path) -> str:
    return re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def code_blocks(text: str, language: str = "sh") -> list[str]:
    return [code for written_in, code in CODE_BLOCK.findall(text) if written_in == language]


def prose(page: Path) -> str:
    return CODE_BLOCK.sub("", text_of(page))


def section(page: Path, title: str) -> str:
    return text_of(page).split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def commands(page: Path) -> list[str]:
    """The lines of all shell blocks, a line that ends in a backslash joined with the next, split at ``&&``."""
    lines = "".join(code_blocks(text_of(page))).replace("\\\n", " ").splitlines()
    return [command.strip() for line in lines for command in line.split("&&")]


def quick_start() -> list[str]:
    return code_blocks(section(README, "Quick start"))[0].splitlines()


def compress_line() -> list[str]:
    return shlex.split(quick_start()[0].split("&&")[1])[1:]


def table(page: Path, *header: str) -> list[list[str]]:
    """The cells of the only table of a page whose header begins with these columns."""
    (rows,) = re.findall(
        rf"^\| {re.escape(' | '.join(header))} \|.*\n\|[-:| ]+\n((?:\|.*\n)+)", prose(page), re.MULTILINE
    )
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]


def page_of(module: Path) -> Path:
    """The page of a module: that of its folder, or of the nearest folder above that has one."""
    return next(page for folder in module.parents if (page := folder / "README.md").exists())


def anchors(page: Path) -> set[str]:
    """Names of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[tuple[Path, str]]:
    """The files and anchors inside the repository to which a page links; an empty anchor for a whole file."""
    targets = [target for target in LINK.findall(prose(page)) if not target.startswith("https://")]
    pairs = [target.partition("#") for target in targets]
    return [((page.parent / file).resolve() if file else page, anchor) for file, _, anchor in pairs]


def help_of(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["--help"]) == 0
    return capsys.readouterr().out


def options_of(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> set[str]:
    return set(OPTION.findall(help_of(main, capsys)))


def options_of_tool(path: str) -> set[str]:
    shared = (ROOT / "tools" / "measuring.py").read_text(encoding="utf-8")
    return set(OPTION.findall((ROOT / path).read_text(encoding="utf-8") + shared))


def test_readme_can_be_read_in_one_go() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_every_folder_of_the_package_has_its_page() -> None:
    folders = [path.parent for path in PACKAGE.glob("*/__init__.py")]
    assert [folder.name for folder in folders if not (folder / "README.md").exists()] == []


def test_quick_start_begins_with_a_block_of_two_commands() -> None:
    work, test = quick_start()
    assert re.fullmatch(r"python -m pip install \S+ && onnx-lowrank .*", work)
    assert re.fullmatch(r"python -m pip install \S+ && python -m pytest -n 2", test)


def test_continuous_integration_runs_the_second_line_of_the_quick_start() -> None:
    block = re.search(r"^## Quick start\n+```sh\n(.*)\n(.*)\n```$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert block and [block[1], block[2]] == quick_start()
    assert "section = /^## Quick start/" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_quick_start_reads_files_that_exist_and_writes_one_that_git_ignores() -> None:
    files = {word for word in compress_line() if re.search(r"\.(onnx|npz)$", word)}
    missing = {name for name in files if not (ROOT / name).exists() or name == "mnist_4x.onnx"}
    assert len(files) == 4
    assert missing == {"mnist_4x.onnx"}
    assert "/*.onnx" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_quick_start_line_is_one_that_the_command_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    # With --dry-run in place of what it may not be given, so that nothing is solved or written.
    words = compress_line()
    test = words.index("--test")
    monkeypatch.chdir(ROOT)
    assert compress.main([*words[:test], *words[test + 2 :], "--dry-run", "--quiet"]) == 0


@every_page
def test_commands_are_ones_that_the_program_takes(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In an empty folder each fails for want of its files, not because its options make no sense."""
    monkeypatch.chdir(tmp_path)
    programs = {"onnx-lowrank": compress.main, "onnx-lowrank-bench": bench.main}
    for command in commands(page):
        name, *words = shlex.split(command, comments=True) or [""]
        if name in programs:
            code = programs[name](words)
            assert code == errors.ModelError.exit_code, f"{command}: {capsys.readouterr().err}"


@every_page
def test_every_option_exists(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_compress, of_bench = options_of(compress.main, capsys), options_of(bench.main, capsys)
    for piece in [*commands(page), *re.findall(r"`([^`]+)`", prose(page))]:
        program = piece.split()[0] if piece.split() else ""
        if tool := re.search(r"tools/\w+\.py", piece):
            allowed = options_of_tool(tool[0])
        elif program in FOREIGN or "modelopt" in piece:
            continue
        elif program == "onnx-lowrank-bench":
            allowed = of_bench
        elif program == "onnx-lowrank":
            allowed = of_compress
        elif page.parent == ROOT / "tools":  # an option in the text, of any tool
            allowed = of_compress.union(*(options_of_tool(f"tools/{tool.name}") for tool in page.parent.glob("*.py")))
        elif page.parent == ROOT / "models":  # of the tools that made the tables, too
            allowed = of_compress.union(
                *(options_of_tool(tool) for tool in re.findall(r"tools/\w+\.py", text_of(page)))
            )
        else:
            allowed = of_compress | of_bench
        assert set(OPTION.findall(piece)) <= allowed, piece


@every_page
def test_every_python_file_that_is_named_exists(page: Path) -> None:
    named = set(PYTHON_FILE.findall(prose(page)))
    folders = [page.parent, PACKAGE, ROOT, PACKAGE / "factorise" / "forms"]
    assert [name for name in named if not any((folder / name).exists() for folder in folders)] == []


def test_every_module_is_on_the_page_of_its_folder() -> None:
    modules = [module for module in PACKAGE.rglob("*.py") if not module.name.startswith("_")]
    pages = {module: page_of(module) for module in modules}
    unnamed = [
        name_of(module)
        for module, page in pages.items()
        if f"`{module.relative_to(page.parent).as_posix()}`" not in prose(page)
    ]
    assert unnamed == []


@pytest.mark.parametrize("page", [README, FORMS_PAGE], ids=name_of)
def test_tables_of_forms_are_the_table_of_forms(page: Path) -> None:
    columns = ("form", "chain of convolutions", "ranks") if page == FORMS_PAGE else ("form", "chain of convolutions")
    rows = {}
    for kind in FORMS:
        ranks = [", ".join(kind.rank_names)] if page == FORMS_PAGE else []
        rows[kind.name] = [kind.summary, *ranks, f"`{Path(inspect.getfile(type(kind))).name}`"]
    assert {name: cells[: len(columns)] for name, *cells in table(page, *columns, "file")} == rows


def test_the_page_of_the_command_line_names_every_form() -> None:
    (values,) = re.findall(r"^\| `--form` \| (.+) \|$", text_of(CLI), re.MULTILINE)
    assert re.findall(r"`(\w+)`", values) == [AUTO, *FORMS.names]


@pytest.mark.parametrize("page", [README, PACKAGE / "README.md"], ids=name_of)
def test_stages_are_those_of_the_pipeline_in_their_order(page: Path) -> None:
    stages = re.findall(r"^    (\w+) ", pipeline.__doc__ or "", re.MULTILINE)
    assert stages and [cells[0] for cells in table(page, "stage", "what happens")] == stages


def test_every_tool_is_on_the_page_of_the_tools() -> None:
    page = ROOT / "tools" / "README.md"
    assert [tool.name for tool in page.parent.glob("*.py") if f"`{tool.name}`" not in text_of(page)] == []


def test_every_option_is_on_some_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert options_of(compress.main, capsys) - set(OPTION.findall("".join(map(text_of, PAGES)))) == set()
    assert options_of(bench.main, capsys) - set(OPTION.findall(text_of(BENCH))) == set()


def test_every_field_of_the_report_is_on_its_page() -> None:
    page = text_of(PACKAGE / "report" / "README.md")
    classes = [
        schema.Report,
        schema.SiteReport,
        schema.RefittedReport,
        latency_schema.LatencyPlanReport,
        latency_schema.Latency,
    ]
    classes += [
        output_schema.OutputReport,
        schema.CostReport,
        schema.MacsReport,
        schema.SkippedReport,
        schema.AccuracyReport,
        task_schema.TaskReport,
        task_schema.MeasureReport,
        task_schema.LabelledReport,
    ]
    classes += [trade_off_schema.TradeOffReport, trade_off_schema.TradeOffPoint, trade_off_schema.KeptReport]
    names = {field.name for kind in classes for field in fields(kind)}
    assert {name for name in names if f"`{name}`" not in page} == set()


def exit_codes_on_the_page() -> dict[int, str]:
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", section(CLI, "Exit codes"), re.MULTILINE)
    return {int(code): meaning for code, meaning in rows}


def exit_codes_in(help_text: str) -> dict[int, str]:
    """What the help says of each code, however its lines are broken."""
    listed = re.split(r"^exit codes:$", help_text, flags=re.MULTILINE | re.IGNORECASE)[1].strip().split("\n\n")[0]
    entries = re.split(r"^\s*(\d+)\s+", listed, flags=re.MULTILINE)[1:]
    return {int(code): " ".join(meaning.split()) for code, meaning in zip(entries[::2], entries[1::2], strict=True)}


def test_exit_codes_are_those_of_the_errors() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LowRankError)]
    assert set(exit_codes_on_the_page()) == {kind.exit_code for kind in kinds} | {0, 130, 143}


def test_exit_codes_are_worded_as_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    listed = exit_codes_in(help_of(compress.main, capsys))
    on_the_page = exit_codes_on_the_page()
    ordinary = set(on_the_page) - {130, 143}  # the help has one line for both signals
    assert ordinary <= set(listed)
    assert {code: on_the_page[code] for code in ordinary} == {code: listed[code] for code in ordinary}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for file, anchor in links(page):
        assert file.exists(), f"{file} does not exist"
        assert not anchor or anchor in anchors(file), f"{name_of(file)} has no heading {anchor}"


def test_every_page_can_be_reached_from_readme() -> None:
    reached, waiting = {README}, [README]
    while waiting:
        new = {file for file, _ in links(waiting.pop()) if file.suffix == ".md"} - reached
        reached |= new
        waiting += [page for page in new if page in PAGES]
    assert [name_of(page) for page in PAGES if page not in reached] == []


@every_page
def test_no_page_names_a_commit(page: Path) -> None:
    hashes = re.findall(r"\b(?=\w*\d)(?=\w*[a-f])[0-9a-f]{7,40}\b", text_of(page))
    assert hashes == []


def test_python_example_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    (example,) = code_blocks(section(PACKAGE / "README.md", "Python"), "python")
    exec(compile(example, "README.md", "exec"), {})
    speedup, error = map(float, capsys.readouterr().out.split())
    assert 4 <= speedup <= 4.04
    assert error < 0.2
    assert (tmp_path / "mnist_4x.onnx").exists()
