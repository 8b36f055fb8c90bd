"""Pictures of backbones: traces of CA over the truth, angles of torsion, predicted against true error, best of N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.fields.protein.geometry import dihedrals

if TYPE_CHECKING:
    from sfumato.fields.protein.queries import Fold

COLOURS = ("#a0aec0", "#2b6cb0", "#38a169", "#dd6b20")
"""Framework and the three loops."""
TRUTH = "#1a202c"


@dataclass(frozen=True, eq=False)
class Traces:
    """A sheet of sequences: the CA traces of their samples, loops in colour, over the truth in black where it is known, seen
    from the side on which the loops lie; and below their torsions."""

    groups: Sequence[Sequence[Fold]]
    titles: Sequence[str] = ()
    suffix: str = ".png"

    def save(self, path: Path) -> None:
        from matplotlib.figure import Figure

        count = len(self.groups)
        figure = Figure(figsize=(3.4 * count, 6.4), layout="constrained")
        axes = figure.subplots(2, count, squeeze=False)
        for k, group in enumerate(self.groups):
            own = [fold for fold in group if not fold.error]
            title = self.titles[k] if self.titles else f"{group[0].asked.name}, {len(own)} sample(s)"
            axes[0, k].set_title(title, fontsize=8, loc="left")
            _traces(axes[0, k], own)
            _torsions(axes[1, k], own)
        figure.savefig(path, dpi=110)


def _traces(axes: Any, group: Sequence[Fold]) -> None:
    axes.set_aspect("equal")
    axes.axis("off")
    if not group:
        return
    truth = group[0].asked.truth
    base = (truth if truth is not None else group[0].coords)[:, 1].astype(np.float64)
    centre = base.mean(0)
    view = np.linalg.svd(base - centre, full_matrices=False)[2][:2]
    for fold in group:
        ca = _onto(fold, base) if truth is not None else fold.coords[:, 1]
        flat = (ca - centre) @ view.T
        for run in _runs(fold.asked.cdr, len(ca)):
            kind = 0 if fold.asked.cdr is None else int(fold.asked.cdr[run.start])
            wide = slice(max(0, run.start - 1), run.stop)
            axes.plot(*flat[wide].T, color=COLOURS[kind], lw=1.1, alpha=0.75, solid_capstyle="round")
    if truth is not None:
        axes.plot(*((base - centre) @ view.T).T, color=TRUTH, lw=1.0)


def _onto(fold: Fold, base: np.ndarray) -> np.ndarray:
    """CA of a sample laid on the truth by the framework, or by all where there are no regions."""
    from sfumato.metrics.superpose import fit

    own = np.ones(len(base), dtype=bool) if fold.asked.cdr is None else fold.asked.cdr == 0
    ca = torch.from_numpy(fold.coords[:, 1].astype(np.float64))
    return fit(ca[own], torch.from_numpy(base[own]))(ca).numpy()


def _runs(cdr: np.ndarray | None, length: int) -> list[slice]:
    if cdr is None:
        return [slice(0, length)]
    first = np.flatnonzero(np.r_[True, cdr[1:] != cdr[:-1]])
    return [slice(int(a), int(b)) for a, b in zip(first, np.r_[first[1:], length])]


def _torsions(axes: Any, group: Sequence[Fold]) -> None:
    for fold, colour, size in [(fold, "#2b6cb0", 3) for fold in group]:
        phi, psi, _ = dihedrals(torch.from_numpy(fold.coords.astype(np.float64)))
        axes.scatter(phi, psi, s=size, color=colour, lw=0, alpha=0.6)
    if group and group[0].asked.truth is not None:
        phi, psi, _ = dihedrals(torch.from_numpy(group[0].asked.truth.astype(np.float64)))
        axes.scatter(phi, psi, s=7, facecolors="none", edgecolors=TRUTH, lw=0.5)
    axes.set_xlim(-180, 180)
    axes.set_ylim(-180, 180)
    axes.set_xticks([-180, 0, 180])
    axes.set_yticks([-180, 0, 180])
    axes.axvline(0, color="#cbd5e0", lw=0.6)
    axes.axhline(0, color="#cbd5e0", lw=0.6)
    axes.set_xlabel("phi", fontsize=8)
    axes.set_ylabel("psi", fontsize=8)


@dataclass(frozen=True, eq=False)
class Errors:
    """Predicted against true error: confidence and lDDT of residues in ten bins with the diagonal, and the same of third
    loops."""

    predicted: np.ndarray
    true: np.ndarray
    bins: Sequence[tuple[float, float, int]]
    curve: Mapping[int, Mapping[str, float]]
    suffix: str = ".png"

    def save(self, path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.6, 3.6), layout="constrained")
        axes = figure.subplots(1, 3)
        for one in axes:
            one.spines[["top", "right"]].set_visible(False)
        axes[0].plot([0, 100], [0, 100], color="#718096", lw=0.8, ls="--")
        axes[0].plot([b[0] for b in self.bins], [b[1] for b in self.bins], marker="o", ms=4, color="#2b6cb0")
        axes[0].set_xlabel("confidence of a residue")
        axes[0].set_ylabel("its lDDT, x 100")
        axes[1].scatter(self.predicted, self.true, s=6, lw=0, alpha=0.6, color="#dd6b20")
        axes[1].set_xlabel("confidence of the third loop")
        axes[1].set_ylabel("its RMSD, A")
        for name, colour in (("mean", "#718096"), ("chosen", "#2b6cb0"), ("best", "#38a169")):
            axes[2].plot(
                list(self.curve), [row[name] for row in self.curve.values()], marker="o", ms=4, color=colour, label=name
            )
        axes[2].set_xlabel("samples a chain")
        axes[2].set_ylabel("RMSD of the third loop, A")
        axes[2].legend(frameon=False, fontsize=8)
        figure.savefig(path, dpi=130)
