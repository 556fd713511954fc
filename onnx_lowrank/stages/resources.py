"""The seconds of every stage and the peak memory of the process, for the report."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path


class StageTimes:
    """The wall-clock seconds of every stage, and of the whole run since this object was made.

    Attributes
    ----------
    seconds
        The seconds up to now, by the name of the stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the body to that of a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def rounded(self) -> dict[str, float]:
        """Return the seconds of all stages, and the whole time as "total", rounded to milliseconds."""
        rounded = {name: round(value, 3) for name, value in self.seconds.items()}
        return rounded | {"total": round(time.perf_counter() - self._start, 3)}


def peak_rss_bytes() -> int:
    """Return the largest memory that this process has held; 0 on platforms that do not record it."""
    if sys.platform == "win32":
        return 0
    if sys.platform == "linux":
        # Linux passes ru_maxrss on to the programs that a process starts; this figure is the program's own.
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
