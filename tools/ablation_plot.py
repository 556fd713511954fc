"""The plot of tools/ablation.py: top-1 and relative error against the speedup, a curve for every method."""

from pathlib import Path
from typing import Any

from ablation_tables import Row
from scoring import warn

COLOURS = (*(f"C{i}" for i in range(10)), "navy", "gold")
MARKERS, STROKES = "osD^v<>", ("-", "--", "-.")


def plot(rows: list[Row], original_top1: float, file: Path) -> None:
    """Draw a curve for every method that was measured at two speedups or more."""
    try:
        import matplotlib
    except ImportError:
        warn("no plot: install matplotlib")
        return
    matplotlib.use("agg")  # draws into a file and needs no screen
    from matplotlib import pyplot

    figure, (accuracy, error) = pyplot.subplots(1, 2, figsize=(12, 5))
    for number, (method, points) in enumerate(curves(rows).items()):
        macs = [row.conv_macs for row in points]
        accuracy.plot(macs, [100 * row.top1 for row in points], label=method, **style(number))
        error.plot(macs, [row.relative_error for row in points], **style(number))
    accuracy.axhline(100 * original_top1, color="black", linestyle=":", label="original")
    accuracy.set_ylabel("top-1, %")
    error.set_ylabel("relative error")
    error.set_yscale("log")
    for axes in (accuracy, error):
        axes.set_xlabel("conv MACs before / after")
        axes.grid(alpha=0.3)
    figure.subplots_adjust(wspace=0.25)
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, fontsize=8)
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def curves(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows of every method with at least two, from the fewest MACs saved on."""
    points: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.combination.method, row.conv_macs)):
        points.setdefault(row.combination.method, []).append(row)
    return {method: own for method, own in points.items() if len(own) > 1}


def style(number: int) -> dict[str, Any]:
    """Return the looks of a curve; beyond twelve, curves share a colour, and markers and strokes tell them apart."""
    shape = {"marker": MARKERS[number % len(MARKERS)], "linestyle": STROKES[number % len(STROKES)]}
    return {"color": COLOURS[number % len(COLOURS)], "markersize": 5, "linewidth": 1.4, **shape}
