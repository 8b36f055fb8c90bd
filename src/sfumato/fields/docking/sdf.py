"""A molecule with places as a record of an SDF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sfumato.fields.docking.chemistry import Ligand, chem


def posed(ligand: Ligand, places: np.ndarray, hydrogens: bool = False) -> Any:
    """The ligand's molecule with places (N, 3), and hydrogens on them if wanted."""
    from rdkit.Geometry import Point3D

    Chem = chem()
    mol = Chem.Mol(ligand.mol)
    mol.RemoveAllConformers()
    own = Chem.Conformer(len(ligand))
    own.Set3D(True)
    for i, place in enumerate(np.asarray(places, dtype=np.float64).tolist()):
        own.SetAtomPosition(i, Point3D(*place))
    mol.AddConformer(own)
    return Chem.AddHs(mol, addCoords=True) if hydrogens else mol


def block(ligand: Ligand, places: np.ndarray, properties: Mapping[str, Any], hydrogens: bool = False) -> str:
    """A record of an SDF file, with properties."""
    from rdkit import rdBase

    with rdBase.BlockLogs():
        text = chem().MolToMolBlock(posed(ligand, places, hydrogens), includeStereo=True)
    title = " ".join(ligand.name.split())[:80]
    lines = "".join(f">  <{name}>\n{' '.join(str(value).split())}\n\n" for name, value in properties.items())
    return f"{title}\n{text.partition(chr(10))[2]}{lines}$$$$\n"
