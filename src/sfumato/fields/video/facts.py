"""What a run knows of its clips, kept in data.json. Needs neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.jobs import facts


@dataclass(frozen=True)
class ClipFacts(facts.Facts):
    """What is known of clips.

    mean, spread: of all their numbers, raw (black -1, white 1); where the camera stands still (``still``) the spread around the
    mean frame. size: (height, width); frames: of a clip; rate: frames a second.
    count, held: clips to learn from and held out; films: that they were cut from; padded: clips that are shorter and filled up.
    patch: which divides the size. shift: of the schedule. encoder: what reads the words; vocab: its tokens, 0 where states are
    given; width: of a given state, 0 where it is trained; both 0 where there are no words. tokens: of the longest caption.
    distinct: words. checksum: of an encoder that is not trained. how: where captions stand. examples: some held-out captions.
    source: a hash of all of it. said: what else there is to say.
    """

    mean: float
    spread: float
    size: tuple[int, int]
    frames: int
    rate: float
    count: int
    held: int
    films: int
    padded: int
    patch: int
    shift: float
    encoder: str
    vocab: int
    width: int
    tokens: int
    distinct: int
    checksum: str
    how: str
    examples: tuple[str, ...]
    source: str
    said: tuple[str, ...] = ()
    still: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a clip: (frames, 3, height, width)."""
        return (self.frames, 3, *self.size)

    @property
    def worded(self) -> bool:
        """Whether there are words."""
        return bool(self.vocab or self.width)

    def words(self) -> list[str]:
        """The data in lines."""
        height, width = self.size
        short = f", {self.padded:,} of them shorter and filled up" if self.padded else ""
        told = (
            f"{self.distinct:,} distinct words from {self.how}, read by "
            + (f"an encoder of its own with {self.vocab:,} pieces" if self.vocab else self.encoder)
            if self.worded
            else "no words"
        )
        return [
            f"{self.count:,} clips of {self.frames} frames of {height}x{width} at {self.rate:g} a second to learn from, "
            f"{self.held:,} held out, cut from {self.films:,} films{short}",
            told,
            *self.said,
        ]

    def values(self) -> list[str]:
        """Its numbers, for `sfumato inspect`."""
        shifted = f", shift {self.shift:.3g}" if abs(self.shift - 1) > 1e-9 else ""
        around = " around the mean frame" if self.still else ""
        return [f"values    mean {self.mean:.3f}, spread {self.spread:.3f}{around} (black -1, white 1){shifted}"]
