"""The JSON report of a real run, field by field."""

import json
from pathlib import Path
from typing import Any

from onnx_lowrank import compress

MODELS = Path(__file__).resolve().parents[1] / "models"
MODEL = MODELS / "mnist_vgg.onnx"

# The schema of the report. A list holds the schema of its elements, a set alternatives, a dict with "*" any keys.
NUMBER = {int, float}
FILE = {"path": {str, None}, "sha256": {str, None}, "bytes": int}
SCHEMA: dict[str, Any] = {
    "schema": int,
    "tool": {"name": str, "version": str},
    "input": FILE,
    "output": FILE,
    "options": {"*": {str, int, float, bool, None, list}},
    "data": {"description": str, "synthetic": bool, "calibration": int, "validation": int},
    "provider": str,
    "seed": int,
    "macs": {"before": int, "after": int, "conv_before": int, "conv_after": int},
    "speedup": {
        "requested": NUMBER,
        "macs": float,
        "latency": {"before_ms": float, "after_ms": float, "ratio": float},
    },
    "parameters": [int],
    "outputs": {"*": {"relative_error": float, "max_abs_error": float, "top1_agreement": {float, None}}},
    "sites": [
        {
            "name": str,
            "form": {str, None},
            "kernel": [int],
            "channels": [int],
            "ranks": {"*": int},
            "macs_before": int,
            "macs_after": int,
            "activation": {str, None},
            "error_linear": {float, None},
            "error_nonlinear": {float, None},
            "kept": bool,
            "reason": str,
        }
    ],
    "skipped": [{"name": str, "reason": str}],
    "accuracy": {"samples": int, "before": float, "after": float},
    "cost": {
        "seconds": {"*": float},
        "forward_passes": float,
        "peak_rss_bytes": int,
        "images": int,
        "rows_per_site": int,
    },
    "warnings": [str],
}


def conforms(value: Any, schema: Any, where: str) -> None:
    """Check a JSON value; ``where`` is its path, for the message."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        assert "*" in schema or value.keys() == schema.keys(), where
        for key, inner in value.items():
            conforms(inner, schema["*" if "*" in schema else key], f"{where}.{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for index, inner in enumerate(value):
            conforms(inner, schema[0], f"{where}[{index}]")
    else:
        kinds = schema if isinstance(schema, set) else {schema}
        assert (type(value) if value is not None else None) in kinds, f"{where} is {value!r}"


def test_the_report_keeps_its_schema() -> None:
    result = compress(MODEL, MODELS / "mnist_calib.npz", images=40, threads=1, test=MODELS / "mnist_test.npz")
    report = json.loads(result.report.to_json())
    conforms(report, SCHEMA, "report")
    assert report["schema"] == 1
    assert report["input"]["bytes"] == MODEL.stat().st_size
    assert report["output"]["bytes"] == result.model.ByteSize()
    assert report["cost"]["images"] == 40 == report["data"]["calibration"] + report["data"]["validation"]
    assert {"load", "data", "profile", "plan", "factorise", "validate", "total"} == report["cost"]["seconds"].keys()
    sites = {site["name"]: site for site in report["sites"]}
    assert len(sites) == 5 and len(report["skipped"]) == 1
    saved = sum(site["macs_before"] - site["macs_after"] for site in sites.values())
    assert report["macs"]["conv_before"] - report["macs"]["conv_after"] == saved
    assert report["macs"]["before"] - report["macs"]["after"] == saved
