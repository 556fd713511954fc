"""Arrays in memory and in files: each feeds the right input, and unfit ones are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_lowrank.data.arrays import ArraySource
from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.preprocess import PRESETS
from onnx_lowrank.data.source import Source, elements
from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.interface import TensorSpec


def spec(name: str, *shape: int | str | None, dtype: type = np.float32) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


ONE = (spec("x", "N", 3, 4, 5),)
TWO = (spec("x", "N", 3, 4, 5), spec("z", None, 2, dtype=np.int64))


def numbered(n: int, dtype: type = np.float32) -> NDArray[Any]:
    """Return samples that are filled with their number."""
    return np.broadcast_to(np.arange(n, dtype=dtype)[:, None, None, None], (n, 3, 4, 5)).copy()


def opened(data: object, specs: tuple[TensorSpec, ...] = ONE, count: int = 100, seed: int = 0) -> Source:
    return open_source(data, specs, preprocess=PRESETS["raw"], count=count, seed=seed, on_warning=_fail)


def _fail(text: str) -> None:
    raise AssertionError(text)


def numbers(source: Source) -> list[float]:
    values: list[float] = source.feeds(range(len(source)))["x"][:, 0, 0, 0].tolist()
    return values


def as_array(samples: NDArray[Any], folder: Path) -> object:
    return samples


def as_dict(samples: NDArray[Any], folder: Path) -> object:
    return {"x": samples}


def as_npy(samples: NDArray[Any], folder: Path) -> object:
    np.save(folder / "a.npy", samples)
    return str(folder / "a.npy")


def as_npz(samples: NDArray[Any], folder: Path) -> object:
    np.savez_compressed(folder / "a.npz", x=samples, labels=np.array(["cat"] * len(samples), object))
    return folder / "a.npz"


def as_folder_of_samples(samples: NDArray[Any], folder: Path) -> object:
    for i, sample in enumerate(samples):
        np.save(folder / f"{i:03}.npy", sample)
    return folder


def as_folder_of_batches(samples: NDArray[Any], folder: Path) -> object:
    for i in range(0, len(samples), 7):
        np.savez(folder / f"{i:03}.npz", images=samples[i : i + 7], y=np.arange(7))
    return folder


def as_tensor_files(samples: NDArray[Any], folder: Path) -> object:
    for i in range(0, len(samples), 7):
        (folder / f"test_data_set_{i:02}").mkdir()
        tensor = numpy_helper.from_array(samples[i : i + 7], "some name")
        (folder / f"test_data_set_{i:02}" / "input_0.pb").write_bytes(tensor.SerializeToString())
        (folder / f"test_data_set_{i:02}" / "output_0.pb").write_bytes(b"")
    return folder


Store = Callable[[NDArray[Any], Path], object]
STORES = [as_array, as_dict, as_npy, as_npz, as_folder_of_samples, as_folder_of_batches, as_tensor_files]


@pytest.mark.parametrize("store", STORES)
def test_the_same_samples_are_drawn_however_they_are_stored(store: Store, tmp_path: Path) -> None:
    source = opened(store(numbered(30), tmp_path), count=12, seed=5)
    assert len(source) == 12 and not source.synthetic
    assert numbers(source) == numbers(opened(numbered(30), count=12, seed=5))
    assert len(set(numbers(source))) == 12
    feeds = source.feeds([3, 1])["x"]
    assert feeds.flags.c_contiguous and feeds[:, 0, 0, 0].tolist() == [numbers(source)[3], numbers(source)[1]]
    assert source.description.startswith("12 of 30 samples in ")


def test_fewer_samples_than_wanted_are_all_taken() -> None:
    assert sorted(numbers(opened(numbered(6), count=10))) == list(range(6))
    assert opened(numbered(6), count=10).description == "6 samples in the given array"
    assert opened(numbered(1)).description == "1 sample in the given array"


def test_a_npy_file_stays_on_the_disk(tmp_path: Path) -> None:
    source = opened(as_npy(numbered(9), tmp_path))
    assert source.description == "9 samples in a.npy"
    assert isinstance(source, ArraySource) and isinstance(source.arrays["x"], np.memmap)


def test_a_source_is_taken_as_it_is_or_in_part() -> None:
    whole = ArraySource({"x": numbered(9)})
    assert opened(whole) is whole and isinstance(whole, Source)
    part = opened(whole, count=4)
    assert numbers(part) == numbers(opened(numbered(9), count=4)) and isinstance(part, Source)
    assert part.description == "4 of 9 samples of: arrays" and not part.synthetic


@pytest.mark.parametrize("key", ["x", "input", "data", "images", "Images", "arr_0"])
def test_one_input_finds_its_array(tmp_path: Path, key: str) -> None:
    stored: dict[str, Any] = {key: numbered(2), "label": np.arange(2), "weights": np.ones(2)}
    np.savez(tmp_path / "a.npz", **stored)
    assert sorted(numbers(opened(tmp_path / "a.npz"))) == [0, 1]


def test_labels_without_a_name_are_no_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", numbered(3), np.arange(3))
    assert sorted(numbers(opened(tmp_path / "a.npz"))) == [0, 1, 2]


def test_several_inputs_go_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", z=np.arange(8, dtype=np.int32).reshape(4, 2), x=numbered(4), extra=np.ones(3))
    feeds = opened(tmp_path / "a.npz", TWO).feeds([0, 1, 2, 3])
    assert feeds["z"].dtype == np.int64 and (feeds["z"][:, 0] == 2 * feeds["x"][:, 0, 0, 0]).all()


def test_tensors_go_by_name_and_by_number(tmp_path: Path) -> None:
    for number, (name, array) in enumerate([("z", np.ones((2, 2), np.int64)), ("x", numbered(2))]):
        (tmp_path / f"input_{number}.pb").write_bytes(numpy_helper.from_array(array, name).SerializeToString())
    assert opened(tmp_path, TWO).feeds([0])["z"].tolist() == [[1, 1]]
    (tmp_path / "input_0.pb").unlink()
    with pytest.raises(DataError, match=r"no input_N\.pb for the inputs z"):
        opened(tmp_path, TWO)
    (tmp_path / "input_0.pb").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match=r"input_0\.pb cannot be read as a tensor"):
        opened(tmp_path, TWO)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": numbered(2), "b": numbered(2)}, "a (2x3x4x5), b (2x3x4x5), but the model has the inputs x"),
        ({"a": np.zeros(3)}, "a (3), but the model has the inputs x"),
        ({"labels": np.zeros(3)}, "labels (3), but"),
        ({"x": np.zeros((2, 4, 5, 3), np.float32)}, "array 'x' has shape 2x4x5x3, but input 'x' takes Nx3x4x5"),
        ({"x": np.zeros((2, 3, 4), np.float32)}, "has shape 2x3x4, but"),
        ({"x": np.zeros((0, 3, 4, 5), np.float32)}, "no samples"),
        ({"x": numbered(2) * 1j}, "complex64, but input 'x' takes float32"),
        ({"x": numbered(2).astype("S1")}, "|S1"),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_arrays_that_do_not_fit_are_named(
    arrays: dict[str, NDArray[Any]], message: str, stored: bool, tmp_path: Path
) -> None:
    if stored:
        kept: dict[str, Any] = dict(arrays)
        np.savez(tmp_path / "a.npz", **kept)
    with pytest.raises(DataError) as refusal:
        opened(tmp_path / "a.npz" if stored else arrays)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    assert not stored or "a.npz" in str(refusal.value)


def test_different_numbers_of_samples_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(x: 4, z: 3\)"):
        opened({"x": numbered(4), "z": np.zeros((3, 2), np.int64)}, TWO)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("store", "sample"),
    [
        (as_array, "the given array, sample 23"),
        (as_npy, "a.npy, sample 23"),
        (as_npz, "a.npz, sample 23"),
        (as_folder_of_batches, "021.npz, sample 2"),
    ],
)
def test_nan_and_infinity_are_named(store: Store, sample: str, value: float, tmp_path: Path) -> None:
    samples = numbered(40)
    samples[23, 1, 2, 3] = value
    with pytest.raises(DataError, match=f"{sample} holds NaN or infinity"):
        opened(store(samples, tmp_path))


def test_samples_that_are_not_drawn_may_be_bad() -> None:
    good = int(opened(numbered(40), count=1).feeds([0])["x"][0, 0, 0, 0])
    data = np.full((40, 3, 4, 5), np.nan, np.float32)
    data[good] = 0
    assert len(opened(data, count=1)) == 1


def test_pickles_are_refused_without_being_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.unlink, (tmp_path / "bait",)

    (tmp_path / "bait").touch()
    trap = np.array([Trap()], object)
    np.save(tmp_path / "a.npy", trap)
    np.savez(tmp_path / "a.npz", x=trap)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match=rf"{name}.* holds Python objects \(a pickle\), which can run code"):
            opened(tmp_path / name)
    assert (tmp_path / "bait").exists()
    with pytest.raises(DataError, match="dtype object, not numbers"):
        opened(np.array([None, 1]))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    as_npy(numbered(9), tmp_path)
    as_npz(numbered(9), tmp_path)
    whole = (tmp_path / name).read_bytes()
    for damage in (b"", b"nonsense", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(DataError, match=f"{name} cannot be read as a NumPy file"):
            opened(tmp_path / name)


def test_files_may_hold_samples_of_several_sizes(tmp_path: Path) -> None:
    for name, side in (("a", 200), ("b", 224)):
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 3, side, side), np.float32))
    source = opened(tmp_path, (spec("x", "N", 3, "h", "w"),))
    assert sorted(source.feeds([row])["x"].shape[-1] for row in range(4)) == [200, 200, 224, 224]
    assert [source.feeds([row])["x"].size for row in range(4)] == elements(source).tolist()


def test_doubles_become_singles_silently() -> None:
    assert opened(numbered(3, np.float64)).feeds([0])["x"].dtype == np.float32


def test_whole_numbers_for_a_float_input_are_not_scaled_and_cause_one_warning(tmp_path: Path) -> None:
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((3, 4, 5), 200, np.uint8))
    warnings: list[str] = []
    source = open_source(tmp_path, ONE, preprocess=PRESETS["unit"], count=9, seed=0, on_warning=warnings.append)
    values = source.feeds([0, 1])["x"]
    assert values.dtype == np.float32 and (values == 200).all()
    assert len(warnings) == 1 and "uint8" in warnings[0] and "without scaling" in warnings[0]


def test_numbers_that_the_input_cannot_hold_are_refused() -> None:
    half = (spec("x", "N", 3, 4, 5, dtype=np.float16),)
    with pytest.raises(DataError, match=r"values 100000\.0\.\.100000\.0, which input 'x' \(float16\) cannot hold"):
        opened(np.full((1, 3, 4, 5), 1e5), half)
    byte = (spec("x", "N", 3, 4, 5, dtype=np.uint8),)
    assert numbers(opened(np.full((1, 3, 4, 5), 255), byte)) == [255]
    for value in (256, -1):
        with pytest.raises(DataError, match="cannot hold"):
            opened(np.full((1, 3, 4, 5), value), byte)
    with pytest.raises(DataError, match="float32, but input 'x' takes uint8"):
        opened(numbered(1), byte)


def test_counts_and_seeds_without_meaning_are_refused() -> None:
    with pytest.raises(UsageError, match="0 calibration samples"):
        opened(numbered(1), count=0)
    with pytest.raises(UsageError, match="seed is -1"):
        opened(numbered(1), seed=-1)
    with pytest.raises(UsageError, match="seed is -1"):
        opened(ArraySource({"x": numbered(1)}), seed=-1)
