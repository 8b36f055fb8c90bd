"""Small pictures with something in them that a few numbers can say, and options that learn it in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = ["--side", "16", "--network.width", "16", "--network.depth", "1", "--network.latent", "4", "--batch", "8",
         "--optim.lr", "5e-3", "--threads", "1", "--previews", "1", "--precision", "fp32", "--snapshots", "0",
         "--held-out", "0.25"]  # fmt: skip


def pictures(folder: Path, count: int, side: int = 16) -> Path:
    """Two colours that meet at a line, each picture its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    down, right = np.mgrid[:side, :side] / side - 0.5
    for number in range(count):
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.2, 0.2)
        colours = rng.integers(0, 256, (2, 3))
        where = (np.cos(angle) * down + np.sin(angle) * right > offset)[..., None]
        Image.fromarray(np.where(where, *colours).astype(np.uint8)).save(folder / f"{number:03d}.png")
    return folder
