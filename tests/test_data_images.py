"""Folders of photos: the draw, the decoding, and the refusal of damaged and unfit photos."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from onnx_lowrank.data.draw import Draw
from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.decode import decode
from onnx_lowrank.data.photos.folder import list_files, open_images
from onnx_lowrank.data.photos.preprocess import parse
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.progress import ignore

SPECS = (TensorSpec("x", np.dtype(np.float32), ("N", 3, 8, 8)),)

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 21840\n"


def photo(path: Path, value: int, height: int = 8, width: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path, lossless=True)
    return path


def opened(
    path: Path,
    count: int = 100,
    preset: str = "raw",
    seed: int = 0,
    specs: tuple[TensorSpec, ...] = SPECS,
    warn: Callable[[str], None] = ignore,
) -> Source:
    return open_source(path, specs, preprocess=parse(preset), count=count, seed=seed, on_warning=warn)


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
    (tmp_path / "Thumbs.db").write_bytes(b"no photo")
    photo(tmp_path / ".cache" / "a.png", 99)
    assert sorted(everything(opened(tmp_path))[:, 0, 0, 0].tolist()) == list(range(8))


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("jfif", "JPEG"), ("JFIF", "JPEG"), ("jpe", "JPEG"), ("ppm", "PPM"), ("pgm", "PPM"), ("pbm", "PPM"),
        ("pnm", "PPM"), ("tga", "TGA"), ("dib", "DIB"), ("apng", "PNG"), ("jp2", "JPEG2000"), ("avif", "AVIF"),
    ],
)  # fmt: skip
def test_every_common_ending_is_taken(tmp_path: Path, ending: str, kind: str) -> None:
    if not features.check({"JPEG2000": "jpg_2000", "AVIF": "avif"}.get(kind, "zlib")):
        pytest.skip("Pillow was built without it")
    pixels = np.full((8, 8), 255, np.uint8)
    Image.fromarray(pixels).convert("1" if ending == "pbm" else "L").save(tmp_path / f"a.{ending}", format=kind)
    assert everything(opened(tmp_path)).shape == (1, 3, 8, 8)


def test_what_is_left_out_is_counted_with_the_reason(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    for name in ("b.heic", "c.HEIC", "labels.txt", "LICENSE"):
        (tmp_path / name).write_bytes(b"no photo that is read")
    (tmp_path / "dead.jpg").symlink_to("nowhere.jpg")
    lines: list[str] = []
    assert len(opened(tmp_path, warn=lines.append)) == 1
    (line,) = lines
    assert line.startswith(f"5 files in {tmp_path} left out: dead.jpg (a link that leads nowhere); ")
    assert "2 with .heic, 1 with .txt, 1 with no ending" in line


def test_a_link_to_a_photo_is_a_photo(tmp_path: Path) -> None:
    photo(tmp_path / "elsewhere" / "a.png", 7)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "link.png").symlink_to("../elsewhere/a.png")
    assert (everything(opened(tmp_path / "photos")) == 7).all()


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_their_exif_orientation_says(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24], upright[:16, 24:], upright[16:, :24] = 250, 170, 90
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1], 7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a.{kind}", exif=exif)
    pixels = decode(tmp_path / f"a.{kind}", 3, (32, 48), parse("raw,resize=none"))
    assert np.abs(pixels.astype(int) - upright).mean() < 4


def test_damaged_exif_leaves_the_photo_as_it_is(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), 200, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff and more")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 3, (8, 8), parse("raw")), pixels)


def test_a_pointer_of_git_in_place_of_a_photo_is_recognised(folder: Path) -> None:
    (folder / "class1" / "15.png").write_bytes(LFS)
    lines: list[str] = []
    opened(folder, warn=lines.append)
    assert [line for line in lines if "15.png" in line and "git lfs pull" in line]


@pytest.mark.parametrize("name", ["data.npy", "data.npz"])
def test_a_pointer_of_git_in_place_of_arrays_is_recognised(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(LFS)
    with pytest.raises(DataError, match="git lfs pull"):
        opened(tmp_path / name)


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
    assert opened(folder / "class0" / "0.png").description == "1 image in 0.png (preset raw)"
    assert not opened(folder).synthetic


@pytest.mark.parametrize("preset", ["imagenet", "caffe", "unit"])
def test_photos_of_the_input_size_go_through_untouched(tmp_path: Path, preset: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    preprocess = parse(preset)
    order = -1 if preprocess.channels == "bgr" else 1
    expected = (pixels[..., ::order] - np.array(preprocess.mean)) * np.array(preprocess.scale)
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
def test_every_mode_of_an_image_becomes_eight_bits(tmp_path: Path, mode: str, channels: int) -> None:
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
    lines: list[str] = []
    source = opened(folder, warn=lines.append)
    kept = [row for row in whole if row[0, 0, 0] not in (15, 20)]
    np.testing.assert_array_equal(everything(source), kept)
    assert len(lines) == 2 and all("\n" not in line for line in lines)
    assert any("15.png" in line for line in lines) and any("20.png" in line for line in lines)
    assert source.description.startswith("38 of 40 images")


def test_a_warning_about_a_broken_photo_may_become_a_warning_of_python(folder: Path) -> None:
    (folder / "class1" / "15.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"15\.png cannot be used"):
        opened(folder, warn=warnings.warn)


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


def test_photos_that_do_not_fit_in_memory_are_decoded_again(folder: Path) -> None:
    kept = everything(opened(folder, 10))
    source, drawn = open_images(list_files(folder), folder, SPECS, parse("raw"), Draw(10), keep_bytes=100)
    np.testing.assert_array_equal(everything(source), kept)
    np.testing.assert_array_equal(source.feeds([4, 2])["x"], kept[[4, 2]])
    list_files(folder)[drawn[0]].unlink()
    with pytest.raises(DataError, match="vanished during the run"):
        source.feeds([0])


def test_photos_in_memory_are_not_read_again(folder: Path) -> None:
    source = opened(folder, 10)
    kept = everything(source)
    for path in list_files(folder):
        path.unlink()
    np.testing.assert_array_equal(everything(source), kept)


def test_only_drawn_photos_are_decoded(folder: Path) -> None:
    drawn = everything(opened(folder, 5))
    for path in list_files(folder):
        if int(path.stem) not in drawn[:, 0, 0, 0]:
            path.write_bytes(b"broken")
    lines: list[str] = []
    np.testing.assert_array_equal(everything(opened(folder, 5, warn=lines.append)), drawn)
    assert lines == []


def test_folders_without_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 0 files"):
        opened(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="has 1 file, but none of a known kind"):
        opened(tmp_path)
    with pytest.raises(DataError, match="is not a file of a known kind"):
        opened(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="do not exist"):
        opened(tmp_path / "nowhere")


def test_a_mixed_folder_is_refused(folder: Path) -> None:
    np.save(folder / "a.npy", np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(DataError, match="40 images and 1 NumPy file:"):
        opened(folder)


def test_photos_for_several_inputs_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"2 inputs \(x, y\): give an \.npz"):
        opened(folder, specs=(*SPECS, TensorSpec("y", np.dtype(np.float32), ("N", 4))))
