"""Options that suit the runtime that will execute the result, and advice for the way there.

``tensorrt`` is for engines in half precision, ``tensorrt-int8`` for quantised ones. ``ort-cpu`` and ``openvino`` are
for these runtimes on a processor, and matter to ``quantize`` alone (``graph/quantise/target.py``). The first two choose

* the channel form alone. Its k×k convolution is one for which GPU libraries have their fastest kernels, and a chain of
  two convolutions keeps a GPU busier than a chain of three. Y. He, X. Zhang and J. Sun (Channel Pruning for
  Accelerating Very Deep Neural Networks, ICCV 2017) measured 1.55× for it and 0.96× for the 3D form, on VGG-16 at 4×
  fewer MACs with cuDNN;
* a rank multiple. Tensor cores process half precision in groups of 8 channels, and TensorRT packs 32 channels of 8 bits
  together. An incomplete group is padded with zeros and takes as long as a full one.

No preset changes a model's opset or its open shapes. ``advice`` names those at which TensorRT would stumble.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.options import DEFAULTS, Options

PRESET_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "tensorrt": {"form": CHANNEL.name, "rank_multiple": 8},
    "tensorrt-int8": {"form": CHANNEL.name, "rank_multiple": 32},
    "ort-cpu": {},
    "openvino": {},
}
"""The values that each preset gives to fields of ``Options``."""

LOWEST_OPSET, HIGHEST_OPSET = 9, 25
"""The opsets that the parser of TensorRT 11 reads (NVIDIA TensorRT documentation, ONNX Opset Guide)."""


def with_preset(options: Options) -> Options:
    """Return the options with the preset's values in place of those that are at their default."""
    wanted = PRESET_OPTIONS.get(options.preset or "", {})
    return replace(options, **{k: v for k, v in wanted.items() if getattr(options, k) == getattr(DEFAULTS, k)})


def advice(
    preset: str | None, opset: int, specs: tuple[TensorSpec, ...], shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """List what a user should do about the model before the preset's runtime can read it.

    Parameters
    ----------
    preset
        The preset's name; without a preset there is no advice.
    opset
        The model's opset of the default ONNX domain.
    specs
        The model's inputs.
    shapes
        The shape of one sample of every input, by the input's name.
    """
    if preset not in ("tensorrt", "tensorrt-int8"):
        return []
    messages = []
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        messages.append(
            f"the model has opset {opset}, and TensorRT 11 reads {LOWEST_OPSET} to {HIGHEST_OPSET}: export it again, "
            "or convert it with onnx.version_converter before you compress it"
        )
    unfixed = [spec for spec in specs if spec.shape is None or not all(isinstance(side, int) for side in spec.shape)]
    if unfixed:
        fixed = ",".join(f"{_quoted(spec.name)}:{'x'.join(map(str, shapes[spec.name]))}" for spec in unfixed)
        messages.append(
            "TensorRT builds an engine for fixed shapes, and the model leaves some open: give them to trtexec; for one "
            f"sample of these data, that is --optShapes={fixed}"
        )
    return messages


def _quoted(name: str) -> str:
    """Quote an input's name for trtexec, which takes a colon for the end of a bare name."""
    return f"'{name}'" if ":" in name else name
