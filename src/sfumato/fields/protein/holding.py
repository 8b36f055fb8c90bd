"""Residues of a known structure held where they are while the others are folded: inpainting, in the frame of the run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sfumato.errors import DataError, Wrong
from sfumato.fields.protein.data import Store
from sfumato.fields.protein.regions import lengths, starts
from sfumato.fields.protein.sequences import Asked
from sfumato.metrics.superpose import fit


def span(option: str, text: str, length: int) -> list[int]:
    """The places, counted from 0, that a text names: 26:33, or 52. Raises Wrong."""
    first, colon, last = text.partition(":")
    try:
        begin, end = int(first), int(last if colon else first)
    except ValueError:
        raise Wrong(f"{option} = {text!r}: must be a place or two, as 26:33 or 52") from None
    if not 1 <= begin <= end <= length:
        raise Wrong(f"{option} = {text!r}: must lie within 1 to {length}, the residues of the sequence")
    return list(range(begin - 1, end))


def placed(store: Store, one: Asked, held: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The known coordinates (L, 4, 3) of a structure in the run's frame, and which residues are held (L,) bool. Raises Wrong
    for a run without regions, DataError for missing atoms."""
    if one.cdr is None or not store.facts.regions:
        raise Wrong("hold: needs a run with regions, whose frame is known beforehand; this one is free")
    if one.truth is None:
        raise DataError(f"{one.name}: lacks backbone atoms; a structure that is held must be whole")
    where = np.zeros(len(one), dtype=bool)
    for text in held:
        where[span("held", text, len(one))] = True
    if not held:
        where = one.cdr != 3
    anchor, target = frames(store, one)
    motion = fit(torch.from_numpy(anchor), torch.from_numpy(target))
    known = motion(torch.from_numpy(one.truth).double().reshape(-1, 3)).numpy().reshape(-1, 4, 3)
    return known.astype(np.float32), where


def frames(store: Store, one: Asked) -> tuple[np.ndarray, np.ndarray]:
    """CA of FR2 and FR3 of a structure, and their mean places in the run's frame, over the chains to learn from whose lengths
    are the
    same: (n, 3) each. Raises DataError where there is none."""
    assert one.cdr is not None
    assert one.truth is not None
    own = lengths(one.cdr)[[2, 4]]

    def anchor(ca: np.ndarray, cdr: np.ndarray) -> np.ndarray:
        first = starts(cdr)
        return np.concatenate((ca[first[2] : first[3]], ca[first[4] : first[5]])).astype(np.float64)

    there = []
    for chain in store.part("train").chains:
        rows = store.rows(int(chain))
        if np.array_equal(lengths(store.cdr[rows])[[2, 4]], own) and store.there[rows].all():
            there.append(anchor(store.coords[rows][:, 1], store.cdr[rows]))
    if not there:
        raise DataError(
            f"{one.name}: no training chain has framework regions of its lengths, {own[0]} and {own[1]}; it cannot be placed"
        )
    return anchor(one.truth[:, 1], one.cdr), np.mean(there, 0)
