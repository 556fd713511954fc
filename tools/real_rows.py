"""The table of tools/real_graphs.py: a row for each graph, from the reports of its runs."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
"""Everything that is known of one graph, as JSON: its name, its source and its runs by name."""

HEADER = (
    "graph",
    "source",
    "data",
    "sites",
    "skipped",
    "relative (largest) difference at full rank",
    "conv MACs at 2×",
    "relative error",
    "latency, ms",
    "by the clock",
    "seconds",
    "exit",
    "message",
)

BY_CLOCK = "by the clock"


def cells(row: Row) -> list[str]:
    """Return the cells of a row."""
    runs = row["runs"]
    main_run = runs.get("speedup 2", {})
    report = main_run.get("report") or next((run["report"] for run in runs.values() if run.get("report")), None)
    eligible = row.get("eligible", {"sites": 0, "skipped": []})
    if report:
        eligible = {"sites": len(report["sites"]), "skipped": [skip["reason"] for skip in report["skipped"]]}
    reasons = Counter(re.sub(r"[:(].*", "", reason).strip() for reason in eligible["skipped"])
    skipped = "; ".join(f"{count}× {reason}" for reason, count in reasons.most_common()) or "–"
    return [
        *(row["name"], row["source"], row["data"], str(eligible["sites"]), skipped, _at_full_rank(row)),
        *(*_at_speedup_2(main_run.get("report")), _by_clock(row), f"{row['seconds']:.0f}"),
        *(str(main_run.get("exit", "–")), row["ended"] or main_run.get("message", "")),
    ]


def _at_speedup_2(report: Row | None) -> tuple[str, str, str]:
    """Return the MACs, the largest relative error of an output, and the latency."""
    if not report:
        return "–", "–", "–"
    errors = [output["relative_error"] for output in report["outputs"].values()]
    latency = report["speedup"]["latency"]
    return (
        f"{_number(report['macs']['conv_before'])} → {_number(report['macs']['conv_after'])}",
        f"{max(errors):.2g}" if errors else "–",
        f"{latency['before_ms']:.3g} → {latency['after_ms']:.3g}",
    )


def _at_full_rank(row: Row) -> str:
    """Return the largest ‖out − ref‖ / ‖ref‖ and |out − ref| of an output at full rank, or how the run failed."""
    runs = [run for name, run in row["runs"].items() if name.startswith("full rank")]
    failed = [run for run in runs if run["exit"]]
    if failed:
        return _failure(failed[0])
    outputs = [output for run in runs for output in run["report"]["outputs"].values()]
    if not outputs:
        return "–"
    relative, largest = (max(output[key] for output in outputs) for key in ("relative_error", "max_abs_error"))
    return f"{math.sqrt(relative):.1g} ({largest:.1g})"


def _by_clock(row: Row) -> str:
    """Return the measured ratio with its bounds, or why nothing was written."""
    run = row["runs"].get(BY_CLOCK)
    if run is None:
        return "–"
    if run["exit"]:
        return _failure(run)
    latency = run["report"]["speedup"]["latency"]
    return f"{latency['ratio']:.2f}× ({latency['ratio_low']:.2f} to {latency['ratio_high']:.2f})"


def _failure(run: Row) -> str:
    return f"exit {run['exit']}: {run['message']}"


def _number(value: float) -> str:
    """Write a number with three digits and a prefix of its unit."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def table(rows: Sequence[Row]) -> str:
    """Return all rows as a Markdown table."""
    lines = [HEADER, ["---"] * len(HEADER), *(cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
