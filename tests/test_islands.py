"""The mathematics knows no graph, the graph no runtime, and only the command line prints."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "onnx_lowrank"
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

MATHEMATICS = {"numpy", "scipy", "onnx_lowrank.factorise", "onnx_lowrank.plan", "onnx_lowrank.errors"}

GRAPH_LIBRARIES = {"onnx", "onnx_graphsurgeon"}
OUTSIDE_THE_GRAPH_ISLAND = {
    "calibration/protos.py": {"onnx"},  # reads TensorProto files
    "costs.py": {"onnx_graphsurgeon"},  # names the graph that it counts
    "frontier.py": {"onnx_graphsurgeon"},  # holds the graph between its pieces
    "latency/trial.py": {"onnx"},  # hands the rewritten model out
    "pipeline.py": {"onnx"},  # hands the model out
    "preparation.py": GRAPH_LIBRARIES,  # sees all islands
    "profile.py": {"onnx_graphsurgeon"},  # names the graph that it runs
    "refit.py": {"onnx_graphsurgeon"},  # names the graph whose layer it changes
    "reporting.py": {"onnx"},  # measures the model
    "runtime.py": {"onnx"},  # opens it
    "walk.py": {"onnx_graphsurgeon"},  # rewrites the graph on its way
}
"""Each of these has it for a type or a call that the graph island offers; nothing else may join without a reason."""

PRINTING = {"command.py", "console.py"}


def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def imported(name: str) -> Iterator[str]:
    """Dotted names of everything that a file imports, wherever in it."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def libraries(name: str) -> set[str]:
    return {module.partition(".")[0] for module in imported(name)}


def within(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_all_files_are_seen() -> None:
    assert {"cli.py", "factorise/fit.py", "plan/select.py", "graph/load.py", "runtime.py"} <= FILES.keys()


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("factorise/", "plan/"))])
def test_the_mathematics_imports_only_numpy_and_scipy(name: str) -> None:
    foreign = {module for module in imported(name) if not within(module, MATHEMATICS | sys.stdlib_module_names)}
    assert not foreign


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("graph/")])
def test_the_graph_libraries_stay_on_their_island(name: str) -> None:
    assert libraries(name) & GRAPH_LIBRARIES == OUTSIDE_THE_GRAPH_ISLAND.get(name, set())


@pytest.mark.parametrize("name", [name for name in FILES if name != "runtime.py"])
def test_onnx_runtime_is_opened_in_one_place(name: str) -> None:
    assert "onnxruntime" not in libraries(name)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("graph/")])
def test_the_graph_knows_neither_runtime_nor_data_nor_command_line(name: str) -> None:
    others = {f"onnx_lowrank.{part}" for part in ("runtime", "calibration", "plan", "pipeline", "cli", "console")}
    assert not {module for module in imported(name) if within(module, others)}


@pytest.mark.parametrize("name", [name for name in FILES if name not in PRINTING])
def test_only_the_command_line_prints(name: str) -> None:
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Name):
            assert node.id != "print", f"{name}:{node.lineno}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("stdout", "stderr"), f"{name}:{node.lineno}"
    assert "logging" not in libraries(name)


def test_no_file_outgrows_a_few_pages() -> None:
    assert {
        name: lines for name, path in FILES.items() if (lines := len(path.read_text("utf-8").splitlines())) > 300
    } == {}
