"""Pictures with their words below, side by side on one sheet."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from sfumato.jobs.model import Model

LINES = 6
"""Of text below a picture, at most."""
PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L",
                       "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "ı": "i", "đ": "d"})  # fmt: skip


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture, bytes (H, W, 3), and what it was drawn for."""

    pixels: np.ndarray
    prompt: str

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Its pixels: what a picture is where words do not count."""
        return np.array(self.pixels, dtype=dtype, copy=copy)


def as_pictures(model: Model, x: Any) -> Tensor:
    """Drawn numbers (B, ...) in standard units as pictures (B, 3, H, W) from -1 (black) to 1 (white), on the CPU."""
    if model.companions.decoder is not None:
        decoded: Tensor = model.companions.decoder.decode(x)
        return decoded
    pictures: Tensor = (x.float().cpu() * model.facts.spread + model.facts.mean).clamp(-1, 1)
    return pictures


def sheet(things: Sequence[Shown], columns: int | None = None, least: int = 512, gap: int = 8) -> Image:
    """Pictures with what they were drawn for below, enlarged by a whole factor until a row is about ``least`` pixels wide; where
    a column is of one prompt, it stands once, at the foot."""
    from PIL import Image as pil
    from PIL import ImageDraw, ImageFont

    count = len(things)
    columns = columns or max(1, round(count**0.5))
    rows = -(-count // columns)
    height, width = (max(thing.pixels.shape[axis] for thing in things) for axis in (0, 1))
    factor = max(1, round(least / (columns * (width + gap))), round(96 / width))
    height, width = height * factor, width * factor
    points = max(10, min(16, width // 12))
    font, place = ImageFont.load_default(points), int(points * 1.25)
    once = rows > 1 and all(
        len({thing.prompt for thing in things[column::columns]}) == 1 for column in range(min(columns, count))
    )
    texts = [wrapped(written(thing.prompt), width, font.getlength) for thing in things]
    deep = max(map(len, texts)) * place + gap if any(any(text) for text in texts) else 0
    step = height + gap + (0 if once else deep)
    canvas = pil.new("RGB", (columns * (width + gap) + gap, rows * step + gap + (deep if once else 0)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (thing, text) in enumerate(zip(things, texts)):
        row, column = divmod(i, columns)
        left, top = gap + column * (width + gap), gap + row * step
        size = (thing.pixels.shape[1] * factor, thing.pixels.shape[0] * factor)
        canvas.paste(pil.fromarray(thing.pixels).resize(size, pil.Resampling.NEAREST), (left, top))
        if not once or i + columns >= count:
            for number, line in enumerate(text):
                draw.text((left, top + height + 2 + number * place), line, fill="black", font=font)
    return canvas


def written(text: str) -> str:
    """A text in the letters that Pillow's own font has: without accents, and with straight quotes and dashes. What has no such
    letter stays as it is."""
    plain = text.translate(PLAIN)
    return "".join(c for c in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(c))


def wrapped(text: str, width: int, measure: Callable[[str], float]) -> list[str]:
    """At most LINES lines of a text, each as wide as a picture; what does not fit ends in dots."""
    lines: list[str] = [""]
    for word in text.split():
        while measure(word) > width and len(word) > 1:
            word = word[: max(1, int(len(word) * width / measure(word)) - 1)]
        longer = f"{lines[-1]} {word}".strip()
        if measure(longer) <= width:
            lines[-1] = longer
        elif len(lines) == LINES:
            lines[-1] = lines[-1][:-2] + " ..."
            break
        else:
            lines.append(word)
    return lines
