"""Pictures of chunks for people: samples as fans over what was demonstrated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

INKS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (140, 86, 75), (23, 190, 207))


def fans(
    chunks: Sequence[np.ndarray], truth: Sequence[np.ndarray] | None = None, columns: int | None = None, side: int = 180
) -> Image:
    """Panels of chunks, each (K, horizon, dim) in standard units: two numbers as a path on the plane, others as curves over
    time, all K samples over one another, the demonstrated chunk (horizon, dim) in black."""
    import numpy as np
    from PIL import Image as pil
    from PIL import ImageDraw

    columns = columns or max(1, min(8, round((2 * len(chunks)) ** 0.5)))
    rows, scale = -(-len(chunks) // columns), 2
    sheet = pil.new("RGB", (columns * side * scale, rows * side * scale), "white")
    pen = ImageDraw.Draw(sheet)

    def line(path: np.ndarray, corner: np.ndarray, ink: tuple[int, int, int], width: int) -> None:
        at = [tuple(p) for p in (corner + (np.clip(path, -1.1, 1.1) / 2.3 + 0.5) * side * scale).tolist()]
        pen.line(at, fill=ink, width=width * scale, joint="curve")
        end = at[-1]
        pen.ellipse([end[0] - 2 * scale, end[1] - 2 * scale, end[0] + 2 * scale, end[1] + 2 * scale], fill=ink)

    for i, panel in enumerate(chunks):
        corner = np.array([i % columns, i // columns]) * side * scale
        pen.rectangle([*corner.tolist(), *(corner + side * scale - 1).tolist()], outline=(220, 220, 220))
        dim = panel.shape[-1]
        every = [(chunk, INKS[k % len(INKS)] if dim == 2 else None, 1) for k, chunk in enumerate(panel)]
        every += [] if truth is None else [(truth[i], (0, 0, 0), 2)]
        for chunk, ink, width in every:
            if dim == 2:
                line(chunk, corner, ink or (0, 0, 0), width)
                continue
            time = np.linspace(-1, 1, len(chunk))
            for j in range(dim):
                line(np.stack([time, -chunk[:, j]], 1), corner, ink or INKS[j % len(INKS)], width)
    return sheet.resize((columns * side, rows * side), pil.Resampling.LANCZOS)
