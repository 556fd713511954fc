"""The layers of the package: a folder imports only from lower ones, and three islands meet only in the pipeline.

The mathematics, the graph libraries and ONNX Runtime are the islands. Files and functions stay small.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "onnx_lowrank"
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

FLOORS = (
    ("_version", "errors", "interface", "progress"),
    ("factorise", "measures"),
    ("plan", "files", "quality"),
    ("options",),
    ("report", "presets", "graph", "data"),
    ("runtime",),
    ("bench", "calibration"),
    ("latency",),
    ("stages",),
    ("pipeline",),
    ("api",),
    ("__init__", "cli"),
    ("__main__",),
)
"""The folders and loose modules from the ground up. Each imports from itself and from lower floors only."""

MATHEMATICS = ("factorise", "measures", "plan")

GRAPH_LIBRARIES = {"onnx", "onnx_graphsurgeon"}
OUTSIDE_THE_GRAPH = {
    "bench": {"onnx"},  # hands models to another process
    "data": {"onnx"},  # reads TensorProto files
    "latency": {"onnx"},  # hands trial models to the runtime
    "pipeline": {"onnx"},  # hands the result out
    "runtime": {"onnx"},  # opens it
    "stages": {"onnx"},  # hand models from one island to another
}
"""The folders outside graph/ that name a type of the graph's libraries, each with the reason."""

PRINTING = {"cli/process.py", "cli/tables.py", "cli/progress_bars.py"}

LONGEST = 300
"""The number of lines of the longest file."""

MOST_PARAMETERS, MOST_LINES = 6, 60
"""The numbers of parameters, besides self or cls, and of lines of the largest function, its docstring included."""

LARGE_FUNCTIONS = {
    "api.py: compress": "every option is a keyword that an editor can complete, and a call names only what it changes",
}
"""The functions that may be larger, and the reasons."""


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def room_of(name: str) -> str:
    """The folder of a file at the top level, or the name of a loose module."""
    return name.partition("/")[0].removesuffix(".py")


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


def imported_files(name: str) -> set[str]:
    """The package's own files that a file imports, by their names in ``FILES``."""
    files = set()
    for module in imported(name):
        parts = module.split(".")
        if parts[0] != "onnx_lowrank":
            continue
        # An imported name may be a module or something in one; a package is its __init__.
        places = [tuple(parts[1:]), tuple(parts[1:-1])]
        candidates = [f"{'/'.join(place)}.py" for place in places if place]
        candidates += ["/".join((*place, "__init__.py")) for place in places]
        files.add(next(candidate for candidate in candidates if candidate in FILES))
    return files


def libraries(name: str) -> set[str]:
    return {module.partition(".")[0] for module in imported(name)}


def test_every_room_has_a_floor() -> None:
    assert sorted(room for rooms in FLOORS for room in rooms) == sorted({room_of(name) for name in FILES})


def test_the_top_level_holds_about_a_dozen_modules() -> None:
    assert len([name for name in FILES if "/" not in name]) <= 12


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_from_its_own_room_and_lower_floors(name: str) -> None:
    own = room_of(name)
    rooms = {room_of(file) for file in imported_files(name)} - {own}
    assert {room for room in rooms if floor_of(room) >= floor_of(own)} == set()


def test_no_file_imports_itself_in_a_circle() -> None:
    list(TopologicalSorter({name: imported_files(name) for name in FILES}).static_order())  # raises on a cycle


@pytest.mark.parametrize("name", [name for name in FILES if room_of(name) in MATHEMATICS])
def test_the_mathematics_imports_only_numpy_and_scipy(name: str) -> None:
    assert libraries(name) <= {"numpy", "scipy", "onnx_lowrank"} | sys.stdlib_module_names


@pytest.mark.parametrize("name", [name for name in FILES if room_of(name) != "graph"])
def test_the_graph_libraries_stay_on_their_island(name: str) -> None:
    assert libraries(name) & GRAPH_LIBRARIES <= OUTSIDE_THE_GRAPH.get(room_of(name), set())


def test_the_list_of_those_outside_the_graph_is_no_longer_than_it_must_be() -> None:
    outside = {room: set[str]() for room in OUTSIDE_THE_GRAPH}
    for name in FILES:
        if room_of(name) in outside:
            outside[room_of(name)] |= libraries(name) & GRAPH_LIBRARIES
    assert outside == OUTSIDE_THE_GRAPH


@pytest.mark.parametrize("name", [name for name in FILES if room_of(name) != "runtime"])
def test_onnx_runtime_is_opened_in_one_place(name: str) -> None:
    assert "onnxruntime" not in libraries(name)


@pytest.mark.parametrize("name", [name for name in FILES if name not in PRINTING])
def test_only_the_command_line_prints(name: str) -> None:
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Name):
            assert node.id != "print", f"{name}:{node.lineno}"
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id == "sys"  # and not those of another process
            assert not own or node.attr not in ("stdout", "stderr"), f"{name}:{node.lineno}"
    assert "logging" not in libraries(name)


def test_no_file_outgrows_a_few_pages() -> None:
    lengths = {name: len(path.read_text("utf-8").splitlines()) for name, path in FILES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


def functions(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions of a file, wherever they are defined."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The names of a function's parameters, without self or cls."""
    own = function.args
    listed = [*own.posonlyargs, *own.args, own.vararg, *own.kwonlyargs, own.kwarg]
    names = [parameter.arg for parameter in listed if parameter]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The number of lines from the name of a function to its end."""
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def test_functions_have_few_parameters_and_lines() -> None:
    large = {
        f"{name}: {function.name}"
        for name in FILES
        for function in functions(name)
        if len(parameters(function)) > MOST_PARAMETERS or lines(function) > MOST_LINES
    }
    assert large == LARGE_FUNCTIONS.keys()
