"""What a run knows of its chains."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.jobs import facts


@dataclass(frozen=True)
class ProteinFacts(facts.Facts):
    """Counts of chains learned from, held out and kept for the test; their lengths; the frame of their coordinates; and the
    spread of these, in Angstrom, by which they are divided."""

    train: int
    held: int
    test: int
    aside: int
    """Chains of the clusters of the test that are not used at all."""
    clusters: int
    residues: int
    shortest: int
    longest: int
    median: int
    scale: float
    frame: str
    """framework: laid on each other by two framework regions; free: centred alone."""
    broken: int
    """Chains that were left out for a break in the middle."""
    odd: int
    """Chains that were left out as too short or too long."""
    missing: float
    """Share of the backbone atoms that are missing."""

    @property
    def regions(self) -> bool:
        """Whether its chains have regions, and a sequence needs them."""
        return self.frame == "framework"

    def words(self) -> list[str]:
        """The data in lines."""
        left = (
            f"; left out: {self.broken} broken in the middle, {self.odd} too short or long"
            if self.broken + self.odd
            else ""
        )
        kind = "regions of a heavy chain" if self.regions else "no regions"
        return [
            f"{self.train + self.held + self.test + self.aside:,} chains of {self.shortest} to {self.longest} residues (median "
            f"{self.median}), {kind}{left}",
            f"{self.train:,} to learn from, {self.held:,} held out, {self.test:,} kept for the test, of {self.clusters:,} "
            "clusters of which none lies on two sides",
        ]

    def values(self) -> list[str]:
        """Its numbers in lines."""
        return [
            f"{self.residues:,} residues, {100 * self.missing:.2g} % of the backbone atoms missing",
            f"coordinates in the {self.frame} frame, spread {self.scale:.3g} A",
        ]
