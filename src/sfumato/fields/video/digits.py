"""Films made here: digits of scikit-learn that bounce in a square, whose motion is known exactly (after Moving MNIST, Srivastava
et al. 2015, arXiv 1502.04681)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sfumato.errors import needed

SIDE, DIGIT = 48, 16
SPEEDS = {"slowly": 2, "fast": 4}
WAYS = {"right and down": (1, 1), "left and down": (-1, 1), "right and up": (1, -1), "left and up": (-1, -1)}
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def bounced(start: int, step: int, count: int, room: int) -> np.ndarray:
    """Places of something that starts at ``start``, moves by ``step`` a frame and is thrown back by the ends 0 and ``room``."""
    far = np.mod(start + step * np.arange(count), 2 * room)
    return np.where(far > room, 2 * room - far, far)


def digits(count: int, frames: int, seed: int = 0, held_out: bool = False) -> tuple[np.ndarray, list[str]]:
    """So many films (count, frames, 48, 48, 3) of bytes, and a caption for each: "a seven moving fast, right and down". The
    pictures of digits with numbers that divide by 7 are for films that are held out."""
    bunch = needed("sklearn.datasets", "video").load_digits()
    own = np.flatnonzero((np.arange(len(bunch.target)) % 7 == 0) == held_out)
    chance, room = np.random.default_rng([seed, int(held_out)]), SIDE - DIGIT
    x, texts = np.zeros((count, frames, SIDE, SIDE), np.uint8), []
    for row in range(count):
        which = int(chance.choice(own))
        shape = np.kron(bunch.images[which] / 16 * 255, np.ones((2, 2))).astype(np.uint8)
        speed, way = (str(chance.choice(list(names))) for names in (SPEEDS, WAYS))
        start = chance.integers(0, room + 1, 2)
        columns, rows = (bounced(int(start[i]), WAYS[way][i] * SPEEDS[speed], frames, room) for i in (0, 1))
        for number, (left, top) in enumerate(zip(columns, rows)):
            x[row, number, top : top + DIGIT, left : left + DIGIT] = shape
        texts.append(f"a {NAMES[int(bunch.target[which])]} moving {speed}, {way}")
    return np.repeat(x[..., None], 3, -1), texts


def write(folder: Path, count: int, frames: int, rate: float, seed: int) -> Path:
    """Films as .mp4 with their captions in metadata.jsonl."""
    from sfumato.fields.video.writing import film

    x, texts = digits(count, frames, seed)
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for number, (clip, text) in enumerate(zip(x, texts)):
            name = f"{number:05d}.mp4"
            film(clip, rate, folder / name)
            file.write(json.dumps({"file_name": name, "text": text}) + "\n")
    return folder
