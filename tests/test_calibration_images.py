"""Folders of photos: what is chosen, what is decoded, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos import folder as imagefolder
from onnx_lowrank.data.photos.decode import decode
from onnx_lowrank.data.photos.preprocess import parse
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec

SPECS = (TensorSpec("x", np.dtype(np.float32), ("N", 3, 8, 8)),)


def photo(path: Path, value: int, height: int = 8, width: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path, lossless=True)
    return path


def opened(path: Path, count: int = 100, preset: str = "raw", seed: int = 0, **options: Any) -> Source:
    warnings = options.pop("warnings", [])
    specs = options.pop("specs", SPECS)
    return open_source(path, specs, preprocess=parse(preset), count=count, seed=seed, on_warning=warnings.append)


def everything(source: Source) -> NDArray[Any]:
    return source.feeds(range(len(source)))["x"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(40):
        photo(tmp_path / "photos" / f"class{number // 10}" / f"{number}.png", number)
    return tmp_path / "photos"


def test_nested_folders_every_suffix_in_any_case_and_no_hidden_files(tmp_path: Path) -> None:
    for value, name in enumerate(("a.png", "b/c.PNG", "b/d/e.BMP", "f.tif", "g.WebP", "h.tiff", "i.jpg", "j.JPEG")):
        photo(tmp_path / name, value)
    (tmp_path / "._a.png").write_bytes(b"no photo")
    (tmp_path / "README.txt").write_text("no photo")
    photo(tmp_path / ".cache" / "a.png", 99)
    assert sorted(everything(opened(tmp_path))[:, 0, 0, 0].tolist()) == list(range(8))


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(folder: Path) -> None:
    first, again, other = (everything(opened(folder, 10, seed=seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_smaller_count_is_a_prefix_and_no_sample_comes_twice(folder: Path) -> None:
    values = everything(opened(folder, 30))[:, 0, 0, 0]
    assert len(set(values.tolist())) == 30
    np.testing.assert_array_equal(everything(opened(folder, 7))[:, 0, 0, 0], values[:7])


def test_a_prefix_mixes_the_classes(folder: Path) -> None:
    classes = everything(opened(folder))[:20, 0, 0, 0] // 10
    assert len(set(classes.tolist())) == 4


def test_the_description_counts(folder: Path) -> None:
    assert opened(folder, 10).description == "10 of 40 images in photos (preset raw)"
    assert opened(folder, 99).description == "40 images in photos (preset raw)"
    assert not opened(folder).synthetic


@pytest.mark.parametrize("preset", ["imagenet", "caffe", "unit"])
def test_photos_of_the_input_size_go_through_untouched(tmp_path: Path, preset: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    how = parse(preset)
    expected = (pixels[..., :: -1 if how.channels == "bgr" else 1] - np.array(how.mean)) * np.array(how.scale)
    values = everything(opened(tmp_path, preset=preset))[0]
    np.testing.assert_allclose(
        values, expected.transpose(2, 0, 1), rtol=1e-5, atol=255 * float(np.finfo(np.float32).eps)
    )


def test_an_explicit_resize_is_obeyed_even_at_the_input_size(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    larger = np.asarray(Image.fromarray(pixels).resize((12, 12), Image.Resampling.BILINEAR))[2:10, 2:10]
    values = everything(opened(tmp_path, preset="raw,resize=12,crop=8"))[0]
    np.testing.assert_array_equal(values, larger.transpose(2, 0, 1))


def test_other_sizes_are_resized_and_cropped_as_torchvision_does(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 451, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    resized = Image.fromarray(pixels).resize((384, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[16:240, 80:304]
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 3, (224, 224), parse("imagenet")), expected)


def test_without_a_crop_the_photo_is_stretched(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", 0, 30, 50)
    assert decode(path, 3, (8, 10), parse("crop=none")).shape == (8, 10, 3)


def test_long_inputs_are_covered(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", 7, 30, 20)
    for options in ("imagenet", "resize=8", "resize=40x60"):
        assert (decode(path, 3, (8, 32), parse(options)) == 7).all()


def test_without_a_resize_the_centre_is_cut_out_and_small_photos_are_refused(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", 7, 30, 20)
    assert decode(path, 3, (8, 8), parse("resize=none")).shape == (8, 8, 3)
    with pytest.raises(ValueError, match="30x20, not 8x32"):
        decode(path, 3, (8, 32), parse("resize=none"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16"])
def test_every_kind_of_image_becomes_eight_bits(tmp_path: Path, mode: str, channels: int) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 200 * 256 + 17, np.uint16))
    elif mode == "P":
        image = Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).convert("P", palette=Image.Palette.ADAPTIVE)
        image.info["transparency"] = b"\x00\x80"
    else:
        image = Image.fromarray(np.full((8, 8, 3), 255 if mode == "1" else 200, np.uint8)).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    image.save(path)
    pixels = decode(path, channels, (8, 8), parse("raw"))
    assert pixels.shape == (8, 8, channels) and pixels.dtype == np.uint8
    assert (pixels == (255 if mode == "1" else 200)).all()


def test_animations_give_their_first_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (50, 90)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (decode(tmp_path / "a.gif", 1, (8, 8), parse("raw")) == 50).all()


def test_broken_photos_are_named_and_left_out(folder: Path) -> None:
    whole = everything(opened(folder))
    (folder / "class1" / "15.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    (folder / "class2" / "20.png").write_bytes((folder / "class2" / "20.png").read_bytes()[:50])
    warnings: list[str] = []
    source = opened(folder, warnings=warnings)
    kept = [row for row in whole if row[0, 0, 0] not in (15, 20)]
    np.testing.assert_array_equal(everything(source), kept)
    assert len(warnings) == 2 and all("\n" not in text for text in warnings)
    assert any("15.png" in text for text in warnings) and any("20.png" in text for text in warnings)
    assert source.description.startswith("38 of 40 images")


def test_too_many_broken_photos_are_an_error(folder: Path) -> None:
    for number in (1, 2, 3):
        (folder / "class0" / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"3 of the first 40 images cannot be used \(at most 2 of 40"):
        opened(folder)


def test_a_single_broken_photo_is_an_error_when_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png cannot be used"):
        opened(tmp_path / "a.png")


def test_a_photo_of_absurd_size_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    path = photo(tmp_path / "a.png", 0)
    with pytest.raises(ValueError, match="DecompressionBomb"):
        decode(path, 3, (8, 8), parse("raw"))


def test_what_does_not_fit_in_memory_is_decoded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = everything(opened(folder, 10))
    monkeypatch.setattr(imagefolder, "KEEP_BYTES", 100)
    lazy = opened(folder, 10)
    assert isinstance(lazy, imagefolder.ImageSource) and lazy.kept is None
    np.testing.assert_array_equal(everything(lazy), kept)
    np.testing.assert_array_equal(lazy.feeds([4, 2])["x"], kept[[4, 2]])
    lazy.files[0].unlink()
    with pytest.raises(DataError, match="vanished during the run"):
        lazy.feeds([0])


def test_only_chosen_photos_are_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def spy(path: Path, *rest: Any) -> NDArray[np.uint8]:
        seen.append(path)
        return decode(path, *rest)

    monkeypatch.setattr(imagefolder, "decode", spy)
    opened(folder, 5)
    assert len(seen) == 5


def test_folders_without_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 0 files"):
        opened(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="has 1 files, but none"):
        opened(tmp_path)
    with pytest.raises(DataError, match="neither an image nor"):
        opened(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="do not exist"):
        opened(tmp_path / "nowhere")


def test_a_mixed_folder_is_refused(folder: Path) -> None:
    np.save(folder / "a.npy", np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(DataError, match="40 images and 1 NumPy files"):
        opened(folder)


def test_photos_for_several_inputs_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"2 inputs \(x, y\): give an \.npz"):
        opened(folder, specs=(*SPECS, TensorSpec("y", np.dtype(np.float32), ("N", 4))))
