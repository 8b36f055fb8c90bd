"""One chain learned by heart: the loss, the network and the walk together bring it back, bonds and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.diffusion import Denoiser, Streams, key, remember, sample
from sfumato.diffusion.solvers import Overstep
from sfumato.fields.protein.data import condition
from sfumato.fields.protein.geometry import CA, peptide_share
from sfumato.fields.protein.method import BackboneLoss
from sfumato.fields.protein.network import BackboneNetwork
from sfumato.fields.protein.options import BackboneMethod
from sfumato.fields.protein.recipe import Protein
from sfumato.jobs.walk import grid_of
from sfumato.metrics.superpose import fitted_rmsd
from tests.fields.protein.folds import backbone


@pytest.mark.slow
@pytest.mark.parametrize("free", [False, True])
def test_one_chain_is_learned_by_heart(free: bool) -> None:
    """600 steps on a chain of 30 residues: samples lie within 0.5 A of it after a fit, every peptide bond within 0.2 A of its
    length. Turned at random, where the network must learn what a turn is too, within 2 A after 900 steps; chains of chance are
    8 A apart."""
    rng = np.random.default_rng(0)
    truth = backbone(rng.uniform(-150, -50, 30), rng.uniform(-60, 160, 30))
    truth -= truth.mean((0, 1))
    scale, method = float(np.sqrt((truth**2).mean())), BackboneMethod()
    told = {name: torch.from_numpy(value)[None] for name, value in condition(rng.integers(0, 20, 30), None, 32).items()}
    x = torch.zeros(16, 32, 12)
    x[:, :30] = torch.from_numpy(truth).float().flatten(1) / scale
    weight = torch.zeros_like(x)
    weight[:, :30] = 1
    torch.manual_seed(0)
    network, process = BackboneNetwork(scale=scale, width=64, depth=3, heads=4, trunk=1), method.build()
    criterion = BackboneLoss(scale, method.springs, method.lddt, method.previous, free)
    steps = 900 if free else 600
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    times = method.distribution()
    for step in range(steps):
        rows = Streams(key("heart", step), range(16))
        u = (torch.arange(16) + rows.uniform((16,), torch.float64)) / 16
        given = {name: value.expand(16, *value.shape[1:]) for name, value in network.given(**told).items()}
        terms = criterion(
            Denoiser(network, process), x, times(u, process.schedule).float(), rng=rows, z=process.prior(x, rows), weight=weight,
            given=given, condition={},
        )  # fmt: skip
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum(0).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        pace.step()
    network.eval()
    grid = grid_of(Protein(data=Path("x")).walk(), None)
    made = sample(
        Denoiser(network, process), process.prior(x[:4], Streams(key("draw"), range(4))), grid(process.schedule, 40),
        remember(Overstep()), Streams(key("walk"), range(4)), **{n: v.expand(4, *v.shape[1:]) for n, v in told.items()},
    )  # fmt: skip
    drawn = made[:, :30].unflatten(-1, (4, 3)) * scale
    target = torch.from_numpy(truth).expand(4, -1, -1, -1)
    errors = fitted_rmsd(drawn[:, :, CA], target[:, :, CA])
    assert float(errors.max()) < (2.0 if free else 0.5), errors
    if not free:
        assert float(peptide_share(drawn.double()).min()) == 1
