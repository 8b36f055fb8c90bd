"""What a person looks at: poses over their crystal or template, RMSD by rank, confidence, similarity; data before training."""

from __future__ import annotations

from collections.abc import Sequence
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

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4))
    n = min(len(each.rmsd) for each in judged)
    counts = np.arange(1, n + 1)
    left.plot(
        counts,
        [np.mean([each.drawn[:k].min() < 2 for each in judged]) for k in counts],
        color=OTHER,
        label="best of N drawn",
    )
    left.plot(
        counts,
        [np.mean([each.rmsd[:k].min() < 2 for each in judged]) for k in counts],
        color=MINE,
        label="among the first N ranked",
    )
    left.axhline(
        np.mean([each.overlay < 2 for each in judged]), color=TRUE, linestyle="--", label="overlay on the nearest pose"
    )
    left.set(xlabel="poses", ylabel="share within 2 A", ylim=(0, 1))
    left.legend(frameon=False)
    sure = np.array([each.sure[0] for each in judged])
    first = np.array([each.rmsd[0] for each in judged])
    if np.isfinite(sure).all():
        middle.scatter(sure, first, s=14, color=MINE)
        middle.set(xlabel="confidence of the first pose", ylabel="its RMSD [A]", yscale="log")
        middle.axhline(2, color=TRUE, linestyle="--")
    else:
        middle.hist(np.minimum(first, 12), bins=24, color=MINE)
        middle.set(xlabel="RMSD of the first pose [A]", ylabel="ligands")
    right.scatter([each.similarity for each in judged], first, s=14, color=MINE)
    right.axhline(2, color=TRUE, linestyle="--")
    right.set(xlabel="similarity to the nearest known pose", ylabel="RMSD of the first pose [A]", yscale="log")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
