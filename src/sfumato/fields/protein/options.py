"""The options of proteins. Needs neither torch nor numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from sfumato.errors import Wrong, check
from sfumato.jobs.flags import arg

if TYPE_CHECKING:
    from sfumato.diffusion import Gaussian
    from sfumato.diffusion.couplings import Coupling
    from sfumato.diffusion.times import Times

LOWEST, HIGHEST = 4e-4, 160.0
"""Noise of AlphaFold 3's schedule, in units of the data's spread."""


@dataclass(frozen=True)
class BackboneOptions:
    """The network. None means: chosen from the machine."""

    size: Literal["auto", "small", "large"] = "auto"
    """small: minutes on a CPU; large: 24 blocks of width 768 with 16 heads, as AlphaFold 3's diffusion transformer has."""
    width: int | None = None
    """Numbers of a token (default: 128; large: 768)."""
    depth: int | None = None
    """Blocks that every noise level passes (default: 6; large: 24)."""
    heads: int | None = None
    """Heads of attention (default: 4; large: 16)."""
    trunk: int | None = None
    """Blocks that see the sequence alone, once a walk (default: 2; large: 8)."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.width is None or 8 <= self.width <= 8192, "width", "from 8 to 8192"),
            (self.depth is None or 1 <= self.depth <= 256, "depth", "from 1 to 256"),
            (self.heads is None or 1 <= self.heads <= 256, "heads", "from 1 to 256"),
            (self.trunk is None or 0 <= self.trunk <= 256, "trunk", "from 0 to 256"),
        )

    def settings(self, device: str) -> dict[str, int]:
        """Width, depth, heads and trunk, with what was left open chosen. Raises Wrong for a width that its heads do not
        share."""
        large = self.size == "large" or (self.size == "auto" and device != "cpu")
        usual = {"width": 768, "depth": 24, "heads": 16, "trunk": 8} if self.size == "large" else (
            {"width": 384, "depth": 12, "heads": 12, "trunk": 4} if large else {"width": 128, "depth": 6, "heads": 4, "trunk": 2}
        )  # fmt: skip
        asked = {name: getattr(self, name) for name in usual}
        chosen = {name: usual[name] if value is None else value for name, value in asked.items()}
        if chosen["width"] % chosen["heads"]:
            raise Wrong(f"network.width = {chosen['width']}: must be divisible by the {chosen['heads']} heads")
        return chosen


@dataclass(frozen=True)
class BackboneMethod:
    """AlphaFold 3's diffusion (Abramson et al. 2024; EDM of Karras et al. 2022): the network answers v, and its plain square is
    EDM's weighting. Times are log-normal in sigma; beside the square stand the springs and a smooth lDDT of the guessed
    backbone.
    """

    times_mean: float = -1.6
    """Mean of ln(sigma) in training, sigma in units of the data's spread (AlphaFold 3: -1.2)."""
    times_std: float = 1.6
    """Spread of the same (AlphaFold 3: 1.5)."""
    springs: float = 0.02
    """Weight of bonds and of distances across angles that are not as in crystals, where sigma is small."""
    lddt: float = 0.2
    """Weight of 1 - lDDT of the guessed CA, smoothed."""
    previous: float = 0.5
    """Share of the training rows that are told the network's own guess, as all are in sampling (0: none is, ever)."""
    copies: int = 2
    """Noise copies of each item, for one pass through what depends on the sequence alone."""
    third: float = 2.0
    """Weight of the third loop in the loss, where there are regions."""

    def __post_init__(self) -> None:
        check(
            self,
            (math.isfinite(self.times_mean), "times_mean", "a finite number"),
            (0 < self.times_std < math.inf, "times_std", "above 0"),
            (0 <= self.springs < math.inf, "springs", "0 or more"),
            (0 <= self.lddt < math.inf, "lddt", "0 or more"),
            (0 <= self.previous <= 1, "previous", "a share from 0 to 1"),
            (1 <= self.copies <= 256, "copies", "from 1 to 256"),
            (0 < self.third < math.inf, "third", "above 0"),
        )

    def build(self) -> Gaussian:
        """The process."""
        from sfumato.diffusion import EDM, Gaussian

        return Gaussian(EDM(LOWEST, HIGHEST), "v")

    def distribution(self) -> Times:
        """Log-normal in sigma."""
        from sfumato.diffusion import LogNormal

        return LogNormal(self.times_mean, self.times_std)

    def dealt(self) -> Coupling:
        """Every sample keeps its noise."""
        from sfumato.diffusion import independent

        return independent

    def learns_weights(self) -> bool:
        """No."""
        return False

    def words(self) -> str:
        """One line about the method."""
        return (
            f"EDM, ln sigma {self.times_mean:g} +- {self.times_std:g}, answers v; springs {self.springs:g}, lDDT {self.lddt:g}, "
            f"{self.copies} noise copies"
        )


@dataclass(frozen=True)
class ProteinAsk:
    """What is folded."""

    sequence: tuple[str, ...] = ()
    """Sequences in one-letter codes (default: the first held-out chain of the run)."""
    cdr: str | None = None
    """Regions of the one sequence, a digit a residue: 0 framework, 1 to 3 the loops (default: found by the nearest known
    chain)."""
    sequences: Path | None = None
    """File of sequences: .fasta, .csv (id, sequence and, if wanted, cdr), .yaml as of Boltz, or a structure, whose numbering is
    kept."""
    chain: tuple[str, ...] = ()
    """Chains of the run's own data, by name."""
    hold: Path | None = None
    """Structure whose sequence is folded while some of its residues are held where they are (only with regions)."""
    held: tuple[str, ...] = ()
    """Which: places in its sequence, counted from 1, as 26:33 52 (default: all but the third loop)."""
    contact: tuple[str, ...] = ()
    """CA that shall be near each other, as 22:96:6 (places and Angstrom at most); samples are drawn by particles, towards
    them."""
    no_clash: bool = False
    """No two CA shall be nearer than 3.2 A, likewise."""
    tidy: bool = False
    """Let bonds and angles relax at the end, no atom by more than 0.15 A (`sfumato evaluate` has both figures)."""

    def __post_init__(self) -> None:
        given = sum(map(bool, (self.sequence, self.sequences, self.chain, self.hold)))
        check(
            self,
            (given <= 1, "sequence", "the only one of sequence, sequences, chain and hold that is given"),
            (not self.held or self.hold is not None, "held", "given with hold, the structure that they are of"),
            (not (self.hold and (self.contact or self.no_clash)), "hold", "left out with contact and no_clash"),
            (
                self.cdr is None or len(self.sequence) == 1,
                "cdr",
                "given with one sequence; in a file it stands beside each",
            ),
        )


@dataclass(frozen=True)
class ProteinMeasure:
    """How backbones are measured."""

    n: Annotated[int, arg(aliases=["-n"])] = 5
    """Samples of each chain, of which one is chosen."""
    on: Literal["test", "val"] = "test"
    """Chains kept for the test, or those held out from training."""
    chains: int | None = None
    """At most so many of them, the first ones (none: all)."""

    def __post_init__(self) -> None:
        check(
            self,
            (1 <= self.n <= 1000, "n", "from 1 to 1000"),
            (self.chains is None or self.chains >= 1, "chains", "at least 1"),
        )
