"""Pictures as numbers and as bytes, and many of them side by side on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether items of this shape are grey or colour pictures, (1 or 3, H, W)."""
    return len(shape) == 3 and shape[0] in (1, 3)


def pixels(pictures: np.ndarray) -> np.ndarray:
    """Bytes (..., H, W, C) or (..., C, H, W) -> float32 (..., C, H, W) from -1 (black) to 1 (white)."""
    import numpy as np

    if pictures.shape[-1] in (1, 3):
        pictures = np.moveaxis(pictures, -1, -3)
    return pictures.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_bytes(pictures: np.ndarray) -> np.ndarray:
    """Numbers from -1 (black) to 1 (white), (N, C, H, W) -> picture bytes (N, H, W, 3 or 4) or (N, H, W)."""
    import numpy as np

    picture = np.clip(np.rint((pictures + 1) * 127.5), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return picture if picture.shape[-1] > 1 else picture[..., 0]


def sheet(pictures: Sequence[np.ndarray], columns: int | None = None, gap: int = 2, least: int = 512) -> Image:
    """Pictures of one size, bytes (H, W, 3 or 4) or (H, W), side by side on white, enlarged by a whole factor until about
    ``least`` pixels wide."""
    import numpy as np
    from PIL import Image as pil

    count, (height, width) = len(pictures), pictures[0].shape[:2]
    columns = columns or max(1, round(count**0.5))
    rows = -(-count // columns)
    white = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, *pictures[0].shape[2:]), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        white[top : top + height, left : left + width] = picture
    image = pil.fromarray(white)
    factor = max(1, round(least / image.width))
    return image.resize((image.width * factor, image.height * factor), pil.Resampling.NEAREST)
