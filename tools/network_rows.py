"""The rows of tools/networks.py: what is asked of which network, on which pictures, and what it is to reach."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import real_sources
import task_pictures
from task_measures import AP50, CENTRED_ERROR, PSNR, TEXT_F1, TOP1, Task
from task_pictures import Pictures

MODELS = Path(__file__).resolve().parents[1] / "models"


@dataclass(frozen=True)
class Places:
    """Where photos are, and where prepared pictures are kept; a folder that the user does not name is None."""

    imagenet: Path | None
    imagenette: Path | None
    cache: Path

    def one_of_every_class(self) -> Path:
        """Return the folder with one photo of every class of ImageNet."""
        return _named(self.imagenet, "--imagenet")

    def ten_classes(self) -> Path:
        """Return the folder with train/ and val/ of Imagenette."""
        return _named(self.imagenette, "--imagenette")


def _named(folder: Path | None, option: str) -> Path:
    if folder is None:
        raise SystemExit(f"name the folder with {option}")
    return folder


@dataclass(frozen=True)
class Network:
    """A network and its task.

    Attributes
    ----------
    model
        The name under which tools/network_files.py makes its file.
    pictures
        Prepares its samples.
    options
        The options that it needs in any run, --preprocess among them.
    task
        The measure of its answers.
    asked
        For every row of the table: the options that ask for a speedup, and what the result is to reach.
    """

    model: str
    pictures: Callable[[Places], Pictures]
    options: tuple[str, ...]
    task: Task
    asked: tuple[tuple[str, str], ...]

    @property
    def preprocess(self) -> str:
        """How pictures become inputs."""
        return next(text.partition("=")[2] for text in self.options if text.startswith("--preprocess="))


@dataclass(frozen=True)
class Row:
    """One row: the name by which the user picks it, the network, and what is asked and to be reached."""

    name: str
    network: Network
    ask: str
    least: str

    @property
    def asked(self) -> tuple[str, ...]:
        """The options of the command."""
        return tuple(f"--{word}" for word in self.ask.split())

    @property
    def shown(self) -> str:
        """What is asked, for the table."""
        speedup = next(word.removeprefix("speedup=") for word in self.ask.split() if word.startswith("speedup="))
        return f"{speedup}× {'clock' if 'target=latency' in self.ask else 'MACs'}"


NO_LARGER = (("speedup=1.5", "error no larger than that of 0.1.0; clock never slower"),)


def _read_text(name: str) -> Network:
    """Return a network of RapidOCR, on drawn pictures of text."""

    def pictures(places: Places) -> Pictures:
        size = real_sources.TEXT_SIZES.get(name, real_sources.PAGE)
        calibration = task_pictures.text_pictures(places.cache / "text" / name, 40, size)
        judging = task_pictures.text_pictures(places.cache / "text" / f"{name}-judging", 40, size, seed=1)
        return Pictures(calibration, 40, tuple(task_pictures.files_in(judging)))

    return Network(name, pictures, real_sources.options_of(name), CENTRED_ERROR, NO_LARGER)


def _digits(places: Places) -> Pictures:
    """Return the digits in models/ as pictures."""
    calibration, _ = task_pictures.gray_pictures(MODELS / "mnist_calib.npz", places.cache / "digits-train")
    judging, labels = task_pictures.gray_pictures(MODELS / "mnist_test.npz", places.cache / "digits-test")
    return Pictures(calibration, 300, tuple(task_pictures.files_in(judging)), labels)


NETWORKS = {
    "mobilenetv2": Network(
        "mobilenetv2",
        lambda places: task_pictures.halves(places.one_of_every_class(), places.cache),
        ("--preprocess=imagenet",),
        TOP1,
        (("speedup=1.2", "80.0, clock 1.15×, 15 min"), ("speedup=1.4", "75.0, clock 1.3×, 15 min")),
    ),
    "efficientnet_lite0": Network(
        "efficientnet_lite0",
        lambda places: task_pictures.halves(places.one_of_every_class(), places.cache),
        ("--preprocess=mean=127,scale=0.0078125",),
        TOP1,
        (("speedup=1.2", "83"), ("speedup=1.4", "77")),
    ),
    "yolox_nano": Network(
        "yolox_nano",
        lambda places: task_pictures.resized(places.ten_classes(), places.cache, (200, 400), 416, 416),
        ("--preprocess=raw,channels=bgr",),
        AP50,
        (("target=latency speedup=1.3", "0.93"),),
    ),
    "craft": Network(
        "craft",
        lambda places: task_pictures.text_pages(places.ten_classes(), places.cache, (60, 20)),
        ("--preprocess=imagenet,resize=none,crop=none",),
        TEXT_F1,
        (("speedup=4", "0.96, clock 3×"),),
    ),
    "esrgan_x2": Network(
        "esrgan_x2",
        lambda places: task_pictures.resized(places.ten_classes(), places.cache, (200, 40), 112, 64),
        ("--preprocess=unit,resize=none,crop=none",),
        PSNR,
        (("speedup=2", "55 dB, clock 1.7×"), ("speedup=4", "48 dB, clock 3.0×")),
    ),
    "vgg16": Network(
        "vgg16",
        lambda places: task_pictures.classes(places.ten_classes(), 500),
        ("--preprocess=caffe",),
        TOP1,
        (("speedup=4", "−0.1 points"), ("speedup=8", "−0.5 points")),
    ),
    "open_nsfw": Network(
        "open_nsfw",
        lambda places: task_pictures.photos(places.ten_classes(), 200, 200),
        real_sources.options_of("open_nsfw"),
        CENTRED_ERROR,
        NO_LARGER,
    ),
    "text_detector": _read_text("ch_PP-OCRv4_det_infer"),
    "text_recogniser": _read_text("ch_PP-OCRv4_rec_infer"),
    "text_direction": _read_text("ch_ppocr_mobile_v2.0_cls_infer"),
}

EMBEDDED = Network("mnist_vgg", _digits, ("--preprocess=unit",), TOP1, (("speedup=4", "99"),))
"""The network in models/, which needs nothing else; only for trying the tool."""


def rows() -> dict[str, Row]:
    """Return all rows by name, that of the embedded network last."""
    named = {**NETWORKS, "embedded": EMBEDDED}
    return {
        (name := f"{key}@{ask.rpartition('=')[2]}"): Row(name, network, ask, least)
        for key, network in named.items()
        for ask, least in network.asked
    }
