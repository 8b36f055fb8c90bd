"""What a run knows of its complexes, kept in data.json. Needs neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.jobs import facts


@dataclass(frozen=True)
class DockingFacts(facts.Facts):
    """Complexes by number: their names, the receptor of each (a number), its target, fold (-1: none) and scaffold, and whether it
    is held out. ``receptors``: names of the files. floor: median RMSD in A of the best conformer matched to each pose; within:
    share of the conformers that lie within 1 A; dropped: conformers farther off than 2 A; left: ligands that cannot be read."""

    names: tuple[str, ...]
    receptor: tuple[int, ...]
    target: tuple[str, ...]
    fold: tuple[int, ...]
    scaffold: tuple[str, ...]
    held: tuple[bool, ...]
    receptors: tuple[str, ...]
    heavy: tuple[int, ...]
    torsions: tuple[int, ...]
    floor: float
    within: float
    conformers: int
    dropped: int
    left: int
    pocket: int
    """Residues of a pocket that are shown."""

    def words(self) -> list[str]:
        """The data in lines."""
        count, held = len(self.names), sum(self.held)
        targets = list(dict.fromkeys(self.target))
        said = f"{len(targets)} targets" if len(targets) > 3 else ", ".join(targets)
        return [
            f"{count:,} poses of {said}, {count - held:,} to learn from and {held:,} held out; {len(set(self.scaffold)):,} "
            f"scaffolds; {min(self.heavy)} to {max(self.heavy)} heavy atoms, "
            f"{min(self.torsions)} to {max(self.torsions)} torsions",
            f"matched conformers ({self.conformers:,}): the best of a ligand {self.floor:.2f} A from its pose (median), "
            f"{100 * self.within:.0f} % within 1 A; {self.dropped} farther than 2 A are left out",
        ]

    def values(self) -> list[str]:
        """A line for each target."""
        return [
            f"{target:<12} {self.target.count(target):>6} poses, "
            f"{sum(h for t, h in zip(self.target, self.held) if t == target)} held out"
            for target in list(dict.fromkeys(self.target))[:30]
        ]
