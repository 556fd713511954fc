"""Options that go together for a place where the result will run, and what to know there.

``tensorrt`` is for engines in half precision, ``tensorrt-int8`` for quantised ones.

* Form: the channel form alone. Its k×k convolution is one for which GPU libraries have their fastest kernels, and a
  chain of two keeps a GPU busier than one of three. Y. He, X. Zhang and J. Sun (Channel Pruning for Accelerating Very
  Deep Neural Networks, ICCV 2017) measured 1.55× for it and 0.96× for the 3D form, on VGG-16 at 4× fewer MACs with
  cuDNN.
* Rank multiple: tensor cores take half precision in groups of 8 channels, and TensorRT packs 32 channels of 8 bits
  together; an incomplete group is filled up with zeros and takes as long as a full one.
* Opset and open shapes stay as they are, as everything about a model's interface does; where TensorRT would stumble
  over them that is said, with what to do.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.options import DEFAULTS, Options

STANDS_FOR: Mapping[str, Mapping[str, Any]] = {
    "tensorrt": {"form": "channel", "rank_multiple": 8},
    "tensorrt-int8": {"form": "channel", "rank_multiple": 32},
}
"""Values of ``Options`` by the preset's name."""

LOWEST_OPSET, HIGHEST_OPSET = 9, 25
"""What the parser of TensorRT 11 reads (NVIDIA TensorRT documentation, ONNX Opset Guide)."""


def completed(options: Options) -> Options:
    """The options, with those that stand at their default as the preset wants them."""
    wanted = STANDS_FOR.get(options.preset or "", {})
    return replace(options, **{k: v for k, v in wanted.items() if getattr(options, k) == getattr(DEFAULTS, k)})


def advice(
    preset: str | None, opset: int, specs: tuple[TensorSpec, ...], shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """What to know before the model goes where the preset is for; nothing without a preset.

    Parameters
    ----------
    preset
        Its name.
    opset
        Of ONNX's own domain.
    specs, shapes
        The model's inputs, and the shapes of one sample of them.
    """
    if preset is None:
        return []
    said = []
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        said.append(
            f"the model has opset {opset}, and TensorRT 11 reads {LOWEST_OPSET} to {HIGHEST_OPSET}: export it again, "
            "or convert it with onnx.version_converter before you compress it"
        )
    unfixed = [spec for spec in specs if spec.shape is None or not all(isinstance(side, int) for side in spec.shape)]
    if unfixed:
        given = ",".join(f"{_quoted(spec.name)}:{'x'.join(map(str, shapes[spec.name]))}" for spec in unfixed)
        said.append(
            f"TensorRT builds an engine for given shapes, and the model leaves some open: say them to trtexec, for one "
            f"sample of the data as --optShapes={given}"
        )
    return said


def _quoted(name: str) -> str:
    """A name as trtexec wants it."""
    return f"'{name}'" if ":" in name else name
