"""What a run knows of the pictures that its autoencoder learned from, kept in data.json. Needs neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.jobs import facts


@dataclass(frozen=True)
class CoderFacts(facts.Facts):
    """What is known of the pictures: how many are learned from and held out, their side, and what else there is to say."""

    count: int
    held: int
    side: int
    said: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """The data in lines."""
        return [f"{self.count:,} pictures of {self.side}x{self.side} to learn from, {self.held:,} held out", *self.said]
