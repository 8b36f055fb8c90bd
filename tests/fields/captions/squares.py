"""Small captioned pictures: a coloured square on white, of which the caption says everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}


def square(number: int, height: int = 16, width: int = 16) -> tuple[np.ndarray, str]:
    """Picture and caption of a number: colour and side of it, and a place that differs from number to number."""
    name, left = list(COLOURS)[number % 4], number // 4 % 2
    picture = np.full((height, width, 3), 255, dtype=np.uint8)
    top, beside = 1 + number // 8 % (height - 8), number // 56 % 3
    start = beside if left else width - 7 + beside - 2
    picture[top : top + 6, start : start + 6] = COLOURS[name]
    return picture, f"a {name} square on the {'left' if left else 'right'}"


def folder(path: Path, count: int = 48, height: int = 16, width: int = 16) -> Path:
    """NAME.png and NAME.txt of so many."""
    path.mkdir(parents=True)
    for number in range(count):
        picture, caption = square(number, height, width)
        Image.fromarray(picture).save(path / f"{number:03d}.png")
        (path / f"{number:03d}.txt").write_text(caption + "\n", encoding="utf-8")
    return path
