"""Pictures of failures with Pillow alone: traces over the steps, and a line of numbers over rounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

INKS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280", "#975a16", "#2c7a7b", "#4a5568")
PAPER, INK, QUIET = "#ffffff", "#1a202c", "#a0aec0"
WIDE, HIGH, EDGE = 420, 260, 34


def panel(title: str, lines: Sequence[np.ndarray], bold: Sequence[np.ndarray] = (), ink: str = INKS[0]) -> Image.Image:
    """Lines (T,) over their steps, faint, and bold ones above them; in the units of the numbers."""
    picture = Image.new("RGB", (WIDE, HIGH), PAPER)
    draw = ImageDraw.Draw(picture, "RGBA")
    every = [np.asarray(line, dtype=float) for line in (*lines, *bold)]
    known = np.concatenate([line[np.isfinite(line)] for line in every]) if every else np.zeros(1)
    known = known if len(known) else np.zeros(1)
    low, high = float(known.min()), float(known.max())
    low, high = (low - 1, high + 1) if low == high else (low, high)
    steps = max(max((len(line) for line in every), default=2), 2)

    def place(i: int, value: float) -> tuple[float, float]:
        return EDGE + i * (WIDE - 1.5 * EDGE) / (steps - 1), HIGH - EDGE - (value - low) / (high - low) * (
            HIGH - 2 * EDGE
        )

    draw.rectangle([EDGE, EDGE, WIDE - EDGE / 2, HIGH - EDGE], outline=QUIET)
    for value in (low, high):
        draw.text((2, place(0, value)[1] - 6), f"{value:.3g}", fill=INK)
    if low < 0 < high:
        draw.line([place(0, 0.0), place(steps - 1, 0.0)], fill=QUIET)
    draw.text((EDGE, HIGH - EDGE + 6), "0", fill=INK)
    draw.text((WIDE - EDGE, HIGH - EDGE + 6), str(steps - 1), fill=INK)
    draw.text((EDGE, 8), title, fill=INK)
    for line, strong in [(each, False) for each in lines] + [(each, True) for each in bold]:
        points = [place(i, float(v)) for i, v in enumerate(line) if np.isfinite(v)]
        if len(points) > 1:
            colour = ink if strong else ink + "40"
            draw.line(points, fill=colour, width=3 if strong else 1)
        elif points:
            draw.ellipse([points[0][0] - 3, points[0][1] - 3, points[0][0] + 3, points[0][1] + 3], fill=ink)
    return picture


def sheet(panels: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """Panels side by side, row by row."""
    columns = max(1, min(columns, len(panels)))
    rows = -(-len(panels) // columns)
    whole = Image.new("RGB", (columns * WIDE, rows * HIGH), PAPER)
    for i, each in enumerate(panels):
        whole.paste(each, (i % columns * WIDE, i // columns * HIGH))
    return whole
