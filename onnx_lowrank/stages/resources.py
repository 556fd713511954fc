"""Seconds by stage and the peak memory of the process, for the report."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path


class StageTimes:
    """Adds up wall-clock seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body under a name; stages that return are added up."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def total(self) -> dict[str, float]:
        """All stages, and the whole time since the clock was made, rounded to milliseconds."""
        rounded = {name: round(value, 3) for name, value in self.seconds.items()}
        return rounded | {"total": round(time.perf_counter() - self._start, 3)}


def peak_rss_bytes() -> int:
    """The most memory that this process ever held; 0 where the platform does not tell."""
    if sys.platform == "win32":
        return 0
    if sys.platform == "linux":
        # Linux hands ru_maxrss on to the programs that a process starts; this figure is the program's own.
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
