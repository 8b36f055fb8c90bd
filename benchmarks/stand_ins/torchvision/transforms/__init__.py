"""The transforms that denoising-diffusion-pytorch's folder data set composes, for PIL pictures."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from PIL.Image import Image, Resampling, Transpose

from torchvision.transforms import functional
from torchvision.transforms.functional import to_tensor

__all__ = ["CenterCrop", "Compose", "Lambda", "RandomHorizontalFlip", "Resize", "ToTensor", "functional"]


class Compose:
    """One after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, picture: Any) -> Any:
        for transform in self.transforms:
            picture = transform(picture)
        return picture


class Lambda:
    """Any function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, picture: Any) -> Any:
        return self.function(picture)


Size = int | Sequence[int]
"""A number, or (height, width)."""


class Resize:
    """To (height, width), or the shorter side to a number."""

    def __init__(self, size: Size) -> None:
        self.size = size

    def __call__(self, picture: Image) -> Image:
        if isinstance(self.size, int):
            factor = self.size / min(picture.size)
            width, height = (round(side * factor) for side in picture.size)
        else:
            height, width = self.size
        if (width, height) == picture.size:
            return picture
        return picture.resize((width, height), Resampling.BILINEAR)


class RandomHorizontalFlip:
    """Mirrored half of the time."""

    def __call__(self, picture: Image) -> Image:
        return picture.transpose(Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else picture


class CenterCrop:
    """The (height, width) in the middle; a number stands for a square."""

    def __init__(self, size: Size) -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else size

    def __call__(self, picture: Image) -> Image:
        left, top = (picture.width - self.width) // 2, (picture.height - self.height) // 2
        return picture.crop((left, top, left + self.width, top + self.height))


class ToTensor:
    """float32 (C, H, W) in [0, 1]."""

    def __call__(self, picture: Image) -> Any:
        return to_tensor(picture)
