"""The letters of proteins: the twenty amino acids and X for any other, as numbers 0 to 20."""

from __future__ import annotations

import numpy as np

from sfumato.errors import DataError

LETTERS = "ACDEFGHIKLMNPQRSTVWYX"
UNKNOWN = 20
GLYCINE, PROLINE = LETTERS.index("G"), LETTERS.index("P")
NAMES = (
    "ALA", "CYS", "ASP", "GLU", "PHE", "GLY", "HIS", "ILE", "LYS", "LEU", "MET", "ASN", "PRO", "GLN", "ARG", "SER", "THR",
    "VAL", "TRP", "TYR", "UNK",
)  # fmt: skip
ATOMS = ("N", "CA", "C", "O")
ELEMENTS = ("N", "C", "C", "O")


def encoded(letters: str, place: str) -> np.ndarray:
    """Numbers (L,) int64 of a sequence, in capitals or not. Raises DataError, which names ``place`` and the position of a
    letter that is none."""
    if not letters:
        raise DataError(f"{place}: is empty; give the sequence in one-letter codes, as EVQLVES")
    for at, letter in enumerate(letters.upper()):
        if letter not in LETTERS:
            shown = repr(letters[at])
            raise DataError(
                f"{place}: position {at + 1} is {shown}, which is no amino acid; the letters are {LETTERS[:20]}, and X for "
                "any other"
            )
    return np.array([LETTERS.index(letter) for letter in letters.upper()], dtype=np.int64)


def decoded(codes: np.ndarray) -> str:
    """The letters of numbers (L,)."""
    return "".join(LETTERS[int(code)] for code in codes)
