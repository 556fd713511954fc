"""Compare integers made by ONNX Runtime's own tool with those of onnx-lowrank, alone and with low rank.

usage: python tools/integers.py [CACHE] [--imagenet FOLDER] [--imagenette FOLDER] [--file NAME=FILE]... [--rows NAMES]
                                [--photos N] [--python INTERPRETER] [--json FILE] [-- OPTIONS]

Networks, pictures and measures are those of tools/networks.py, and so are the arguments. For every network there are
four models: the original; what quantize_static of ONNX Runtime makes of it, after quant_pre_process, with unsigned
activations and signed weights per channel, from the same samples; --quantize int8 --speedup 1; and --quantize int8 with
the row's own speedup. All of them are measured on pictures that took no part, and onnx-lowrank-bench times them in
turns on one and on two threads, in a process of its own. OPTIONS, those of onnx-lowrank, follow the row's own.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measuring
import networks
import onnx
from network_rows import Row, rows
from scoring import warn
from task_pictures import Pictures

from onnx_lowrank.data.draw import Draw
from onnx_lowrank.data.input_shapes import parse_shapes, with_shapes
from onnx_lowrank.data.photos.folder import open_images
from onnx_lowrank.data.photos.preprocess import parse
from onnx_lowrank.graph.files.load import inputs, load
from onnx_lowrank.graph.quantise.opset import with_integers_possible

HEADER = ("network", "measure", "original", "ONNX Runtime's int8", "int8", "low rank and int8", "threads", *("ms",) * 4)


def static(model: Path, out: Path, pictures: Pictures, row: Row) -> None:
    """Quantise a model with ONNX Runtime's own tool on the pictures that calibrate."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    given = [text.partition("=")[2] for text in row.network.options if text.startswith("--input-shapes=")]
    specs = with_shapes(inputs(load(model).proto), parse_shapes(given))
    files = sorted(path for path in pictures.calibration.rglob("*") if path.is_file())
    draw = Draw(pictures.count, warn=warn)
    source, _ = open_images(files, pictures.calibration, specs, parse(row.network.preprocess), draw)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Gives the samples one by one."""

        def __init__(self) -> None:
            self._samples = iter(range(len(source)))

        def get_next(self) -> Any:
            number = next(self._samples, None)
            return None if number is None else source.feeds([number])

    newer, prepared = out.with_suffix(".newer.onnx"), out.with_suffix(".prepared.onnx")
    onnx.save(with_integers_possible(load(model)).proto, newer)  # a scale for each channel needs opset 13
    quant_pre_process(newer, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        out,
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def measure(row: Row, model: Path, pictures: Pictures, options: Sequence[str]) -> dict[str, Any]:
    """Make the models of a network, and measure them."""
    network = row.network
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        others = [folder / f"{which}.onnx" for which in ("static", "alone", "both")]
        data = [f"--data={pictures.calibration}", f"--images={pictures.count}", *network.options, *options]
        # A class that a function holds does not travel, so the row's name stands for it.
        measuring.in_own_process(static_of, model, others[0], pictures, row.name)
        runs = [
            measuring.run_command(model, others[1], *data, "--quantize=int8", "--speedup=1"),
            measuring.run_command(model, others[2], *data, "--quantize=int8", *row.asked),
        ]
        models = [model, *others]
        measures = measuring.in_own_process(networks.judge, models, pictures, network.preprocess, row.name)
        timed = measuring.bench_all(models, str(pictures.calibration), [*network.options, "--threads=1,2"], folder)
    return {
        "row": row.name,
        "measure": network.task.name,
        "measures": list(measures),
        "clock": timed,
        "runs": [{"seconds": run.seconds, "report": run.report} for run in runs],
    }


def static_of(model: Path, out: Path, pictures: Pictures, name: str) -> None:
    """Quantise a model for the row of this name."""
    static(model, out, pictures, rows()[name])


def cells(row: Row, measured: dict[str, Any]) -> list[list[str]]:
    """Return the lines of a network, one for each number of threads."""
    show = row.network.task.show
    lines = []
    for number, setting in enumerate(measured["clock"]):
        times = [f"{model['median_ms']:.3g}" for model in setting["models"]]
        values = [show(value) if number == 0 else "" for value in measured["measures"]]
        label = row.name.partition("@")[0] if number == 0 else ""
        lines.append([label, row.network.task.name if number == 0 else "", *values, str(setting["threads"]), *times])
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks.add_places(parser)
    return parser


def main() -> None:
    own_words, options = measuring.split_options(sys.argv[1:])
    args = _parser().parse_args(own_words)

    def measure_one(row: Row, model: Path, pictures: Pictures) -> tuple[list[list[str]], dict[str, Any]]:
        measured = measure(row, model, pictures, options)
        return cells(row, measured), measured

    networks.measure_rows(args, HEADER, measure_one)


if __name__ == "__main__":
    main()
