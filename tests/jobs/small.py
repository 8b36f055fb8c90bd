"""Tiny data of every kind on disk, and the command called as a user calls it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.cli import main
from tests.training.small import pictures

SMALL = ["--network.width", "32", "--network.depth", "2", "--batch", "8", "--steps", "10", "--previews", "2",
         "--snapshots", "2", "--held-out", "0.4"]  # fmt: skip


def write_pictures(folder: Path, count: int = 60, classes: int = 0, side: int = 12) -> Path:
    """Different pictures as PNG files, in sub-folders named after colours if classes are asked for."""
    for i, item in enumerate(pictures(count, side)):
        place = folder / ("red", "green", "blue")[i % classes] if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(item.transpose(1, 2, 0)).save(place / f"{i:03d}.png")
    return folder


def write_data(kind: str, folder: Path) -> list[str]:
    """The data of one kind; returns the command line's words for it."""
    if kind == "pictures":
        return [str(write_pictures(folder / "photos")), "--side", "8"]
    if kind == "classes":
        return [str(write_pictures(folder / "photos", classes=3)), "--side", "8", "--labels"]
    if kind == "array":
        np.save(folder / "photos.npy", pictures(60, 8))
        return [str(folder / "photos.npy")]
    rng = np.random.default_rng(0)
    np.savez(folder / "vectors.npz", x=rng.normal(3, 2, (80, 6)), labels=np.arange(80) % 2)
    return [str(folder / "vectors.npz"), "--labels"]


def sfumato(*words: object) -> int:
    """The command, in this process."""
    return main([str(word) for word in words])
