"""Inputs of the command drawn or spoiled at random: models, data, plans and command lines.

A case is a folder with the files, and the arguments that name them. The same generator makes the same case.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import models_for_tests
import numpy as np
import odd_models_for_tests
import onnx
from full_rank import differences, full_rank_plan
from PIL import Image
from random_chance import still
from random_graphs import random_block_model, random_model
from spoiling import spoil_message, spoiled_array, spoiled_bytes, spoiled_json

from onnx_lowrank.errors import LowRankError
from onnx_lowrank.factorise.forms.table import FORMS
from onnx_lowrank.options import ALLOCATION_CHOICES, FORM_CHOICES, SOLVERS, Options
from onnx_lowrank.stages.request import Request

MODELS: dict[str, bytes] = {name: build().SerializeToString() for name, build in odd_models_for_tests.ALL.items()}
SHAPE = (6, 3, 12, 10)
GOOD = ("in.onnx", "out.onnx", "--data", "data.npy", "--images", "6", "--threads", "1", "--quiet")


def no_problems(folder: Path) -> list[str]:
    """Expect nothing of the result."""
    return []


@dataclass(frozen=True)
class Case:
    """One call; its files lie in the folder that the spoiler was given.

    Attributes
    ----------
    arguments
        The arguments of the command.
    problems
        Looks at the result of a call that succeeded, in the folder, and returns what is wrong with it.
    refusal
        Matches the only errors with which the call may fail; None where it may fail with any that is documented.
    """

    arguments: tuple[str, ...]
    problems: Callable[[Path], list[str]] = no_problems
    refusal: str | None = None


Spoiler = Callable[[Random, Path], Case]


def write_good(random: Random, folder: Path) -> bytes:
    """Put good files into the folder, and return the model."""
    model = MODELS[random.choice(sorted(MODELS))]
    (folder / "in.onnx").write_bytes(model)
    np.save(folder / "data.npy", models_for_tests.photo(1, SHAPE))
    return model


def usual(random: Random, *more: str) -> Case:
    """Return the usual arguments with a random solver and speedup; half of the runs use the quickest solver."""
    solver = random.choice(("weights", *SOLVERS))
    speedup = random.choice(("1", "1.2", "1.5", "2"))
    return Case((*GOOD, "--solver", solver, "--speedup", speedup, *more))


def model_bytes(random: Random, folder: Path) -> Case:
    """Damage the file of the model."""
    model = write_good(random, folder)
    (folder / "in.onnx").write_bytes(spoiled_bytes(random, model))
    return usual(random, *random.choice(((), (), ("--include", ""))))


def model_fields(random: Random, folder: Path) -> Case:
    """Write a model that can be parsed and contains errors: types, shapes, names, missing or repeated parts, cycles."""
    proto = onnx.ModelProto.FromString(write_good(random, folder))
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        spoil_message(random, proto)
    (folder / "in.onnx").write_bytes(proto.SerializeToString())
    return usual(random, *random.choice(((), ("--include", ""), ("--save-as-external-data",))))


def external_data(random: Random, folder: Path) -> Case:
    """Damage the file of the weights beside the model, or the reference to it."""
    model = write_good(random, folder)
    layout = {"save_as_external_data": True, "location": "in.bin", "size_threshold": 0, "convert_attribute": True}
    onnx.save(onnx.ModelProto.FromString(model), folder / "in.onnx", **layout)
    if random.random() < 0.5:
        (folder / "in.bin").write_bytes(spoiled_bytes(random, (folder / "in.bin").read_bytes()))
    else:
        proto = onnx.ModelProto.FromString((folder / "in.onnx").read_bytes())
        entries = [entry for tensor in proto.graph.initializer for entry in tensor.external_data]
        if entries:
            value = random.choice(("", "-1", "7", "none", "in.onnx", "../in.bin", "/dev/zero", ".", "9" * 30))
            random.choice(entries).value = value
        (folder / "in.onnx").write_bytes(proto.SerializeToString())
    return usual(random)


def data_files(random: Random, folder: Path) -> Case:
    """Write samples that are damaged, have a wrong shape or type, or are no numbers."""
    write_good(random, folder)
    good = models_for_tests.photo(1, SHAPE)
    name = random.choice(("data.npy", "data.npz", "photos", "set"))
    if name == "photos":
        return photos(random, folder)
    if name == "set":
        (folder / "set" / "test_data_set_0").mkdir(parents=True)
        tensor = onnx.numpy_helper.from_array(good[:2], "x").SerializeToString()
        (folder / "set" / "test_data_set_0" / "input_0.pb").write_bytes(spoiled_bytes(random, tensor))
        return usual(random, "--data", "set")
    array = spoiled_array(random, good) if random.random() < 0.6 else good
    stream = io.BytesIO()
    if name == "data.npy":
        np.save(stream, array, allow_pickle=True)
    else:
        key = random.choice(("x", "x", "input", "labels", "other", "a/b", ""))
        arrays = random.choice(({}, {"labels": np.arange(6)}, {"y": array})) | {key or "x": array}
        np.savez(stream, **arrays)
    content = stream.getvalue()
    damaged = random.random() < 0.5 or array is good
    (folder / name).write_bytes(spoiled_bytes(random, content) if damaged else content)
    return usual(random, "--data", name, *random.choice(((), ("--test", name))))


def photos(random: Random, folder: Path) -> Case:
    """Write a folder of photos, some of them broken, and other files."""
    (folder / "photos").mkdir()
    for number in range(random.choice((1, 3, 24))):
        mode = random.choice(("RGB", "L", "P", "1", "RGBA"))
        suffix = random.choice(("jpg", "png", "bmp", "gif", "webp", "tiff"))
        size = random.choice(((12, 10), (10, 12), (1, 1), (64, 48)))
        stream = io.BytesIO()
        image = Image.frombytes("RGB", size, random.randbytes(3 * size[0] * size[1]))
        writable_mode = {"jpg": "RGB", "bmp": "RGB", "gif": "P", "webp": "RGB"}.get(suffix, mode)
        image.convert(writable_mode).save(stream, {"jpg": "jpeg"}.get(suffix, suffix))
        content = stream.getvalue()
        if random.random() < random.choice((0.02, 0.3)):
            content = random.choice((b"", b"no photo", spoiled_bytes(random, content)))
        (folder / "photos" / f"{number}.{suffix}").write_bytes(content)
    if random.random() < 0.2:
        (folder / "photos" / random.choice(("notes.txt", ".hidden.jpg", "a.npy"))).write_bytes(b"\x93NUMPY")
    if random.random() < 0.1:
        (folder / "photos" / "folder.jpg").mkdir()
    preprocess = random.choice(("unit,resize=12x10", "unit,resize=12x10", "raw", "imagenet", "caffe,crop=none"))
    options = ("--data", "photos", "--preprocess", preprocess)
    return usual(random, *options, *random.choice(((), ("--test", "photos"))))


def plans(random: Random, folder: Path) -> Case:
    """Write a plan for another model, or a file that is no plan."""
    write_good(random, folder)
    sites: list[Any] = [
        {"name": name, "form": random.choice(FORMS.names), "ranks": [2] * random.choice((1, 1, 2))}
        for name in ("conv2", "conv3", "middle", "outer", "fine", "b")
    ]
    document: Any = {"schema": 1, "sites": random.sample(sites, random.randrange(len(sites)))}
    for _ in range(random.choice((0, 1, 1, 2))):
        document = spoiled_json(random, document)
    text = json.dumps(document).encode()
    match random.randrange(6):
        case 0:
            text = spoiled_bytes(random, text)
        case 1:
            depth = random.choice((10, 1000, 100_000))
            text = b'{"schema": 1, "sites": ' + b"[" * depth + b"]" * random.choice((0, depth)) + b"}"
    (folder / "plan.json").write_bytes(text)
    return Case((*GOOD, "--solver", "weights", "--plan", "plan.json"))


VALUES: Sequence[str] = (
    *("", "0", "1", "-1", "1.5", "2", "1e9", "nan", "inf", "4GiB", "1", "1b", "99999999999999999999", "1e-400", "٣"),
    *("in.onnx", "out.onnx", "data.npy", ".", "..", "folder", "no/where", "/dev/null", "/dev/full", "a" * 300),
    *("a\nb", "\0", "\udcff", "~", "--", "-", "(", "[", "conv", ".*", "conv1", "ü", " ", "="),
    *(*FORM_CHOICES, *SOLVERS, *ALLOCATION_CHOICES),
    *("cpu", "cuda", "cpu,cpu", ",", "caffe", "unit,resize=12x10", "mean=1/2", "mean=a", "resize=0", "crop=1x"),
    *("resize=99999999x99999999", "layout=nhwc", "scale=nan", "channels=gray"),
)
OPTIONS: Sequence[str] = (
    *("--speedup", "--form", "--solver", "--ranks", "--include", "--exclude", "--images", "--seed", "--memory"),
    *("--providers", "--threads", "--data", "--preprocess", "--test", "--plan", "--report"),
)
FLAGS: Sequence[str] = (
    *("--symmetric", "--residual", "--no-residual", "--refit", "--no-refit", "--dry-run", "--save-as-external-data"),
    *("--quiet", "--nonsense", "--dry", "-h", "--version", "--help", "-x"),
)


def command_lines(random: Random, folder: Path) -> Case:
    """Leave out options, repeat them, invent them, or give them values of other options."""
    write_good(random, folder)
    (folder / "folder").mkdir()
    line = [*GOOD, "--solver", "weights", "--speedup", "1.2"]
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(line) + 1)
        match random.randrange(6):
            case 0 if at < len(line):
                del line[at]
            case 1 if at < len(line):
                line[at] = random.choice(VALUES)
            case 2:
                line[at:at] = [random.choice(FLAGS)]
            case 3:
                line[at:at] = [f"{random.choice(OPTIONS)}={random.choice(VALUES)}"]
            case _:
                line += [random.choice(OPTIONS), random.choice(VALUES)]
    return Case(tuple(line))


def valid_models(random: Random, folder: Path) -> Case:
    """Write a valid model that is drawn at random: with noise, sequences, odd axes, low precision, several inputs.

    A third of the models consist of the blocks of networks in use.

    Half of the calls keep the full rank, where the outputs must be those of the original, without the noise of both.
    """
    draw = random.choice((random_model, random_model, random_block_model))
    drawn = draw(random.choice, random.getrandbits(32))
    (folder / "in.onnx").write_bytes(drawn.model.SerializeToString())
    arrays: Any = drawn.data
    np.savez(folder / "data.npz", **arrays)
    memory = random.choice(((), (), ("--memory", "64MiB")))
    more = ("--data", "data.npz", *memory, "--include", "")
    low_rank = Case(usual(random, *more).arguments, refusal="nothing to factorise|is out of reach|result is ruined")
    if random.random() < 0.5:
        return low_rank
    try:
        plan = full_rank_plan(Request(drawn.model, drawn.data, Options(speedup=1.0, include="", threads=1)))
    except LowRankError:
        return low_rank
    (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")

    def problems(where: Path) -> list[str]:
        written = onnx.load(where / "out.onnx")
        feeds = drawn.feeds(1)
        try:
            expected, outputs = (models_for_tests.run_model(model, feeds) for model in (drawn.still, still(written)))
        except Exception as error:
            return [f"a result that does not run: {error}"]
        finite = all(np.isfinite(value).all() for value in expected.values())
        return differences(outputs, expected) if finite else []

    solver = random.choice(("weights", *SOLVERS))
    return Case((*GOOD, *more, "--solver", solver, "--plan", "plan.json"), problems, "may not fail")


KINDS: dict[str, Spoiler] = {
    "valid models": valid_models,
    "model bytes": model_bytes,
    "model fields": model_fields,
    "external data": external_data,
    "data files": data_files,
    "plans": plans,
    "command lines": command_lines,
}
WEIGHTS = {
    "valid models": 7,
    "model bytes": 4,
    "model fields": 6,
    "external data": 1,
    "data files": 4,
    "plans": 2,
    "command lines": 4,
}
"""The relative frequency of each kind."""
