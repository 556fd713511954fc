"""The JSON report of a real run, field by field."""

import json
from pathlib import Path
from typing import Any

import pytest
from models_for_tests import build, conv, photo, residual, weights

from onnx_lowrank import compress
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import plan_only
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.stages.request import Request

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
    "options": {"*": {str, int, float, bool, None, list, dict}},
    "data": {"description": str, "synthetic": bool, "calibration": int, "validation": int},
    "provider": str,
    "seed": int,
    "macs": {
        "before": int,
        "after": int,
        "conv_before": int,
        "conv_after": int,
        "gemm_before": int,
        "gemm_after": int,
    },
    "speedup": {
        "requested": {*NUMBER, None},
        "macs": float,
        "latency": {
            "before_ms": float,
            "after_ms": float,
            "ratio": float,
            "ratio_low": float,
            "ratio_high": float,
            "confidence": float,
            "rounds": int,
            "batch": int,
            "fresh_process": bool,
        },
    },
    "parameters": [int],
    "outputs": {
        "*": {
            "samples": int,
            "relative_error": float,
            "centred_error": float,
            "centred_low": {float, None},
            "centred_high": {float, None},
            "max_abs_error": float,
            "top1_agreement": {float, None},
            "top1_low": {float, None},
            "top1_high": {float, None},
        }
    },
    "verdict": {str, None},
    "sites": [
        {
            "name": str,
            "form": {str, None},
            "kernel": [int],
            "channels": [int],
            "group": int,
            "transposed": bool,
            "ranks": {"*": int},
            "macs_before": int,
            "macs_after": int,
            "activation": {str, None},
            "shortcut": {str, None},
            "error_linear": {float, None},
            "error_nonlinear": {float, None},
            "kept": bool,
            "reason": str,
            "ms_before": {float, None},
            "ms_after": {float, None},
            "shares_weight_with": [str],
        }
    ],
    "skipped": [{"name": str, "reason": str}],
    "refitted": [
        {
            "name": str,
            "error_before": {float, None},
            "error_after": {float, None},
            "ridge": {float, None},
            "kept": bool,
            "reason": str,
        }
    ],
    "refined": [],
    "integers": {None},
    "widths": [],
    "accuracy": {"samples": int, "before": float, "after": float, "lost": int, "gained": int},
    "cost": {
        "seconds": {"*": float},
        "forward_passes": float,
        "peak_rss_bytes": int,
        "images": int,
        "rows_per_site": int,
    },
    "warnings": [str],
    "rank_multiple": int,
    "latency_plan": {None},
    "importance": {"exponent": float, "weights": {"*": float}, "rehearsals": {"*": float}},
    "tasks": [],
    "labelled": {None},
    "trade_off": {None},
    "fit": {
        "inputs": {
            "*": {"source": str, "preset": {str, None}, "low": {float, None}, "high": {float, None}},
        },
        "conclusion": str,
        "presets": [
            {
                "preset": str,
                "samples": int,
                "divergence": {float, None},
                "contrast": {float, None},
                "dependence": {float, None},
                "confidence": {float, None},
                "information": {float, None},
                "better": bool,
            }
        ],
    },
}


def conforms(value: Any, schema: Any, path: str) -> None:
    """Check a JSON value; ``path`` names it in the message."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), path
        assert "*" in schema or value.keys() == schema.keys(), path
        for key, inner in value.items():
            conforms(inner, schema["*" if "*" in schema else key], f"{path}.{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list), path
        for index, inner in enumerate(value):
            conforms(inner, schema[0], f"{path}[{index}]")
    else:
        kinds = schema if isinstance(schema, set) else {schema}
        assert (type(value) if value is not None else None) in kinds, f"{path} is {value!r}"


def test_the_report_keeps_its_schema() -> None:
    result = compress(MODEL, MODELS / "mnist_calib.npz", images=40, threads=1, test=MODELS / "mnist_test.npz")
    report = json.loads(result.report.to_json())
    conforms(report, SCHEMA, "report")
    assert report["schema"] == 1
    assert report["input"]["bytes"] == MODEL.stat().st_size
    assert report["output"]["bytes"] == result.model.ByteSize()
    assert report["cost"]["images"] == 40 == report["data"]["calibration"] + report["data"]["validation"]
    stages = {"load", "data", "fit", "profile", "widths", "weigh", "plan", "factorise", "validate", "total"}
    assert report["cost"]["seconds"].keys() == stages
    options = report["options"]
    assert options["data"] == str(MODELS / "mnist_calib.npz") and options["plan"] is False
    assert options["preprocess"] is None  # arrays are taken as they are
    sites = {site["name"]: site for site in report["sites"]}
    assert len(sites) == 5 and len(report["skipped"]) == 1
    saved = sum(site["macs_before"] - site["macs_after"] for site in sites.values())
    assert report["macs"]["conv_before"] - report["macs"]["conv_after"] == saved
    assert report["macs"]["before"] - report["macs"]["after"] == saved


def test_a_replayed_plan_asks_for_no_speedup_and_gives_its_reasons() -> None:
    plan = Plan((SitePlan("conv2", "channel", (4,)),))
    report = compress(residual(), photo(1, (6, 3, 12, 10)), plan=plan, threads=1).report
    assert report.speedup.requested is None and report.options["plan"] is True
    assert report.options["data"] == "ndarray"
    assert {site.reason for site in report.sites if site.kept} == {"left alone by the given plan"}


@pytest.mark.parametrize(
    ("form", "multiple", "expected"),
    [
        ("channel", 1, "left alone: the planner reaches the speedup without it"),
        ("channel", 8, "left alone: no rank that is a multiple of 8 saves MACs here"),
        ("spatial", 1, "left alone: the form spatial needs a Conv with a kernel that extends in two directions"),
        ("3d", 1, "left alone: the form 3d needs a Conv with a kernel that extends in two directions"),
        (
            "cp",
            1,
            "left alone: the form cp needs a kernel larger than a pixel, or than the stride of a ConvTranspose",
        ),
    ],
)
def test_a_pointwise_convolution_that_is_left_alone(form: str, multiple: int, expected: str) -> None:
    options = Options(speedup=1, form=form, rank_multiple=multiple, threads=1)
    sites = plan_only(Request(residual(), photo(1, (6, 3, 12, 10)), options=options)).sites
    assert next(site.reason for site in sites if site.name == "shortcut") == expected


def test_a_convolution_too_thin_to_gain() -> None:
    # Rank 1 of 2→1 by 1×1 takes 3 multiply-accumulates a pixel in place of 2.
    stored = {"w1": weights(1, 2, 3, 3, 3), "w2": weights(2, 2, 2, 3, 3), "w3": weights(3, 1, 2, 1, 1)}
    nodes = [conv("conv1", "x", "w1", "a"), conv("conv2", "a", "w2", "b"), conv("thin", "b", "w3", "y", pads=[0] * 4)]
    sites = plan_only(
        Request(build(nodes, stored), photo(1, (6, 3, 12, 10)), options=Options(1.1, threads=1, exclude="conv1"))
    ).sites
    assert [site.reason for site in sites] == ["planned", "left alone: no rank saves MACs here"]
