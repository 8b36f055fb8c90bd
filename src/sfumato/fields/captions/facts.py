"""What a run knows of its captioned pictures, kept in data.json. Needs neither torch nor numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sfumato.jobs import facts
from sfumato.jobs.latents import Latent


@dataclass(frozen=True)
class CaptionFacts(facts.Facts):
    """What is known of captioned pictures.

    mean, spread: of all their numbers, raw (black -1, white 1). count, held: pictures to learn from and held out; captions: of
    all of them. sizes: (height, width) of the buckets, the commonest first; shares: of the pictures in each. patch: which
    divides them. shift: of the schedule. encoder: what reads the words; vocab: its tokens, 0 where states are given; width: of
    a given state, 0 where it is trained. tokens: of the longest caption, as far as they are kept; cut: the share of captions
    that lost some. distinct: words. hidden: pictures without words. how: where captions stand. examples: some held-out
    captions, for samples that nothing is asked of. source: a hash of all of it. said: what else
    there is to say. checksum: of an encoder that is not trained. latent: the space of an autoencoder in which they are learned
    (`sfumato.jobs.latents.Latent`), where they are.
    """

    mean: float
    spread: float
    count: int
    held: int
    captions: int
    sizes: tuple[tuple[int, int], ...]
    shares: tuple[float, ...]
    patch: int
    shift: float
    encoder: str
    vocab: int
    width: int
    tokens: int
    longest: int
    cut: float
    distinct: int
    hidden: int
    how: str
    examples: tuple[str, ...]
    source: str
    said: tuple[str, ...] = ()
    checksum: str = ""
    latent: dict[str, Any] | None = None

    @property
    def space(self) -> Latent | None:
        """The space of an autoencoder in which they are learned. Raises DataError where it is damaged."""
        return Latent.read(self.latent)

    def learned(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """The shape as networks take it of a picture of a size: that of its code where codes are learned."""
        space = self.space
        return (3, *size) if space is None else space.size(*size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a picture of the commonest size: (3, height, width)."""
        return (3, *self.sizes[0])

    def words(self) -> list[str]:
        """The data in lines."""
        many = f", and {len(self.sizes) - 1} other sizes of about the same area" if len(self.sizes) > 1 else ""
        height, width = self.sizes[0]
        silent = f", {self.hidden:,} without words" if self.hidden else ""
        return [
            f"{self.count:,} pictures of {height}x{width} to learn from{many}, {self.held:,} held out{silent}",
            f"{self.captions:,} captions of {self.distinct:,} distinct words from {self.how}, read by {self.reader}",
            *([] if self.space is None else [self.space.words()]),
            *self.said,
        ]

    @property
    def reader(self) -> str:
        """What reads the words, in words."""
        if self.vocab:
            return f"an encoder of its own with {self.vocab:,} pieces"
        return f"{self.encoder} ({self.width} numbers a token)"

    def values(self) -> list[str]:
        """Its numbers, for `sfumato inspect`."""
        lost = f", {self.cut:.1%} of the captions are cut there" if self.cut else ""
        lines = [
            f"tokens    {self.tokens} of a caption at most{lost}"
            + (f", the longest has {self.longest}" if lost else "")
        ]
        for (height, width), share in zip(self.sizes, self.shares):
            lines.append(f"size      {height}x{width}: {share:.1%} of the pictures")
        shifted = f", shift {self.shift:.3g}" if not math.isclose(self.shift, 1) else ""
        lines.append(f"values    mean {self.mean:.3f}, spread {self.spread:.3f} (black -1, white 1){shifted}")
        return lines
