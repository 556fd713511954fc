"""Good inputs of the command spoiled at random: models, data, plans and command lines.

A case is a folder with the files and the arguments that name them. The same generator in the same state spoils in the
same way.
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
import onnx
from google.protobuf.descriptor import FieldDescriptor
from PIL import Image

MODELS: dict[str, bytes] = {name: build().SerializeToString() for name, build in models_for_tests.ALL.items()}
SHAPE = (6, 3, 12, 10)
GOOD = ("in.onnx", "out.onnx", "--data", "data.npy", "--images", "6", "--threads", "1", "--quiet")
SOLVERS = ("weights", "weights", "linear", "nonlinear")
NUMBERS = (0, 1, 2, 3, 4, 7, -1, -2, 17, 255, 1000, 2**31 - 1, 2**31, -(2**31), 2**40, 2**63 - 1, -(2**63))


@dataclass(frozen=True)
class Case:
    """The arguments of one call; its files lie in the folder that was given."""

    arguments: tuple[str, ...]


Spoiler = Callable[[Random, Path], Case]


# ---- bytes


def spoiled_bytes(random: Random, data: bytes) -> bytes:
    """Bits flipped, spans removed, doubled, overwritten or made up, or the end cut off."""
    spoiled = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = random.randrange(len(spoiled) + 1)
        length = random.choice((1, 2, 4, 16, 100))
        match random.randrange(6):
            case 0 if at < len(spoiled):
                spoiled[at] ^= 1 << random.randrange(8)
            case 1:
                del spoiled[at:]
            case 2:
                del spoiled[at : at + length]
            case 3:
                spoiled[at:at] = spoiled[at : at + length]
            case 4:
                spoiled[at : at + length] = random.choice((b"\0", b"\xff")) * length
            case 5:
                spoiled[at:at] = random.randbytes(length)
    return bytes(spoiled)


# ---- protobuf messages


def messages(root: Any) -> list[Any]:
    """A message and all that are inside it."""
    found = [root]
    for message in found:
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                found.extend(value if hasattr(value, "append") or hasattr(value, "add") else [value])
    return found


def spoil_message(random: Random, root: Any) -> None:
    """Change one field of one message somewhere inside: its value, its length, or whether it is there."""
    message = random.choice(messages(root))
    present = [field for field, _ in message.ListFields()]
    field = random.choice(present) if present and random.random() < 0.8 else random.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if not hasattr(value, "append") and not hasattr(value, "add"):
        if field.type == FieldDescriptor.TYPE_MESSAGE or random.random() < 0.15:
            message.ClearField(field.name)
        else:
            assign(message, field, spoiled_scalar(random, root, field, value))
        return
    at = random.randrange(len(value)) if len(value) else 0
    match random.randrange(4):
        case 0 if len(value):
            del value[at]
        case 1 if len(value):
            other = random.randrange(len(value))
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                value.add().CopyFrom(value[other])
            else:
                value.append(value[other])
        case 2 if len(value) > 1:
            other = random.randrange(len(value))
            kept = list(value)
            kept[at], kept[other] = kept[other], kept[at]
            copies = [one.SerializeToString() if field.type == FieldDescriptor.TYPE_MESSAGE else one for one in kept]
            del value[:]
            for one in copies:
                if field.type == FieldDescriptor.TYPE_MESSAGE:
                    value.add().MergeFromString(one)
                else:
                    value.append(one)
        case _ if field.type != FieldDescriptor.TYPE_MESSAGE:
            new = spoiled_scalar(random, root, field, value[at] if len(value) else None)
            try:
                if len(value):
                    value[at] = new
                else:
                    value.append(new)
            except (ValueError, TypeError):  # out of the field's range
                del value[:]


def assign(message: Any, field: Any, value: Any) -> None:
    """Set a field; what is out of its range clears it."""
    try:
        setattr(message, field.name, value)
    except (ValueError, TypeError):
        message.ClearField(field.name)


def spoiled_scalar(random: Random, root: Any, field: Any, value: Any) -> Any:
    """Another value for a number, a name or bytes; names come from elsewhere in the model."""
    if field.type == FieldDescriptor.TYPE_STRING:
        names = [name for node in root.graph.node for name in (*node.input, *node.output, node.op_type)]
        return random.choice((*names, "", "x", "nobody", "a\nb", "ü" * 300, f"{value or ''}_"))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return spoiled_bytes(random, value or b"1234")
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return random.choice((0.0, -1.0, 1e30, 1e-30, float("nan"), float("inf")))
    return random.choice(NUMBERS)


# ---- the kinds of cases


def write_good(random: Random, folder: Path) -> bytes:
    """Put good files into the folder; return the model."""
    model = MODELS[random.choice(sorted(MODELS))]
    (folder / "in.onnx").write_bytes(model)
    np.save(folder / "data.npy", models_for_tests.photo(1, SHAPE))
    return model


def usual(random: Random, *more: str) -> Case:
    """The usual arguments and a random way to solve."""
    speedup = random.choice(("1", "1.2", "1.5", "2"))
    return Case((*GOOD, "--solver", random.choice(SOLVERS), "--speedup", speedup, *more))


def model_bytes(random: Random, folder: Path) -> Case:
    """The model's file is damaged."""
    model = write_good(random, folder)
    (folder / "in.onnx").write_bytes(spoiled_bytes(random, model))
    return usual(random, *random.choice(((), (), ("--include", ""))))


def model_fields(random: Random, folder: Path) -> Case:
    """The model can be parsed, and says something wrong: types, shapes, names, missing or doubled parts, cycles."""
    proto = onnx.ModelProto.FromString(write_good(random, folder))
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        spoil_message(random, proto)
    (folder / "in.onnx").write_bytes(proto.SerializeToString())
    return usual(random, *random.choice(((), ("--include", ""), ("--save-as-external-data",))))


def external_data(random: Random, folder: Path) -> Case:
    """The weights beside the model are damaged, or the reference to them is."""
    model = write_good(random, folder)
    saved = {"save_as_external_data": True, "location": "in.bin", "size_threshold": 0, "convert_attribute": True}
    onnx.save(onnx.ModelProto.FromString(model), folder / "in.onnx", **saved)
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
    """The samples are damaged, of a wrong shape or type, or no numbers."""
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


def spoiled_array(random: Random, good: Any) -> Any:
    """Samples of another shape, type or content."""
    match random.randrange(9):
        case 0:
            shape = [random.choice((0, 1, 2, 3, 10, 12)) for _ in range(random.randrange(6))]
            return np.zeros(shape, np.float32)
        case 1:
            return good.astype(random.choice(("f2", "f8", "i1", "u2", "i8", "?", "c8", "S3", "U2", "M8[s]", ">f4")))
        case 2:
            return np.where(good > 2, random.choice((np.nan, np.inf, -np.inf, 1e38)), good).astype(np.float32)
        case 3:
            return np.full(SHAPE, random.choice((None, "word", {"a": 1})), object)
        case 4:
            return np.transpose(good, random.choice(((0, 2, 3, 1), (1, 0, 2, 3), (3, 2, 1, 0))))
        case 5:
            return np.zeros(SHAPE, [("a", "f4"), ("b", "i2")])
        case 6:
            return good * np.float32(random.choice((0, 1e-30, 1e30)))
        case 7:
            return good[:1]
    return np.float32(1)


def photos(random: Random, folder: Path) -> Case:
    """A folder of photos, some of them broken, and other files."""
    (folder / "photos").mkdir()
    for number in range(random.choice((1, 3, 24))):
        mode = random.choice(("RGB", "L", "P", "1", "RGBA"))
        suffix = random.choice(("jpg", "png", "bmp", "gif", "webp", "tiff"))
        size = random.choice(((12, 10), (10, 12), (1, 1), (64, 48)))
        stream = io.BytesIO()
        image = Image.frombytes("RGB", size, random.randbytes(3 * size[0] * size[1]))
        fitting = {"jpg": "RGB", "bmp": "RGB", "gif": "P", "webp": "RGB"}.get(suffix, mode)
        image.convert(fitting).save(stream, {"jpg": "jpeg"}.get(suffix, suffix))
        content = stream.getvalue()
        if random.random() < random.choice((0.02, 0.3)):
            content = random.choice((b"", b"no photo", spoiled_bytes(random, content)))
        (folder / "photos" / f"{number}.{suffix}").write_bytes(content)
    if random.random() < 0.2:
        (folder / "photos" / random.choice(("notes.txt", ".hidden.jpg", "a.npy"))).write_bytes(b"\x93NUMPY")
    if random.random() < 0.1:
        (folder / "photos" / "folder.jpg").mkdir()
    how = random.choice(("unit,resize=12x10", "unit,resize=12x10", "raw", "imagenet", "caffe,crop=none"))
    return usual(random, "--data", "photos", "--preprocess", how, *random.choice(((), ("--test", "photos"))))


def plans(random: Random, folder: Path) -> Case:
    """A plan that is no plan, or one for something else."""
    write_good(random, folder)
    sites: list[Any] = [
        {
            "name": name,
            "form": random.choice(("channel", "spatial", "3d", "cp")),
            "ranks": [2, 2][: random.choice((1, 1, 2))],
        }
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


def spoiled_json(random: Random, value: Any) -> Any:
    """One value somewhere inside replaced."""
    strange: tuple[Any, ...] = (
        None,
        True,
        False,
        0,
        -1,
        1.5,
        10**30,
        "",
        "conv2",
        [],
        {},
        [[]],
        "3d",
        "cp",
        1e400,
        [1, 1, 1],
    )
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(sorted(value))
        return value | {key: spoiled_json(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.85:
        at = random.randrange(len(value))
        again = random.choice(([], value[at : at + 1]))
        return [*value[:at], spoiled_json(random, value[at]), *value[at + 1 :], *again]
    return random.choice(strange)


VALUES: Sequence[str] = (
    *("", "0", "1", "-1", "1.5", "2", "1e9", "nan", "inf", "4GiB", "1", "1b", "99999999999999999999", "1e-400", "٣"),
    *("in.onnx", "out.onnx", "data.npy", ".", "..", "folder", "no/where", "/dev/null", "/dev/full", "a" * 300),
    *("a\nb", "\0", "\udcff", "~", "--", "-", "(", "[", "conv", ".*", "conv1", "auto", "channel", "3d", "cp", "exact"),
    *("cpu", "cuda", "cpu,cpu", ",", "caffe", "unit,resize=12x10", "mean=1/2", "mean=a", "resize=0", "crop=1x"),
    *("resize=99999999x99999999", "layout=nhwc", "scale=nan", "channels=gray", "linear", "weights", "ü", " ", "="),
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
    """Options left out, doubled, made up, and with values of other options."""
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


KINDS: dict[str, Spoiler] = {
    "model bytes": model_bytes,
    "model fields": model_fields,
    "external data": external_data,
    "data files": data_files,
    "plans": plans,
    "command lines": command_lines,
}
WEIGHTS = {"model bytes": 4, "model fields": 6, "external data": 1, "data files": 4, "plans": 2, "command lines": 4}
"""How often each kind is drawn."""
