"""Clips as a person sees them: frames side by side on a sheet, with their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 16
"""Frames of a film on a sheet, at most: of a longer one so many, evenly."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A clip, bytes (F, H, W, 3), frames a second, and what it was drawn for."""

    frames: np.ndarray
    rate: float
    prompt: str = ""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Its frames."""
        return np.array(self.frames, dtype=dtype, copy=copy)


def sheet(things: Sequence[Shown], least: int = 900, words: bool = True) -> Image:
    """A row for each clip, its words above, a column for each frame."""
    from PIL import Image as pil
    from PIL import ImageDraw, ImageFont

    columns = min(COLUMNS, max(len(thing.frames) for thing in things))
    height, width = things[0].frames.shape[1:3]
    factor = max(1, round(least / (columns * (width + 2))))
    told = words and any(thing.prompt for thing in things)
    font, deep = ImageFont.load_default(12), 16 if told else 2
    step = height * factor + deep
    canvas = pil.new("RGB", (columns * (width * factor + 2), len(things) * step), "white")
    draw = ImageDraw.Draw(canvas)
    for row, thing in enumerate(things):
        count = len(thing.frames)
        chosen = np.arange(count) if count <= columns else np.linspace(0, count - 1, columns).round().astype(int)
        for column, place in enumerate(chosen):
            pixels = pil.fromarray(thing.frames[place])
            large = pixels.resize((width * factor, height * factor), pil.Resampling.NEAREST)
            canvas.paste(large, (column * (width * factor + 2), row * step + deep))
        if told:
            text = thing.prompt
            while text and font.getlength(text) > canvas.width - 8:
                text = text[:-8].rstrip() + "..." if len(text) > 12 else ""
            draw.text((2, row * step + 1), text.encode("ascii", "replace").decode(), fill="black", font=font)
    return canvas
