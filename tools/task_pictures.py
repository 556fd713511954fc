"""The pictures on which deployed networks are calibrated and judged, prepared from folders of photos.

A network is calibrated on a folder, and judged on other files. Prepared pictures are kept in a cache folder as PNG,
which loses nothing, and are not prepared again.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SUFFIXES = {".jpg", ".jpeg", ".png"}

WORDS = (
    "Every ONNX PyPI Two Where again already and answers are cache case cases come data drawn each everywhere "
    "exports fed fills folder from function get graphs hold inputs light little made models node not number off "
    "one our own packages real_graphs round say says second stored suites test that the there they those time "
    "tools under weights what whose"
)
"""The words in the pictures of text. Other words would give other pictures and other results."""

SYSTEM_FONTS = Path("/usr/share/fonts")

Source = TypeVar("Source")


@dataclass(frozen=True)
class Pictures:
    """The samples of one network.

    Attributes
    ----------
    calibration
        The folder that the command is given.
    count
        The number of samples to take from it.
    judging
        The pictures that judge the result.
    labels
        The class of each of these; empty where there are none.
    """

    calibration: Path
    count: int
    judging: tuple[Path, ...]
    labels: tuple[int, ...] = ()

    def first(self, count: int | None) -> "Pictures":
        """Return fewer samples, for a trial."""
        if count is None:
            return self
        return Pictures(self.calibration, min(count, self.count), self.judging[:count], self.labels[:count])


def files_in(folder: Path) -> list[Path]:
    """Return the photos in a folder and its sub-folders, sorted."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise SystemExit(f"{folder} holds no photos ({', '.join(sorted(SUFFIXES))})")
    return found


def drawn(folder: Path, count: int) -> list[Path]:
    """Draw photos from a folder."""
    found = files_in(folder)
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:count]]


def halves(folder: Path, cache: Path) -> Pictures:
    """Divide photos in two at random, one of every class, whose number is the photo's place in sorted order."""
    found = files_in(folder)
    order, half = np.random.default_rng(0).permutation(len(found)), len(found) // 2
    calibration, judging = (
        prepared(own(cache, folder, name), (found[i] for i in chosen), _middle)
        for name, chosen in (("half", order[:half]), ("other-half", order[half:]))
    )
    return Pictures(calibration, half, tuple(files_in(judging)), tuple(map(int, order[half:])))


def classes(folder: Path, count: int) -> Pictures:
    """Calibrate on photos of train/, and judge on all of val/, whose sub-folders are the classes in sorted order."""
    names = sorted(entry.name for entry in (folder / "val").iterdir() if entry.is_dir())
    found = drawn(folder / "val", 1 << 30)
    labels = tuple(names.index(path.relative_to(folder / "val").parts[0]) for path in found)
    return Pictures(folder / "train", count, tuple(found), labels)


def photos(folder: Path, calibration: int, judging: int) -> Pictures:
    """Calibrate on photos of train/, and judge on some of val/."""
    return Pictures(folder / "train", calibration, tuple(drawn(folder / "val", judging)))


def resized(folder: Path, cache: Path, counts: tuple[int, int], size: int, shown: int) -> Pictures:
    """Take photos at size×size, stretched, and of these the middle shown×shown."""
    edge = (size - shown) // 2

    def write(photo: Path, target: Path) -> None:
        with Image.open(photo) as image:
            whole = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        whole.crop((edge, edge, edge + shown, edge + shown)).save(target)

    return _from_both(folder, own(cache, folder, f"{size}-{shown}"), counts, write)


def text_pages(folder: Path, cache: Path, counts: tuple[int, int]) -> Pictures:
    """Draw a few words on blurred photos of 640×480, in the fonts of this machine or else in Pillow's own."""
    fonts = sorted(map(str, SYSTEM_FONTS.rglob("*.ttf")))
    return _from_both(folder, own(cache, folder, "pages"), counts, lambda photo, target: _page(photo, target, fonts))


def _page(photo: Path, target: Path, fonts: Sequence[str]) -> None:
    chance = random.Random(f"{target.parent.name} {target.name}")
    with Image.open(photo) as image:
        blur = ImageFilter.GaussianBlur(2 * chance.random())
        page = image.convert("RGB").resize((640, 480)).filter(blur)
    draw = ImageDraw.Draw(page)
    for _ in range(chance.randint(3, 10)):
        size = chance.randint(14, 60)
        font = ImageFont.truetype(chance.choice(fonts), size) if fonts else ImageFont.load_default(size)
        text = " ".join(chance.choice(WORDS.split()) for _ in range(chance.randint(1, 3)))
        at = chance.randint(0, 420), chance.randint(0, 420)
        red, green, blue = (chance.randint(0, 255) for _ in range(3))
        if chance.random() < 0.5:
            draw.rectangle(draw.textbbox(at, text, font=font), fill=(255 - red, 255 - green, 255 - blue))
        draw.text(at, text, font=font, fill=(red, green, blue))
    page.save(target)


def text_pictures(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> Path:
    """Draw pictures of a line or a page of text: on photos without text the responses of a reader mean little.

    Parameters
    ----------
    folder
        The folder to fill, unless it is there.
    count
        The number of pictures.
    size
        Their width and height. Pictures of up to 48 pixels in height hold a single line.
    seed
        The seed of the words, sizes and colours.
    """
    rng = np.random.default_rng(seed)
    width, height = size

    def write(_: None, target: Path) -> None:
        paper, ink = rng.integers(150, 256, 3), rng.integers(0, 100, 3)
        picture = Image.new("RGB", (width, height), tuple(map(int, paper)))
        draw = ImageDraw.Draw(picture)
        for top in range(6, height - 30, 36) if height > 48 else (6,):
            font = ImageFont.load_default(int(rng.integers(16, 32)))
            draw.text(
                (int(rng.integers(4, 20)), top), " ".join(rng.choice(WORDS.split(), 4)), tuple(map(int, ink)), font
            )
        picture.save(target)

    return prepared(folder, [None] * count, write)


def own(cache: Path, folder: Path, name: str) -> Path:
    """Return the folder in the cache for what is made of the photos in another folder."""
    return cache / f"{name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"


def gray_pictures(file: Path, folder: Path) -> tuple[Path, tuple[int, ...]]:
    """Return a folder with the images [n, 1, H, W] of an .npz, whose values are 0..1, and the labels if it has any."""
    with np.load(file) as arrays:
        images, labels = arrays["input"], arrays["labels"].tolist() if "labels" in arrays else ()

    def write(image: NDArray[np.float32], target: Path) -> None:
        Image.fromarray(np.rint(255 * image[0]).astype(np.uint8)).save(target)

    return prepared(folder, images, write), tuple(labels)


def _from_both(folder: Path, cache: Path, counts: tuple[int, int], write: Callable[[Path, Path], None]) -> Pictures:
    """Prepare so many photos of train/ to calibrate, and so many of val/ to judge."""
    calibration, judging = (
        prepared(cache / split, drawn(folder / split, count), write)
        for split, count in zip(("train", "val"), counts, strict=True)
    )
    return Pictures(calibration, counts[0], tuple(files_in(judging)))


def prepared(folder: Path, sources: Iterable[Source], write: Callable[[Source, Path], None]) -> Path:
    """Fill a folder with a picture for each source; it appears only when it is complete."""
    if not folder.exists():
        scratch = folder.with_name(folder.name + ".part")
        scratch.mkdir(parents=True, exist_ok=True)
        for number, source in enumerate(sources):
            write(source, scratch / f"{number:04}.png")
        scratch.rename(folder)
    return folder


def _middle(photo: Path, target: Path, shorter: int = 256, size: int = 224) -> None:
    """Bring the shorter side of a photo to 256 pixels, and take the middle 224×224."""
    with Image.open(photo) as image:
        whole = image.convert("RGB")
    scale = shorter / min(whole.size)
    if scale != 1:
        whole = whole.resize((round(scale * whole.width), round(scale * whole.height)), Image.Resampling.BILINEAR)
    left, top = (whole.width - size) // 2, (whole.height - size) // 2
    whole.crop((left, top, left + size, top + size)).save(target)
