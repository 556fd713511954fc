"""Call the command with models, data, plans and command lines that are drawn or spoiled at random.

It must refuse what is spoiled properly, and treat what is valid without damage.

    python tools/fuzz.py --cases 20000

prints how often each kind of input ended with which exit code, and every failure with the number that repeats it:

    python tools/fuzz.py --only 1234 --keep folder

Each of these is a failure: an internal error (exit code 1) or an exit code that is not documented; a traceback, or
anything else on standard error but the lines of the program; more or less than one line that states the reason; output
on standard output by a call that fails; a file that a failing call leaves behind, changes or removes; a temporary file
that any call leaves behind; a crash; a hang; a valid model that is refused; a result at full rank whose outputs are not
those of the original.

The calls are made one after the other in a process of their own, so that a crash or a hang costs one call. The process
may use 8 GiB of memory.
"""

import argparse
import contextlib
import json
import os
import re
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

DOCUMENTED = {0, 2, 3, 4, 5, 6, 7}
"""The exit codes to which an input may lead; 130 and 143 come from outside."""

FRESH_EVERY = 50
"""One call in this many measures the latency in a fresh process, as all calls do outside; that takes a second."""

NOTHING_KNOWN = {"seconds": 0, "message": ""}
"""The rest of the result of a call that never ended."""

MEMORY = 8 << 30
HANG = 120
"""The seconds after which a call counts as hanging; enough for a busy machine."""


# ---- in the process that makes the calls


def contents(folder: Path) -> dict[str, tuple[int, int] | None]:
    """Return the name, size and time of everything in a folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


@contextlib.contextmanager
def captured(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Redirect standard output and standard error to files, including the output of libraries in C."""
    files = folder / "stdout", folder / "stderr"
    originals = os.dup(1), os.dup(2)
    try:
        for number, file in enumerate(files, 1):
            with file.open("wb") as stream:
                os.dup2(stream.fileno(), number)
        yield files
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, original in enumerate(originals, 1):
            os.dup2(original, number)
            os.close(original)


@contextlib.contextmanager
def working_in(folder: Path, temporary: Path) -> Iterator[None]:
    """Make a folder the working one, and another one that of the temporary files."""
    os.chdir(folder)
    tempfile.tempdir = str(temporary)
    try:
        yield
    finally:
        os.chdir("/")
        tempfile.tempdir = None


def call(number: int, keep: Path | None = None) -> dict[str, Any]:
    """Generate a case, call the command with it and judge how the call ended."""
    from latency_for_tests import measured_here
    from mutations import KINDS, WEIGHTS

    from onnx_lowrank.bench import fresh_process
    from onnx_lowrank.cli import compress
    from onnx_lowrank.stages import speed

    measured = measured_here if number % FRESH_EVERY else fresh_process.measure_in_fresh_process
    speed.__dict__["measure_in_fresh_process"] = measured
    random = Random(number)
    kind = random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder, temporary, streams = Path(scratch, "case"), Path(scratch, "tmp"), Path(scratch, "streams")
        for new in (folder, temporary, streams):
            new.mkdir()
        case = KINDS[kind](random, folder)
        if keep:
            shutil.copytree(folder, keep, dirs_exist_ok=True)
            print(f"in {keep}: onnx-lowrank {' '.join(map(repr, case.arguments))}")
        before, started = contents(folder), time.monotonic()
        code: Any = None
        try:
            with working_in(folder, temporary), captured(streams) as files:
                code = compress.main(case.arguments)
        except BaseException as error:  # the command must let nothing escape
            code = f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - started
        out, err = (file.read_text(encoding="utf-8", errors="replace") for file in files)
        problems = judge(code, out, err, untouched=before == contents(folder), tidy=not any(temporary.iterdir()))
        if code == 0 and (folder / "out.onnx").exists():
            problems += case.problems(folder)
        if code != 0 and case.refusal and not re.search(case.refusal, err):
            problems.append("a valid model is refused")
    last = err.strip().splitlines()[-1:] or [""]
    return {"number": number, "kind": kind, "code": code, "problems": problems, "seconds": seconds, "message": last[0]}


def judge(code: Any, out: str, err: str, *, untouched: bool, tidy: bool) -> list[str]:
    """Return everything that is wrong with the way in which a call ended.

    Parameters
    ----------
    code
        The exit code, or the exception that escaped.
    out, err
        The texts on standard output and standard error.
    untouched
        Whether the files are as before.
    tidy
        Whether no temporary file is left.
    """
    lines = err.splitlines()
    reasons = [line for line in lines if not line.startswith("onnx-lowrank: warning: ")]
    problems = {
        f"ended with {code!r}": code not in DOCUMENTED,
        "a traceback": "Traceback" in out + err,
        "a line that is not the program's": not all(line.startswith("onnx-lowrank: ") for line in lines),
        f"{len(reasons)} lines of reasons": len(reasons) != (code != 0),
        "output of a call that failed": code != 0 and out != "",
        "files left, changed or removed": code not in (0, 7) and not untouched,  # 7 still writes the report
        "temporary files left": not tidy,
    }
    return [problem for problem, present in problems.items() if present]


def work(first: int, last: int) -> None:
    """Make calls, and report each on the standard output that this process was given."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        for number in range(first, last):
            print(json.dumps({"begin": number}), file=channel, flush=True)
            print(json.dumps(call(number)), file=channel, flush=True)


# ---- in the process that watches


def results(first: int, last: int) -> Iterator[dict[str, Any]]:
    """Yield the result of every case; a process that crashes or hangs is replaced."""
    while first < last:
        command = [sys.executable, __file__, "--worker", str(first), str(last)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert worker.stdout
        for line in lines_in_time(worker):
            report = json.loads(line)
            first = report.get("begin", first)
            if "code" in report:
                first += 1
                yield report
        if worker.poll() is None:
            worker.kill()
            problem = f"no end within {HANG} seconds"
        else:
            problem = f"the process died ({worker.returncode})"
        worker.wait()
        worker.stdout.close()
        if first < last:
            yield {"number": first, "kind": "unknown", "code": problem, "problems": [problem], **NOTHING_KNOWN}
            first += 1


def lines_in_time(worker: "subprocess.Popen[str]") -> Iterator[str]:
    """Yield the lines of a process until it ends or is silent for too long."""
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
    """Return the Markdown table of the kinds and the exit codes."""
    kinds, codes = (sorted({key[part] for key in counts}) for part in (0, 1))
    rows = [["inputs", *codes, "all"]]
    for kind in kinds:
        numbers = [counts[kind, code] for code in codes]
        rows.append([kind, *map(str, numbers), str(sum(numbers))])
    totals = [sum(counts[kind, code] for kind in kinds) for code in codes]
    rows.append(["all", *map(str, totals), str(sum(totals))])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(codes) + 1), *lines[1:]])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="the number of inputs (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input (default: %(default)s)")
    parser.add_argument(
        "--only", type=int, metavar="NUMBER", help="run one input in this process, and print its result"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="with --only, the folder to which its files go")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if args.worker:
        work(*args.worker)
        return 0
    if args.only is not None:
        result = call(args.only, args.keep and args.keep.resolve())
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return bool(result["problems"])
    started, failures, longest = time.monotonic(), 0, 0.0
    counts: Counter[tuple[str, str]] = Counter()
    for result in results(args.first, args.first + args.cases):
        counts[result["kind"], str(result["code"])] += 1
        longest = max(longest, result["seconds"])
        if result["problems"]:
            failures += 1
            problems = "; ".join(result["problems"])
            print(f"{result['number']} ({result['kind']}): {problems}: {result['message']}", flush=True)
        if counts.total() % 1000 == 0:
            print(f"{counts.total()} inputs, {failures} failures", file=sys.stderr, flush=True)
    print(table(counts))
    print(f"{failures} failures; {time.monotonic() - started:.0f} s, the longest call {longest:.1f} s")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
