"""Files in general: small ones that appear whole or not at all, and what stands in the place of a file."""

import os
from pathlib import Path

from onnx_lowrank.errors import EnvironmentFault


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file, which appears whole or not at all.

    Raises
    ------
    EnvironmentFault
        If the file cannot be written.
    """
    scratch = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise EnvironmentFault(f"cannot write {path}: {error.strerror}") from error
    finally:
        scratch.unlink(missing_ok=True)


def placeholder_at(path: Path) -> str | None:
    """Return what stands in the place of the file at a path; see ``placeholder``. None where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return placeholder(stream.read(200))
    except (OSError, ValueError):
        return None


def placeholder(beginning: bytes) -> str | None:
    """Return what stands in a file's place, and how to get the file itself; None where nothing known does.

    Parameters
    ----------
    beginning
        The first 200 bytes of the file, or more.
    """
    start = beginning.lstrip()[:200].lower()
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a pointer of Git's large-file storage: fetch the file itself with git lfs pull"
    if start.startswith((b"/annex/objects/", b"../.git/annex/", b".git/annex/objects/")):
        return "a pointer of git-annex: fetch the file itself with git annex get"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page: download the file itself"
    return None
