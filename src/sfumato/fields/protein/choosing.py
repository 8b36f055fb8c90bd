"""Which of several backbones of one sequence to take, and how sure to be, where nothing but the samples is known: by
agreement."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sfumato.fields.protein.geometry import CA
from sfumato.metrics.superpose import lddt

MOST = 64
"""Samples that each is compared with at most, the first ones."""


class Judged(NamedTuple):
    """Of n samples: score (n,), the smaller the better; confidence (n, L) in 0..100; third (n,) that of the third loop, in
    0..100, NaN where there is none."""

    score: Tensor
    confidence: Tensor
    third: Tensor


def medoid(backbones: Tensor, cdr: np.ndarray | None) -> Tensor:
    """How far each of n backbones (n, L, 4, 3) lies from the others, (n,): the mean RMSD of the CA of its third loop after all
    frameworks were laid on the first's, or where there are no regions of all CA after the best fit of each pair."""
    from sfumato.metrics.superpose import fit, fitted_rmsd, rmsd

    ca = backbones[:, :, CA].double()
    others = ca[:MOST]
    if cdr is None:
        return (
            torch.stack([fitted_rmsd(each.expand_as(others), others).mean() for each in ca])
            if len(ca)
            else ca.new_zeros(0)
        )
    frame, loop = torch.from_numpy(cdr == 0), torch.from_numpy(cdr == 3)
    if not len(ca):
        return ca.new_zeros(0)
    moved = fit(ca[:, frame], ca[:1, frame].expand(len(ca), -1, -1))(ca[:, loop])
    return rmsd(moved[:, None], moved[None, :MOST]).mean(1)


def agreed(backbones: Tensor, cdr: np.ndarray | None) -> Judged:
    """By agreement: the medoid first, and as confidence 100 x the mean lDDT of each residue against the other samples. Of one
    sample nothing is known."""
    count, length = backbones.shape[:2]
    nothing = torch.full((count, length), float("nan"), dtype=torch.float64)
    if count < 2:
        return Judged(torch.zeros(count, dtype=torch.float64), nothing, nothing[:, 0])
    ca = backbones[:, :, CA].double()
    others = ca[:MOST]
    sure = []
    for i, each in enumerate(ca):
        keep = torch.arange(len(others)) != i
        sure.append(100 * lddt(each.expand(int(keep.sum()), -1, -1), others[keep]).mean(0))
    confidence = torch.stack(sure)
    loop = None if cdr is None else torch.from_numpy(cdr == 3)
    third = nothing[:, 0] if loop is None else confidence[:, loop].mean(1)
    return Judged(medoid(backbones, cdr), confidence, third)
