"""The baseline that needs no model and no protein: conformers laid over a known pose of the nearest ligand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sfumato.fields.docking.asking import Case
from sfumato.fields.docking.sdf import posed


def overlay(case: Case, first: int = 0, last: int = 1) -> np.ndarray | None:
    """The conformer that lies best over any of the known poses from the ``first`` nearest to before the ``last``, (N, 3) in the
    receptor's frame; None where none is known.

    Shape and pharmacophore Tanimoto (of the 2024 alignment of PubChem's shapes in RDKit) count alike.
    """
    best, found = -1.0, None
    for template, _ in case.templates[first:last]:
        assert template.places is not None
        reference = posed(template, template.places)
        for conformer in case.conformers.numpy():
            shape, colour, places = laid(reference, posed(case.ligand, conformer))
            if shape + colour > best:
                best, found = shape + colour, places
    return found


def laid(reference: Any, probe: Any) -> tuple[float, float, np.ndarray]:
    """A molecule laid over another: Tanimoto of shape and of pharmacophores, both as important, and the places (N, 3)."""
    from rdkit.Chem import rdShapeAlign

    shape, colour = rdShapeAlign.AlignMol(reference, probe, useColors=True, opt_param=0.5)
    return shape, colour, np.array(probe.GetConformer().GetPositions())


def overlays(cases: Sequence[Case], references: int = 1) -> list[np.ndarray | None]:
    """That of each case, with a progress bar."""
    from sfumato.training.progress import Watch

    found = []
    with Watch("overlay", len(cases), unit="ligands") as watch:
        for done, case in enumerate(cases):
            found.append(overlay(case, 0, references))
            watch.show(done + 1)
    return found
