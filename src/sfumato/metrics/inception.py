"""The Inception features of the Frechet inception distance (FID), by the letter.

FID (Heusel et al. 2017) is the Frechet distance in one particular feature space: the 2048 numbers after the last
pooling of the Inception-v3 network (Szegedy et al. 2015, arXiv 1512.00567) that TensorFlow published on 2015-12-05,
shown pictures of 299 x 299. Another network, another resizing or another scale of the input is another number. Here

* the network is that graph, which departs from the paper and from later Inception-v3s in three ways: average pools
  leave padding out of the average, the last block pools by maximum, and there are 1008 classes;
* pictures are rounded to bytes once, at the input, and then resized as clean-fid defines it (Parmar et al. 2022, arXiv
  2104.11222): bicubic with antialiasing on float32 channels, neither rounded nor clipped after;
* bytes become `(v - 128) / 128`, as in the graph.

The weights are not here and are never downloaded: `load` reads a file that you have and verifies its checksum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.metrics.distances import MetricError, checked
from sfumato.metrics.weights import fill, verified

SIDE = 299
WIDTH = 2048
CLASSES = 1008
MOST_BYTES = 2**28  # a larger file is not these weights: it is refused before it is read


class _Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, pad: bool = False):
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _mean_pool(x: Tensor) -> Tensor:
    """3 x 3 means in which padding does not count, as TensorFlow averages."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _max_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


class _Grid35(nn.Module):
    """The blocks at 35 x 35 (figure 5 of the paper): 1x1, 5x5, double 3x3 and pooled branches."""

    def __init__(self, inputs: int, pooled: int):
        super().__init__()
        self.branch1x1 = _Conv(inputs, 64, 1)
        self.branch5x5_1 = _Conv(inputs, 48, 1)
        self.branch5x5_2 = _Conv(48, 64, 5, pad=True)
        self.branch3x3dbl_1 = _Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, pad=True)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, pad=True)
        self.branch_pool = _Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_mean_pool(x))], 1)


class _To17(nn.Module):
    """35 x 35 to 17 x 17 (figure 10)."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3 = _Conv(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, pad=True)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class _Grid17(nn.Module):
    """The blocks at 17 x 17 (figure 6): 7 x 7 convolutions as rows and columns."""

    def __init__(self, inner: int):
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = _Conv(768, 192, 1)
        self.branch7x7_1 = _Conv(768, inner, 1)
        self.branch7x7_2 = _Conv(inner, inner, row, pad=True)
        self.branch7x7_3 = _Conv(inner, 192, column, pad=True)
        self.branch7x7dbl_1 = _Conv(768, inner, 1)
        self.branch7x7dbl_2 = _Conv(inner, inner, column, pad=True)
        self.branch7x7dbl_3 = _Conv(inner, inner, row, pad=True)
        self.branch7x7dbl_4 = _Conv(inner, inner, column, pad=True)
        self.branch7x7dbl_5 = _Conv(inner, 192, row, pad=True)
        self.branch_pool = _Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_mean_pool(x))], 1)


class _To8(nn.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(768, 192, 1)
        self.branch3x3_2 = _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(768, 192, 1)
        self.branch7x7x3_2 = _Conv(192, 192, (1, 7), pad=True)
        self.branch7x7x3_3 = _Conv(192, 192, (7, 1), pad=True)
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], 1)


class _Grid8(nn.Module):
    """The blocks at 8 x 8 (figure 7): branches that end in a row and a column side by side."""

    def __init__(self, inputs: int, maximum: bool):
        super().__init__()
        self.maximum = maximum
        row, column = (1, 3), (3, 1)
        self.branch1x1 = _Conv(inputs, 320, 1)
        self.branch3x3_1 = _Conv(inputs, 384, 1)
        self.branch3x3_2a = _Conv(384, 384, row, pad=True)
        self.branch3x3_2b = _Conv(384, 384, column, pad=True)
        self.branch3x3dbl_1 = _Conv(inputs, 448, 1)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, pad=True)
        self.branch3x3dbl_3a = _Conv(384, 384, row, pad=True)
        self.branch3x3dbl_3b = _Conv(384, 384, column, pad=True)
        self.branch_pool = _Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        pooled = _max_pool(x) if self.maximum else _mean_pool(x)
        return torch.cat([*parts, self.branch_pool(pooled)], 1)


class InceptionV3(nn.Module):
    """The network of 2015-12-05: (N, 3, 299, 299) in [-1, 1] -> (N, 2048), the features before the classifier.

    Parameters are named as in the published state dict, classifier `fc` included, though features do not need it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, pad=True)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b = _Grid35(192, 32)
        self.Mixed_5c = _Grid35(256, 64)
        self.Mixed_5d = _Grid35(288, 64)
        self.Mixed_6a = _To17(288)
        self.Mixed_6b = _Grid17(128)
        self.Mixed_6c = _Grid17(160)
        self.Mixed_6d = _Grid17(160)
        self.Mixed_6e = _Grid17(192)
        self.Mixed_7a = _To8()
        self.Mixed_7b = _Grid8(1280, maximum=False)
        self.Mixed_7c = _Grid8(2048, maximum=True)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6a(x)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7a(x)
        x = self.Mixed_7c(self.Mixed_7b(x))
        return x.mean((2, 3))


def as_bytes(x: Tensor) -> Tensor:
    """Pictures (N, 1 or 3, H, W), uint8 or in [-1, 1], as whole numbers 0 .. 255 in float32, (N, 3, H, W).

    -1 is 0 and 1 is 255; values beyond are clipped, as writing a picture to a file would. Grey becomes three channels.
    Raises MetricError for another shape or integer type, NaN or infinity.
    """
    if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] not in (1, 3) or 0 in x.shape:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise MetricError(f"Inception needs pictures of shape (N, 1 or 3, H, W), not {shape}")
    if x.is_floating_point():
        checked(x.flatten(1), "input")
        x = ((x.detach().double() + 1) * 127.5).round().clamp(0, 255)
    elif x.dtype != torch.uint8:
        raise MetricError(f"Inception needs pictures as uint8 or as floats in [-1, 1], not {x.dtype}")
    return x.float().expand(-1, 3, -1, -1)


@lru_cache(maxsize=16)
def _bicubic(size: int, to: int) -> Tensor:
    """The (to, size) matrix of antialiased bicubic resizing of one axis: Keys' kernel, a = -1/2, as Pillow has it.

    When shrinking, the kernel is widened by the ratio, so that every input pixel counts; at the border the weights that
    are left are scaled to sum to 1.
    """
    ratio = size / to
    width = max(1.0, ratio)
    middle = (torch.arange(to, dtype=torch.float64)[:, None] + 0.5) * ratio
    pixel = torch.arange(size, dtype=torch.float64)[None]
    # The window is a whole number of pixels: those whose centres round into it.
    inside = (pixel >= (middle - 2 * width + 0.5).floor()) & (pixel < (middle + 2 * width + 0.5).floor())
    far = ((pixel + 0.5 - middle) / width).abs()
    near = (1.5 * far - 2.5) * far * far + 1
    tail = ((-0.5 * far + 2.5) * far - 4) * far + 2
    weights = torch.where(far < 1, near, torch.where(far < 2, tail, 0.0)) * inside
    return weights / weights.sum(1, keepdim=True)


def resize(x: Tensor, side: int = SIDE) -> Tensor:
    """Antialiased bicubic resizing of the last two dimensions to `side` x `side`: (..., H, W) -> float32.

    Pillow's `BICUBIC` on mode "F", channel by channel, which is what clean-fid defines: rows first, each pass computed
    in float64 and kept in float32. Values may overshoot; they are neither clipped nor rounded.
    """
    height, width = x.shape[-2:]
    x = x.float()
    if width != side:
        x = (x.double() @ _bicubic(width, side).to(x.device).T).float()
    if height != side:
        x = (_bicubic(height, side).to(x.device) @ x.double()).float()
    return x


@dataclass(frozen=True, eq=False)
class Inception:
    """The FID feature map: pictures (N, 1 or 3, H, W), uint8 or in [-1, 1] -> (N, 2048) float64. From `load`.

    A picture's features do not depend on what else is in its batch, but for rounding.
    """

    network: InceptionV3
    checksum: str  # SHA-256 of the file of weights: what a number computed with them should be cached under
    batch: int = 32  # pictures shown to the network at once

    def __call__(self, x: Tensor) -> Tensor:
        """Raises MetricError for pictures of another shape or integer type, no pictures, NaN or infinity."""
        if isinstance(x, Tensor) and x.dim() == 4 and len(x) == 0:
            raise MetricError("input has 0 sample(s), but this needs at least 1")
        home = next(self.network.parameters()).device
        parts = x.split(self.batch) if isinstance(x, Tensor) and x.dim() > 0 else (x,)
        out = []
        # TF32 would round the products of a GPU to 10 bits and move features in the third digit.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for part in parts:
                shown = (resize(as_bytes(part).to(home)) - 128) / 128
                out.append(self.network(shown).double().to(x.device))
        return torch.cat(out)


def load(
    path: Path | str, checksum: str | None = None, device: torch.device | str = "cpu", most_bytes: int = MOST_BYTES
) -> Inception:
    """The FID feature map with weights from a local file in the safetensors format. Nothing is downloaded.

    They are published for PyTorch (by pytorch-fid) as `pt_inception-2015-12-05-6726825d.pth`, 95,628,359 bytes of SHA-256
    6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2. That is a pickle, which nothing here opens:
    `sfumato.metrics.weights.CONVERT` is the command that makes the file of it.

    Args:
        checksum: the file's SHA-256 in hex, or its first 8 digits or more; None: whatever file it is. What was found stands
            beside the numbers, and numbers of one SHA-256 can be compared.
        device: where the network runs.
        most_bytes: a larger file is refused unread.

    Raises MetricError, in one line, for a file that is missing, too large, of another checksum (it says which was
    found), not of tensors alone, or without exactly the network's parameters.
    """
    path = Path(path)
    content, found = verified(path, checksum, most_bytes, "give the file of Inception weights")
    with torch.device("meta"):
        network = InceptionV3()
    fill(network, path, content)
    return Inception(network.to(device), found)
