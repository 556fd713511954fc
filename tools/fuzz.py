"""Spoiled models, data, plans and command lines for the command, as many as you like: it must refuse them properly.

    python tools/fuzz.py --cases 20000

prints how often each kind of input ended with which exit code, and every failure with the number that repeats it:

    python tools/fuzz.py --only 1234 --keep folder

A failure is: an internal error (1) or an exit code that is not documented; a traceback, or anything on standard error
but the program's own lines; more or less than one line that says why; anything on standard output of a call that
fails; files left behind, changed or removed by a call that fails; temporary files left by any call; a crash; a hang.

The calls are made in a process of their own, one after the other, so that a crash or a hang costs one call. That
process may take 8 GiB of memory.
"""

import argparse
import contextlib
import json
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

DOCUMENTED = {0, 2, 3, 4, 5, 6}
"""The exit codes that an input may lead to; 130 and 143 come from outside."""

MEMORY = 8 << 30
HANG = 120
"""Seconds after which a call is taken to hang, on a busy machine too."""


# ---- in the process that makes the calls


def contents(folder: Path) -> dict[str, tuple[int, int] | None]:
    """Name, size and time of everything in a folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


@contextlib.contextmanager
def captured(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Standard output and error as files, what libraries in C print included."""
    places = folder / "stdout", folder / "stderr"
    kept = os.dup(1), os.dup(2)
    try:
        for number, place in enumerate(places, 1):
            with place.open("wb") as stream:
                os.dup2(stream.fileno(), number)
        yield places
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in enumerate(kept, 1):
            os.dup2(saved, number)
            os.close(saved)


def call(number: int, keep: Path | None = None) -> dict[str, Any]:
    """Make one case and judge how the command takes it."""
    from mutations import KINDS, WEIGHTS

    from onnx_lowrank.cli import compress

    random = Random(number)
    kind = random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    with tempfile.TemporaryDirectory() as place:
        folder, temporary, apart = Path(place, "case"), Path(place, "tmp"), Path(place, "streams")
        for made in (folder, temporary, apart):
            made.mkdir()
        case = KINDS[kind](random, folder)
        if keep:
            shutil.copytree(folder, keep, dirs_exist_ok=True)
            print(f"in {keep}: onnx-lowrank {' '.join(map(repr, case.arguments))}")
        os.chdir(folder)
        tempfile.tempdir = str(temporary)
        before = contents(folder)
        code: Any = None
        started = time.monotonic()
        try:
            with captured(apart) as (out, err):
                code = compress.main(case.arguments)
        except BaseException as error:  # nothing may come out of it
            code = f"{type(error).__name__}: {error}"
        finally:
            os.chdir("/")
            tempfile.tempdir = None
        seconds = time.monotonic() - started
        printed, said = (one.read_text(encoding="utf-8", errors="replace") for one in (out, err))
        problems = judge(code, printed, said, before == contents(folder), not any(temporary.iterdir()))
    line = said.strip().splitlines()[-1:] or [""]
    return {"number": number, "kind": kind, "code": code, "problems": problems, "seconds": seconds, "said": line[0]}


def judge(code: Any, out: str, err: str, untouched: bool, tidy: bool) -> list[str]:
    """What is wrong with the way in which a call ended."""
    lines = err.splitlines()
    reasons = [line for line in lines if not line.startswith("onnx-lowrank: warning: ")]
    wrong = {
        f"ended with {code!r}": code not in DOCUMENTED,
        "a traceback": "Traceback" in out + err,
        "a line that is not the program's": not all(line.startswith("onnx-lowrank: ") for line in lines),
        f"{len(reasons)} lines of reasons": len(reasons) != (code != 0),
        "output of a call that failed": code != 0 and out != "",
        "files left, changed or removed": code != 0 and not untouched,
        "temporary files left": not tidy,
    }
    return [what for what, found in wrong.items() if found]


def work(first: int, last: int) -> None:
    """Make calls and tell of each, on the standard output that this process was given."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        for number in range(first, last):
            print(json.dumps({"begin": number}), file=channel, flush=True)
            print(json.dumps(call(number)), file=channel, flush=True)


# ---- in the process that watches


def results(first: int, last: int) -> Iterator[dict[str, Any]]:
    """What became of every case; a process that crashes or hangs is replaced."""
    while first < last:
        command = [sys.executable, __file__, "--worker", str(first), str(last)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert worker.stdout
        for line in lines_in_time(worker):
            told = json.loads(line)
            first = told.get("begin", first)
            if "code" in told:
                first += 1
                yield told
        if worker.poll() is None:
            worker.kill()
            problem = f"no end within {HANG} seconds"
        else:
            problem = f"the process died ({worker.returncode})"
        worker.wait()
        worker.stdout.close()
        if first < last:
            yield {"number": first, "kind": "unknown", "code": problem, "problems": [problem], "seconds": 0, "said": ""}
            first += 1


def lines_in_time(worker: "subprocess.Popen[str]") -> Iterator[str]:
    """Lines from a process until it ends or says nothing for too long."""
    assert worker.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        rest = ""
        while selector.select(HANG):
            part = os.read(worker.stdout.fileno(), 1 << 16).decode()
            if not part:
                worker.wait()
                return
            *whole, rest = (rest + part).split("\n")
            yield from whole


def table(counts: Counter[tuple[str, str]]) -> str:
    """Kinds by exit codes."""
    kinds, codes = (sorted({key[which] for key in counts}) for which in (0, 1))
    rows = [["inputs", *codes, "all"]]
    for kind in kinds:
        numbers = [counts[kind, code] for code in codes]
        rows.append([kind, *map(str, numbers), str(sum(numbers))])
    totals = [sum(counts[kind, code] for kind in kinds) for code in codes]
    rows.append(["all", *map(str, totals), str(sum(totals))])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(codes) + 1), *lines[1:]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="how many inputs (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first (default: %(default)s)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one input, in this process, with what it says")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="with --only, where its files are put")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if args.worker:
        work(*args.worker)
        return 0
    if args.only is not None:
        result = call(args.only, args.keep and args.keep.resolve())
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return bool(result["problems"])
    started, failed, seconds = time.monotonic(), 0, 0.0
    counts: Counter[tuple[str, str]] = Counter()
    for result in results(args.first, args.first + args.cases):
        counts[result["kind"], str(result["code"])] += 1
        seconds = max(seconds, result["seconds"])
        if result["problems"]:
            failed += 1
            problems = "; ".join(result["problems"])
            print(f"{result['number']} ({result['kind']}): {problems}: {result['said']}", flush=True)
        if sum(counts.values()) % 1000 == 0:
            print(f"{sum(counts.values())} inputs, {failed} failures", file=sys.stderr, flush=True)
    print(table(counts))
    print(f"{failed} failures; {time.monotonic() - started:.0f} s, the longest call {seconds:.1f} s")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
