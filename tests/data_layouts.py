"""Models whose weights are in files of their own, laid out in every way that caches, tools and attackers have."""

import os
from collections.abc import Callable
from pathlib import Path

from models_for_tests import plain
from onnx import external_data_helper, numpy_helper

Layout = Callable[[Path], Path]
"""Makes files in an empty folder and returns the path of the model."""

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 553438000\n"


def store(model: Path, data: Path, location: str) -> Path:
    """Write a model whose weights are in a file, which it calls by a location of one's choice."""
    proto, weights = plain(), b""
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor).tobytes()
        tensor.ClearField("float_data")
        tensor.raw_data = values
        external_data_helper.set_external_data(tensor, location, len(weights), len(values))
        tensor.ClearField("raw_data")
        weights += values
    for path in (model, data):
        path.parent.mkdir(parents=True, exist_ok=True)
    model.write_bytes(proto.SerializeToString())
    data.write_bytes(weights)
    return model


def link(at: Path, to: str) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(to)


def beside(root: Path) -> Path:
    return store(root / "model.onnx", root / "w.bin", "w.bin")


def spelled_with_a_dot(root: Path) -> Path:
    return store(root / "model.onnx", root / "w.bin", "./w.bin")


def in_a_folder_below(root: Path) -> Path:
    return store(root / "model.onnx", root / "weights" / "w.bin", "weights/w.bin")


def down_and_up_again(root: Path) -> Path:
    (root / "weights").mkdir()
    return store(root / "model.onnx", root / "w.bin", "weights/../w.bin")


def file_cache(root: Path) -> Path:
    """As the cache of the Hugging Face Hub: links to the model and its data, which lie together elsewhere."""
    store(root / "blobs" / "11aa", root / "blobs" / "22bb", "model.onnx_data")
    link(root / "snapshots" / "abc" / "onnx" / "model.onnx", "../../../blobs/11aa")
    link(root / "snapshots" / "abc" / "onnx" / "model.onnx_data", "../../../blobs/22bb")
    return root / "snapshots" / "abc" / "onnx" / "model.onnx"


def chain_of_links_into_the_cache(root: Path) -> Path:
    model = file_cache(root)
    data = model.with_name("model.onnx_data")
    data.unlink()
    link(root / "other" / "first", "second")
    link(root / "other" / "second", "../blobs/22bb")
    link(data, "../../../other/first")
    return model


def link_within_the_folder(root: Path) -> Path:
    store(root / "model.onnx", root / "deep" / "real.bin", "w.bin")
    link(root / "w.bin", "deep/real.bin")
    return root / "model.onnx"


def model_behind_a_link_with_data_beside_the_link(root: Path) -> Path:
    store(root / "elsewhere" / "x", root / "here" / "w.bin", "w.bin")
    link(root / "here" / "model.onnx", "../elsewhere/x")
    return root / "here" / "model.onnx"


def folder_behind_a_link(root: Path) -> Path:
    store(root / "real" / "model.onnx", root / "real" / "w.bin", "w.bin")
    link(root / "named", "real")
    return root / "named" / "model.onnx"


def hard_link(root: Path) -> Path:
    store(root / "here" / "model.onnx", root / "elsewhere.bin", "w.bin")
    os.link(root / "elsewhere.bin", root / "here" / "w.bin")
    return root / "here" / "model.onnx"


def model_behind_a_link_with_data_beside_the_target(root: Path) -> Path:
    store(root / "real" / "model.onnx", root / "real" / "w.bin", "w.bin")
    link(root / "link.onnx", "real/model.onnx")
    return root / "link.onnx"


READ = (
    beside, spelled_with_a_dot, in_a_folder_below, down_and_up_again, file_cache, chain_of_links_into_the_cache,
    link_within_the_folder, model_behind_a_link_with_data_beside_the_link, folder_behind_a_link, hard_link,
)  # fmt: skip
"""What ONNX Runtime reads, and so do we."""


def link_to_a_file_outside(root: Path) -> Path:
    store(root / "here" / "model.onnx", root / "secret.bin", "w.bin")
    link(root / "here" / "w.bin", "../secret.bin")
    return root / "here" / "model.onnx"


def absolute_link_to_a_file_outside(root: Path) -> Path:
    store(root / "here" / "model.onnx", root / "secret.bin", "w.bin")
    link(root / "here" / "w.bin", str(root / "secret.bin"))
    return root / "here" / "model.onnx"


def link_from_the_cache_to_a_file_outside(root: Path) -> Path:
    model = file_cache(root)
    (root / "blobs" / "22bb").rename(root / "secret.bin")
    link(root / "blobs" / "22bb", "../secret.bin")
    return model


def link_to_a_folder_outside(root: Path) -> Path:
    store(root / "here" / "model.onnx", root / "secrets" / "w.bin", "weights/w.bin")
    link(root / "here" / "weights", "../secrets")
    return root / "here" / "model.onnx"


def up_by_way_of_a_linked_folder(root: Path) -> Path:
    store(root / "here" / "model.onnx", root / "secret.bin", "weights/../secret.bin")
    link(root / "here" / "weights", "../weights")
    (root / "weights").mkdir()
    return root / "here" / "model.onnx"


def folder_with_the_same_beginning(root: Path) -> Path:
    store(root / "here" / "model.onnx", root / "here2" / "w.bin", "w.bin")
    link(root / "here" / "w.bin", "../here2/w.bin")
    return root / "here" / "model.onnx"


def link_in_a_circle(root: Path) -> Path:
    model = store(root / "model.onnx", root / "unused", "w.bin")
    link(root / "w.bin", "other.bin")
    link(root / "other.bin", "w.bin")
    return model


def link_to_nothing(root: Path) -> Path:
    model = store(root / "model.onnx", root / "unused", "w.bin")
    link(root / "w.bin", "nowhere.bin")
    return model


def up(root: Path) -> Path:
    return store(root / "here" / "model.onnx", root / "w.bin", "../w.bin")


def up_and_back(root: Path) -> Path:
    return store(root / "here" / "model.onnx", root / "here" / "w.bin", "../here/w.bin")


def down_and_too_far_up(root: Path) -> Path:
    (root / "here" / "a").mkdir(parents=True)
    return store(root / "here" / "model.onnx", root / "w.bin", "a/../../w.bin")


def absolute(root: Path) -> Path:
    return store(root / "model.onnx", root / "w.bin", str(root / "w.bin"))


def absolute_and_outside(root: Path) -> Path:
    return store(root / "here" / "model.onnx", root / "w.bin", str(root / "w.bin"))


def absolute_on_windows(root: Path) -> Path:
    return store(root / "model.onnx", root / "w.bin", "C:\\weights\\w.bin")


def on_another_drive(root: Path) -> Path:
    return store(root / "model.onnx", root / "w.bin", "C:w.bin")


def on_a_server(root: Path) -> Path:
    return store(root / "model.onnx", root / "w.bin", "\\\\server\\share\\w.bin")


def backslash(root: Path) -> Path:
    return store(root / "model.onnx", root / "weights" / "w.bin", "weights\\w.bin")


def folder(root: Path) -> Path:
    (root / "weights").mkdir()
    return store(root / "model.onnx", root / "w.bin", "weights")


def the_folder_itself(root: Path) -> Path:
    return store(root / "model.onnx", root / "w.bin", ".")


def pipe(root: Path) -> Path:
    os.mkfifo(root / "pipe")
    return store(root / "model.onnx", root / "w.bin", "pipe")


def missing(root: Path) -> Path:
    return store(root / "model.onnx", root / "w.bin", "other.bin")


def without_location(root: Path) -> Path:
    return store(root / "model.onnx", root / "w.bin", "")


def cut_short(root: Path) -> Path:
    model = beside(root)
    (root / "w.bin").write_bytes((root / "w.bin").read_bytes()[:-1])
    return model


def pointer(root: Path) -> Path:
    model = beside(root)
    (root / "w.bin").write_bytes(LFS)
    return model


REFUSED: dict[Layout, str] = {
    link_to_a_file_outside: "is a link to", absolute_link_to_a_file_outside: "is a link to",
    link_from_the_cache_to_a_file_outside: "is a link to", link_to_a_folder_outside: "is a link to",
    folder_with_the_same_beginning: "is a link to", up_by_way_of_a_linked_folder: "is a link to",
    link_in_a_circle: "leads nowhere", link_to_nothing: "leads nowhere",
    up: "leads out", up_and_back: "leads out", down_and_too_far_up: "leads out",
    absolute: "is an absolute path", absolute_and_outside: "is an absolute path",
    absolute_on_windows: "is an absolute path", on_another_drive: "is an absolute path",
    on_a_server: "is an absolute path", backslash: "there is no", folder: "is not a file",
    the_folder_itself: "is not a file", pipe: "is not a file", missing: "there is no", without_location: "there is no",
    cut_short: "cut short", pointer: "git lfs pull",
}  # fmt: skip
