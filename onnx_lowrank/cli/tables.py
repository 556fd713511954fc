"""The tables of both commands, and numbers as readers like them.

On a terminal a table fits its width. Anywhere else it has its own width, so that no line is folded.
"""

import io
import math
import shutil
from collections.abc import Callable, Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from onnx_lowrank.report.fit_schema import FitReport
from onnx_lowrank.report.latency_schema import LatencyPlanReport, MeasuredReport
from onnx_lowrank.report.output_schema import OutputReport
from onnx_lowrank.report.schema import MacsReport, RefittedReport, Report, SiteReport, SkippedReport
from onnx_lowrank.report.width_schema import WidthReport

NONE = "–"
"""The cell of a value that does not exist."""

WIDEST = 1 << 16
"""More columns than any table has."""

NARROWEST = 120
"""The columns below which a table of layers is unreadable; a narrower terminal folds its lines."""


def one_line(text: str) -> str:
    """Return the text as one line that is safe on a terminal: white space collapsed, control characters escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in " ".join(text.split()))


def _scaled(number: float, base: int, *units: str) -> str:
    for unit in units[:-1]:
        if number < base - 0.5:
            return f"{number:.4g} {unit}".rstrip()
        number /= base
    return f"{number:,.4g} {units[-1]}"


def count(number: int) -> str:
    """Format a number of operations or parameters, for example 15.35 G."""
    return _scaled(number, 1000, "", "k", "M", "G", "T")


def size(number: int) -> str:
    """Format a number of bytes, for example 52.1 MiB."""
    return _scaled(number, 1024, "B", "KiB", "MiB", "GiB")


def duration(seconds: float) -> str:
    """Format a time, for example 31 s or 2 min 5 s."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _change(before: float, after: float, less: str, more: str) -> str:
    if before <= 0 or after <= 0:
        return NONE
    ratio = max(before / after, after / before)
    return "the same" if ratio < 1.005 else f"{ratio:.2f}× {less if after < before else more}"


def speed(ratio: float, low: float, high: float) -> str:
    """Format a speedup with its confidence interval, for example 2.67× faster (2.60 to 2.75)."""
    if ratio < 1:
        # A lower bound that rounding has made 0 leaves open how much slower it is.
        low, high = 1 / high, 1 / low if low else math.inf
    return f"{_change(ratio, 1, 'faster', 'slower')} ({low:.2f} to {'∞' if math.isinf(high) else f'{high:.2f}'})"


def percent(part: float | None) -> str:
    """Format a share, for example 98.5 %."""
    return NONE if part is None else f"{100 * part:.1f} %"


def within(value: str, low: str, high: str) -> str:
    """Format a value with its confidence interval, for example 0.031 (0.028 to 0.034)."""
    return f"{value} ({low} to {high})"


def centred(output: OutputReport) -> str:
    """Format the centred error of an output with its confidence interval."""
    error, low, high = map(_error, (output.centred_error, output.centred_low, output.centred_high))
    return error if output.centred_low is None else within(error, low, high)


def agreement(output: OutputReport) -> str:
    """Format the top-1 agreement of an output, for example 98.0 % of 100 samples (93.0 to 99.4 %)."""
    if output.top1_agreement is None or output.top1_low is None:
        return NONE
    samples = f"{output.samples} sample" + ("s" if output.samples != 1 else "")
    low = percent(output.top1_low).removesuffix(" %")
    return within(f"{percent(output.top1_agreement)} of {samples}", low, percent(output.top1_high))


def _error(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}"


def empty_table(title: str, *columns: str, text: Sequence[str] = ()) -> Table:
    """Make an empty table; the columns that hold text may fold on a narrow terminal, those that hold numbers do not."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        if name in text:
            table.add_column(name, overflow="fold", min_width=min(16, len(name)))
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def costs_table(macs: MacsReport, report: Report | None = None, by_clock: LatencyPlanReport | None = None) -> Table:
    """Compare the costs before and after: the MACs, and everything else that a report holds."""
    table = empty_table("Before and after", "", "before", "after", "change", text=("", "change"))

    def row(label: str, show: Callable[[int], str], costs: tuple[int, int], less: str, more: str) -> None:
        table.add_row(label, *map(show, costs), _change(*costs, less, more))

    row("conv MACs", count, (macs.conv_before, macs.conv_after), "fewer", "more")
    if macs.gemm_before:
        row("fully connected MACs", count, (macs.gemm_before, macs.gemm_after), "fewer", "more")
    row("all MACs", count, (macs.before, macs.after), "fewer", "more")
    if by_clock:
        planned = (by_clock.before_ms, by_clock.predicted_ms)
        table.add_row("planned latency", *(f"{ms:.3g} ms" for ms in planned), _change(*planned, "faster", "slower"))
    if report is None:
        return table
    row("parameters", count, report.parameters, "fewer", "more")
    if report.output:
        row("file size", size, (report.input.bytes, report.output.bytes), "smaller", "larger")
    if latency := report.speedup.latency:
        times = (f"{ms:.3g} ms" for ms in (latency.before_ms, latency.after_ms))
        samples = "one sample" if latency.batch == 1 else f"{latency.batch} samples"
        table.add_row(f"latency of {samples}", *times, speed(latency.ratio, latency.ratio_low, latency.ratio_high))
    if accuracy := report.accuracy:
        points = f"{100 * (accuracy.after - accuracy.before):+.1f} points"
        label = f"top-1 accuracy of {accuracy.samples} samples"
        table.add_row(label, percent(accuracy.before), percent(accuracy.after), points)
    return table


def inputs_table(fit: FitReport) -> Table:
    """List what every input was fed: the source, the preset and the range of values."""
    table = empty_table("Inputs", "input", "samples", "preset", "values", text=("input", "samples", "preset"))
    for name, each in fit.inputs.items():
        values = NONE if each.low is None or each.high is None else f"{each.low:.4g} to {each.high:.4g}"
        table.add_row(one_line(name), each.source, one_line(each.preset or "none: taken as they are"), values)
    return table


def presets_table(fit: FitReport) -> Table:
    """List how well the samples fit the network under every preset that was compared."""
    table = empty_table(
        f"Presets: {one_line(fit.conclusion)}",
        *("preset", "samples", "nats from what\nnormalisations expect", "deviations of\nthe top class"),
        *("information\nin nats", ""),
        text=("preset", ""),
    )
    for each in fit.presets:
        row = (str(each.samples), *map(_error, (each.divergence, each.contrast, each.information)))
        table.add_row(one_line(each.preset), *row, "fits better" if each.better else "")
    return table


def outputs_table(outputs: dict[str, OutputReport]) -> Table:
    """List the errors of every output against the original's."""
    table = empty_table(
        "Outputs against the original's",
        *("output", "centred error", "relative error", "largest difference", "top-1 agreement"),
        text=("output",),
    )
    for name, output in outputs.items():
        errors = (centred(output), _error(output.relative_error), _error(output.max_abs_error))
        table.add_row(one_line(name), *errors, agreement(output))
    return table


def _channels(channels: tuple[int, int], group: int) -> str:
    c, d = channels
    return f"{c}→{d}" if group == 1 else f"{group}·({c // group}→{d // group})"


def sites_table(sites: Sequence[SiteReport]) -> Table:
    """List every eligible layer with its chain, its costs, and its errors on held-out samples."""
    timed = any(site.ms_before is not None for site in sites)
    times = ("ms\nbefore", "ms\nafter") if timed else ()
    table = empty_table(
        "Convolutions" if all(site.kernel for site in sites) else "Convolutions and fully connected layers",
        *("layer", "kernel", "channels", "activation", "form", "ranks", "MACs\nbefore", "MACs\nafter", "", *times),
        *("error\nlinear", "error\nnonlinear", "what happened"),
        text=("layer", "form", "what happened"),
    )
    for site in sites:
        table.add_row(
            one_line(site.name),
            ("×".join(map(str, site.kernel)) or NONE) + (" transposed" if site.transposed else ""),
            _channels(site.channels, site.group),
            " + ".join(filter(None, ("shortcut" if site.shortcut else None, site.activation))) or NONE,
            site.form or NONE,
            ", ".join(map(str, site.ranks.values())) or NONE,
            count(site.macs_before),
            count(site.macs_after),
            percent(site.macs_after / site.macs_before if site.macs_before else None),
            *(_error(time) for time in (site.ms_before, site.ms_after) if timed),
            _error(site.error_linear),
            _error(site.error_nonlinear),
            one_line(site.reason),
            style="dim" if site.kept else "",
        )
    return table


def widths_table(widths: Sequence[WidthReport]) -> Table:
    """List the sets of channels that became fewer."""
    table = empty_table(
        "Channels",
        *("made by", "before", "after", "", "expected\nerror", "read by"),
        text=("made by", "read by"),
    )
    for one in widths:
        if one.after < one.before:
            share = percent(one.after / one.before)
            readers = one_line(", ".join(one.readers))
            table.add_row(one_line(one.name), str(one.before), str(one.after), share, _error(one.error), readers)
    return table


def refitted_table(layers: Sequence[RefittedReport]) -> Table:
    """List the fully connected layers that could be fitted again, with their errors on held-out samples."""
    table = empty_table(
        "Fully connected layers",
        *("layer", "error\nbefore", "error\nafter", "what happened"),
        text=("layer", "what happened"),
    )
    for layer in layers:
        errors = (_error(layer.error_before), _error(layer.error_after))
        table.add_row(one_line(layer.name), *errors, one_line(layer.reason), style="dim" if layer.kept else "")
    return table


def skipped_table(skipped: Sequence[SkippedReport], layers: str = "convolutions") -> Table:
    """List the convolutions or layers that are not eligible, with the reasons."""
    table = empty_table(f"Skipped {layers}", "layer", "reason", text=("layer", "reason"))
    for skip in skipped:
        table.add_row(one_line(skip.name), one_line(skip.reason))
    return table


def measured_table(measured: MeasuredReport) -> Table:
    """List the measured times of the layers."""
    table = empty_table(
        f"Measured milliseconds; the model takes {measured.model_ms:.3g}, the rank step is {measured.rank_multiple}",
        *("layer", "convolution", "as it is", "fastest", "form and ranks", "points"),
        text=("layer", "convolution", "form and ranks"),
    )
    for layer in measured.layers:
        times = (f"{layer.ms:.3g}", f"{layer.fastest_ms:.3g}")
        table.add_row(one_line(layer.name), layer.geometry, *times, layer.fastest, str(layer.points))
    return table


def render(tables: Sequence[Table], stream: TextIO) -> str:
    """Draw tables as text for a stream: in the colours and the width of a terminal, or plain and unfolded."""
    terminal = stream.isatty()
    room = max(shutil.get_terminal_size().columns, NARROWEST) if terminal else WIDEST
    encoding = stream.encoding or "utf-8"
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace", newline="")
    console = Console(
        file=buffer,
        force_terminal=terminal,
        color_system="auto" if terminal else None,
        width=WIDEST,
        # A layer's name may hold [brackets] and :colons:.
        markup=False,
        emoji=False,
        highlight=False,
    )
    for table in tables:
        console.print(table, width=min(room, console.measure(table).maximum))
    buffer.flush()
    text = buffer.detach().getvalue().decode(encoding)
    return text if terminal else "".join(line.rstrip() + "\n" for line in text.splitlines())
