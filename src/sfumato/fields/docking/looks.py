"""What a person looks at: poses over their crystal or template, RMSD by rank, confidence, similarity; data before training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.structures import read_structure
from sfumato.errors import DataError
from sfumato.fields.docking.chemistry import EXTRA, Ligand, from_file
from sfumato.fields.docking.complexes import found
from sfumato.jobs.report import Saves

if TYPE_CHECKING:
    from sfumato.fields.docking.asking import Docked, Pose
    from sfumato.fields.docking.companions import Companions
    from sfumato.fields.docking.judged import Judged
    from sfumato.jobs.model import Model

SHOWN = 12
MINE, TRUE, OTHER = "#1f6f8b", "#c1440e", "#8a8f94"


def examined(source: Path) -> tuple[tuple[str, ...], bool]:
    """What is in a folder or table of complexes, in lines, and whether training would start. Raises DataError."""
    complexes = found(source)
    lines, sizes, bad = [], [], 0
    for protein in dict.fromkeys(each.protein for each in complexes[:200]):
        try:
            structure = read_structure(protein, EXTRA)
            lacking = structure.incomplete()
            told = (
                f", {len(lacking)} without all of their atoms ({structure.label(lacking[0])}, ...)" if lacking else ""
            )
            twice = (
                f", {structure.alternates} atoms with other locations (the likeliest is taken)"
                if structure.alternates
                else ""
            )
            left = f"; not read: {', '.join(structure.left[:8])}" if structure.left else ""
            lines.append(f"receptor  {protein.name}: {len(structure)} residues{told}{twice}{left}")
        except DataError as error:
            lines.append(f"broken    {error}")
    for each in complexes:
        try:
            ligand = next(from_file(each.ligand, posed=True), None)
            if not isinstance(ligand, Ligand):
                raise ligand or DataError(f"{each.ligand}: holds no ligand")
            sizes.append(len(ligand))
        except DataError as error:
            bad += 1
            if bad <= 20:
                lines.append(f"broken    {error}")
    said = f", {min(sizes)} to {max(sizes)} heavy atoms" if sizes else ""
    head = f"{len(complexes)} complexes in {source}{said}; {bad} cannot be read"
    return (head, *lines[:60]), len(sizes) >= 2 and bad <= len(complexes) / 2


def _flat(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of places (N, 3), and the two axes (3, 2) that show most of them."""
    middle = places.mean(0)
    _, _, axes = np.linalg.svd(places - middle, full_matrices=False)
    return middle, axes[:2].T


def _sticks(
    axis: Any, ligand: Ligand, places: np.ndarray, middle: np.ndarray, axes: np.ndarray, colour: str, width: float
) -> None:
    flat = (places - middle) @ axes
    for bond in ligand.mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        axis.plot(flat[[i, j], 0], flat[[i, j], 1], color=colour, linewidth=width, solid_capstyle="round")
    for k, atom in enumerate(ligand.mol.GetAtoms()):
        if atom.GetSymbol() != "C":
            axis.text(*flat[k], atom.GetSymbol(), color=colour, fontsize=6, ha="center", va="center",
                      bbox={"boxstyle": "circle,pad=0.05", "facecolor": "white", "edgecolor": "none"})  # fmt: skip


def sheet(companions: Companions, poses: Sequence[Pose], titles: Sequence[str] | None = None) -> Saves:
    """Poses (blue) over the crystal's (red) where it is known, over the template's (grey) where not."""
    shown, store = list(poses)[:SHOWN], companions.store

    def save(path: Path) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        columns = min(4, len(shown))
        figure, grid = plt.subplots(-(-len(shown) // columns), columns, figsize=(3.2 * columns, 3.2 * -(-len(shown) // columns)),
                                    squeeze=False)  # fmt: skip
        for axis in grid.flat:
            axis.set_axis_off()
        for k, (axis, pose) in enumerate(zip(grid.flat, shown)):
            case = pose.case
            truth = None if case.known is None else store.known[case.known].ligand.places
            middle, axes = _flat(pose.places if truth is None else truth)
            if truth is not None:
                _sticks(axis, case.ligand, truth, middle, axes, TRUE, 2.5)
            elif case.templates:
                template = case.templates[case.template(pose.place) or 0][0]
                assert template.places is not None
                _sticks(axis, template, template.places, middle, axes, OTHER, 2.0)
            _sticks(axis, case.ligand, pose.places, middle, axes, MINE, 1.5)
            axis.set_aspect("equal")
            axis.set_title(titles[k] if titles else f"{case.name} {pose.place}", fontsize=7)
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        plt.close(figure)

    return Saves(save)


def pictures(model: Model, queries: Docked, poses: Sequence[Pose], judged: Sequence[Judged]) -> dict[str, Any]:
    """poses.png: first poses over their crystals; docking.png: what was measured."""
    from sfumato.fields.docking.rank import ranked
    from sfumato.jobs.plots import available

    if not available():
        return {}
    chosen = np.unique(np.linspace(0, len(judged) - 1, min(SHOWN, len(judged))).round().astype(int))
    first = [
        ranked(model.companions.ranker, [pose for pose in poses if pose.number // queries.n == k])[0] for k in chosen
    ]
    titles = [f"{judged[k].name}: {judged[k].rmsd[0]:.1f} A, similarity {judged[k].similarity:.2f}" for k in chosen]
    return {
        "poses.png": sheet(model.companions, first, titles),
        "docking.png": Saves(lambda path: _measured(path, judged)),
    }


def _measured(path: Path, judged: Sequence[Judged]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(2, 2, figsize=(11, 8))
    first = np.array([each.rmsd[0] for each in judged])
    _of_many(grid[0, 0], judged)
    _sure(grid[0, 1], np.array([each.sure[0] for each in judged]), first)
    grid[1, 0].scatter([each.agreed for each in judged], first, s=14, color=MINE)
    grid[1, 0].axhline(2, color=TRUE, linestyle="--")
    grid[1, 0].set(xlabel="share of the samples within 2 A of the first pose", ylabel="its RMSD [A]", yscale="log")
    _alike(grid[1, 1], judged)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _of_many(axis: Any, judged: Sequence[Judged]) -> None:
    """How many ligands have a right pose among so many."""
    counts = np.arange(1, min(len(each.rmsd) for each in judged) + 1)
    drawn = [np.mean([each.drawn[:k].min() < 2 for each in judged]) for k in counts]
    ranked = [np.mean([each.rmsd[:k].min() < 2 for each in judged]) for k in counts]
    axis.plot(counts, drawn, color=OTHER, label="best of N drawn")
    axis.plot(counts, ranked, color=MINE, label="among the first N ranked")
    laid = np.mean([each.overlay < 2 for each in judged])
    axis.axhline(laid, color=TRUE, linestyle="--", label="overlay on the nearest pose")
    axis.set(xlabel="poses", ylabel="share within 2 A", ylim=(0, 1))
    axis.legend(frameon=False)


def _sure(axis: Any, sure: np.ndarray, first: np.ndarray) -> None:
    """How often first poses are right, by how sure they were: parts of equal count, and each ligand."""
    if not np.isfinite(sure).all():
        axis.hist(np.minimum(first, 12), bins=24, color=MINE)
        axis.set(xlabel="RMSD of the first pose [A]", ylabel="ligands")
        return
    parts = np.array_split(np.argsort(sure, kind="stable"), min(10, max(2, len(sure) // 6)))
    axis.plot([0, 1], [0, 1], color=OTHER, linestyle=":")
    axis.plot([sure[own].mean() for own in parts], [(first[own] < 2).mean() for own in parts], "o-", color=MINE)
    axis.plot(sure, np.where(first < 2, 1.03, -0.03), "|", color=TRUE)
    axis.set(xlabel="confidence of the first pose", ylabel="share within 2 A", xlim=(0, 1), ylim=(-0.06, 1.06))


def _alike(axis: Any, judged: Sequence[Judged]) -> None:
    """How many first poses are right, and overlays, by similarity to the nearest known pose."""
    from sfumato.fields.docking.judged import BINS

    edges = (0.0, *BINS, 1.01)
    bins = [[each for each in judged if low <= each.similarity < high] for low, high in pairwise(edges)]
    for k, own in enumerate(bins):
        for shift, colour, right in ((-0.2, MINE, [each.rmsd[0] < 2 for each in own]),
                                     (0.2, TRUE, [each.overlay < 2 for each in own])):  # fmt: skip
            axis.bar(k + shift, np.mean(right) if own else 0, width=0.36, color=colour)
    names = [f"{low:g} to {min(high, 1):g}\n({len(own)})" for low, high, own in zip(edges, edges[1:], bins)]
    axis.set_xticks(range(len(bins)), names)
    axis.set(xlabel="similarity to the nearest known pose (ligands)", ylabel="share within 2 A", ylim=(0, 1))
    axis.legend(["first pose", "overlay"], frameon=False)
