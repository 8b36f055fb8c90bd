"""Clips of a run, opened again: what `prepare` wrote, and the items that are learned from and held out."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data import DataError
from sfumato.fields.video.facts import ClipFacts
from sfumato.fields.video.units import Units, from_bytes
from sfumato.networks.words import read
from sfumato.training.run import Run

if TYPE_CHECKING:
    from sfumato.networks.words import Told

FRAMES, CLIPS, CAPTIONS = "frames.raw", "clips.npz", "captions.json"


@dataclass(frozen=True, eq=False)
class Stock:
    """What `prepare` wrote, memory-mapped. frames: bytes (F, H, W, 3). told: all captions as the network is told them, None where
    there are no words."""

    facts: ClipFacts
    frames: np.ndarray
    clips: dict[str, np.ndarray]
    captions: list[str]
    names: list[str]
    told: Told | None
    units: Units

    @classmethod
    def open(cls, run: Run, facts: ClipFacts) -> Stock:
        """From the run alone. Raises DataError where something is missing or damaged."""
        try:
            with np.load(run.cache / CLIPS, allow_pickle=False) as stored:
                clips = {name: stored[name] for name in ("first", "count", "film", "seconds", "texts", "part")}
            size = (*facts.size, 3)
            total, rest = divmod((run.cache / FRAMES).stat().st_size, math.prod(size))
            if rest or not total or (len(clips["first"]) and int((clips["first"] + clips["count"]).max()) > total):
                raise ValueError(f"{FRAMES} has not the frames that {CLIPS} names")
            pixels = np.memmap(run.cache / FRAMES, np.uint8, "r", shape=(total, *size))
            said = json.loads((run.cache / CAPTIONS).read_text(encoding="utf-8"))
            captions, names = list(said["captions"]), list(said["names"])
            told = read(run.cache, len(captions)) if facts.worded else None
        except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{run.cache}: the prepared data cannot be read ({error}); train again from the data"
            ) from error
        return cls(facts, pixels, clips, captions, names, told, Units.of(run.path, facts))

    def part(self, number: int) -> Clips:
        """The clips to learn from, 0, each as often as the one with most captions has some; or held out, 1, with their first."""
        of, texts = np.flatnonzero(self.clips["part"] == number), self.clips["texts"]
        most = int((texts[1:] - texts[:-1])[of].max(initial=1)) if number == 0 else 1
        return Clips(self, of, most)


@dataclass(frozen=True, eq=False)
class Clips:
    """Clips ``of`` a stock, each with one of its captions: item k is clip k mod N with its caption k div N, in turn."""

    stock: Stock
    of: np.ndarray
    rounds: int = 1
    buckets: None = None

    def __len__(self) -> int:
        return len(self.of) * self.rounds

    def rows(self, indices: Any) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the clips and of the captions of items (B,)."""
        turn, place = np.divmod(np.asarray(indices, dtype=np.int64), len(self.of))
        clip, texts = self.of[place], self.stock.clips["texts"]
        return clip, texts[clip] + turn % (texts[clip + 1] - texts[clip])

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        """{"x": (B, T, 3, H, W) standard, "weight" (B, T, 1, 1, 1) where clips are filled up, "caption", "caption_mask"}."""
        facts = self.stock.facts
        clip, caption = self.rows(indices)
        found: dict[str, Any] = {"x": self.stock.units.standard(self.pictures(indices)).astype(np.float32)}
        if facts.padded:
            there = np.arange(facts.frames) < self.stock.clips["count"][clip][:, None]
            found["weight"] = there.astype(np.float32)[..., None, None, None]
        if self.stock.told is not None:
            found |= self.stock.told.batch(caption)
        return found

    def bytes(self, indices: Any) -> np.ndarray:
        """Items (B,) as frames, (B, T, H, W, 3) bytes; of a clip that is filled up the last frame stands still."""
        clip, frames = self.rows(indices)[0], self.stock.facts.frames
        first, count = self.stock.clips["first"][clip], self.stock.clips["count"][clip]
        places = first[:, None] + np.minimum(np.arange(frames), count[:, None] - 1)
        return np.asarray(self.stock.frames[places])

    def pictures(self, indices: Any) -> np.ndarray:
        """Items (B,) from -1 (black) to 1 (white), float32 (B, T, 3, H, W)."""
        return from_bytes(self.bytes(indices))

    def caption(self, index: int) -> str:
        """What an item's caption says."""
        return self.stock.captions[int(self.rows([index])[1][0])]

    def name(self, index: int) -> str:
        """The film of an item, and where in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a data set of {len(self)}")
        clip = int(self.rows([index])[0][0])
        return f"{self.stock.names[int(self.stock.clips['film'][clip])]} at {self.stock.clips['seconds'][clip]:.2f} s"
