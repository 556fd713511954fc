"""Writing small files that appear whole or not at all."""

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
