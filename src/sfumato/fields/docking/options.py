"""The options of docking. Needs neither torch nor numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from sfumato.errors import check
from sfumato.jobs.flags import arg

if TYPE_CHECKING:
    from sfumato.diffusion import Product
    from sfumato.diffusion.couplings import Coupling
    from sfumato.diffusion.times import Times

POSES = 40
"""Poses of a ligand."""


@dataclass(frozen=True)
class PoseNetworkOptions:
    """The network. None means: chosen from the data and the machine."""

    size: Literal["small", "large"] = "small"
    """small: minutes on a CPU; large: 512 wide and 12 deep, for tens of thousands of complexes and an accelerator."""
    width: int | None = None
    """Channels."""
    depth: int | None = None
    """Blocks."""
    heads: int | None = None
    """Heads of attention."""
    frame: Literal["auto", "receptor", "free"] = "auto"
    """receptor: places are shown in the receptor's own frame (few receptors); free: distances alone, so that a turned complex has
    turned poses (many); auto: receptor for up to 4 receptors."""
    kin: bool = True
    """Each atom sees where all known poses have atoms like it."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.width is None or 8 <= self.width <= 4096, "width", "from 8 to 4096"),
            (self.depth is None or 1 <= self.depth <= 64, "depth", "from 1 to 64"),
            (self.heads is None or 1 <= self.heads <= 64, "heads", "from 1 to 64"),
        )


@dataclass(frozen=True)
class DockingMethod:
    """The diffusion method: a pose is the place of its centre, its turn, and its torsions (Corso 2022, arXiv 2210.01776)."""

    process: Literal["heat", "flow", "fragments", "atoms"] = "heat"
    """heat: diffusion by the heat kernels of rotations and angles; flow: flow matching along geodesics, for few steps; fragments:
    rigid pieces between rotatable bonds, each with its own place and turn; atoms: each atom by itself. The last two are closed
    onto the conformer afterwards."""
    centre: tuple[float, float] = (0.05, 3.0)
    """Least and most noise of the centre, in units of 2 A."""
    turn: tuple[float, float] = (0.03, 2.6)
    """... of the turn, in radians; at 2.6 the kernel is within 1 % of the uniform law that samples begin with."""
    torsion: tuple[float, float] = (0.03, 3.14)
    """... of the torsions, in radians."""
    together: float = 1.0
    """Share of the training rows in which all parts share one time; in the others each has its own."""

    def __post_init__(self) -> None:
        for name in ("centre", "turn", "torsion"):
            low, high = getattr(self, name)
            check(self, (0 < low < high < math.inf, name, "two numbers above 0, the second above the first"))
        check(self, (0 <= self.together <= 1, "together", "a share from 0 to 1"))

    def build(self) -> Product:
        """The process."""
        from sfumato.diffusion import EDM, SO3, VE, Gaussian, Geodesic, Heat, Product, Torus

        if self.process == "atoms":
            return Product(atoms=Gaussian(EDM(8e-4, 32.0), predicts="v"))
        if self.process == "fragments":
            return Product(centres=Gaussian(VE(*self.centre), predicts="v"), turns=Heat(SO3(), VE(*self.turn)))
        if self.process == "flow":
            return Product(centre=Gaussian(), turn=Geodesic(SO3()), torsions=Geodesic(Torus()))
        return Product(
            centre=Gaussian(VE(*self.centre), predicts="v"), turn=Heat(SO3(), VE(*self.turn)),
            torsions=Heat(Torus(), VE(*self.torsion)),
        )  # fmt: skip

    def distribution(self) -> Times:
        """Even in t: so in the logarithm of the noise. Of atoms EDM's, in units of their spread."""
        from sfumato.diffusion import LogNormal, PerPart, Uniform

        if self.process == "atoms":
            return LogNormal(-1.2, 1.5)
        return Uniform() if self.together == 1 else PerPart(Uniform(), self.together)

    def dealt(self) -> Coupling:
        """Every sample keeps its noise."""
        from sfumato.diffusion import independent

        return independent

    def learns_weights(self) -> bool:
        """No."""
        return False

    def words(self) -> str:
        """One line about the method."""
        if self.process == "atoms":
            return "diffusion of atoms (EDM), closed onto conformers"
        if self.process == "fragments":
            return "heat diffusion of rigid pieces, closed onto conformers"
        if self.process == "flow":
            return "flow matching of centre, turn and torsions along geodesics"
        return (
            f"heat diffusion of centre ({self.centre[0]:g} to {self.centre[1]:g}), turn ({self.turn[0]:g} to {self.turn[1]:g}) "
            f"and torsions ({self.torsion[0]:g} to {self.torsion[1]:g})"
        )


@dataclass(frozen=True)
class DockingAsk:
    """What is docked, and where."""

    ligand: tuple[str, ...] = ()
    """SMILES, or files (.sdf, .mol, .mol2, .smi), several at once. Without: the first ligand held out."""
    csv: Path | None = None
    """Table of many: complex_name, protein_path, ligand_description, protein_sequence (read and not used)."""
    protein: Path | None = None
    """Receptor, PDB or mmCIF. Without: the run's own."""
    target: str | None = None
    """Whose receptor and site, where the run has several targets."""
    pocket_residues: tuple[str, ...] = ()
    """Where: residues of the pocket, as A:41 A:145; all: the middle of a file that holds a pocket alone."""
    reference: Path | None = None
    """Where: a ligand in the receptor's frame."""
    box: tuple[float, float, float, float, float, float] | None = None
    """Where: centre and sides of a box in A."""
    templates: Path | None = None
    """File or folder of known poses in the receptor's frame, shown to the network; nothing is trained."""
    search: bool = True
    """Where poses are known, two blocks of eight of every five are not drawn by the network but searched for: conformers that
    slide to where the known poses have atoms like theirs."""
    settle: int = 15
    """Steps in which poses that the network has drawn slide downhill on the same potential (0: none)."""
    hydrogens: bool = False
    """Write hydrogens too."""

    def __post_init__(self) -> None:
        where = [name for name in ("pocket_residues", "reference", "box") if getattr(self, name)]
        check(
            self,
            (len(where) <= 1, where[0] if where else "box", "the only one of pocket_residues, reference and box"),
            (self.csv is None or not self.ligand, "csv", "given without ligand"),
            (0 <= self.settle <= 1000, "settle", "from 0 to 1000 steps"),
            (self.box is None or min(self.box[3:]) > 0, "box", "cx cy cz and three sides above 0"),
        )


@dataclass(frozen=True)
class DockingMeasure:
    """How poses are measured."""

    n: Annotated[int, arg(aliases=["-n"])] = POSES
    """Poses of each ligand."""
    cases: int | None = None
    """Ligands at most, evenly spread over those held out (default: all)."""
    overlay: bool = True
    """Beside them the overlay on the nearest known pose, which needs no model and no protein."""

    def __post_init__(self) -> None:
        check(
            self,
            (1 <= self.n <= 10_000, "n", "from 1 to 10000"),
            (self.cases is None or self.cases >= 1, "cases", "at least 1"),
        )
