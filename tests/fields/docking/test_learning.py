"""One complex learned by heart: poses drawn for it lie as near to the crystal as its conformers can."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.diffusion import Denoiser, loss
from sfumato.diffusion.grids import uniform
from sfumato.diffusion.rng import Streams
from sfumato.diffusion.sample import Euler, sample
from sfumato.fields.docking.batching import BLANK, Pocket, Shape, rows_of
from sfumato.fields.docking.coding import CODINGS
from sfumato.fields.docking.kin import Kin
from sfumato.fields.docking.network import PoseNetwork
from sfumato.fields.docking.options import DockingMethod
from sfumato.fields.docking.pose import UNIT, Joints
from sfumato.fields.docking.preparing import match
from sfumato.fields.docking.symmetry import apart, rmsd, symmetries
from tests.fields.docking import worlds


@pytest.mark.slow
@pytest.mark.trained
def test_one_complex_is_learned_by_heart() -> None:
    ligand = worlds.posed("CC(=O)OCCc1ccncc1", "one", 3)
    assert ligand.places is not None
    found, joints = match(ligand, 4), Joints.of(ligand.mol)
    K, m = found["torsions"].shape
    shape = Shape.of(len(ligand), m, 0)
    chance = np.random.default_rng(0)
    pocket = Pocket(np.arange(8), 6 * chance.normal(size=(8, 2, 3)).astype(np.float32), np.ones(8, dtype=bool))
    condition = rows_of(shape, [(ligand, joints, each) for each in found["conformers"]], [pocket] * K, [BLANK] * K,
                        [Kin.of(ligand, [], np.zeros(3))] * K)  # fmt: skip
    torsions = torch.zeros(K, shape.torsions)
    torsions[:, :m] = torch.from_numpy(found["torsions"])
    x = {
        "centre": torch.from_numpy(found["centre"]) / UNIT,
        "turn": torch.from_numpy(found["turn"]),
        "torsions": torsions,
    }
    coding, process = CODINGS["heat"], DockingMethod().build()
    torch.manual_seed(0)
    network = PoseNetwork(width=48, depth=2, heads=4)
    denoiser, optimizer = Denoiser(network, process), torch.optim.AdamW(network.parameters(), lr=3e-3)
    steps, copies = 500, 6
    many = {name: {key: value.repeat(copies, *[1] * (value.ndim - 1)) for key, value in part.items()}
            for name, part in condition.items()}  # fmt: skip
    xs = {name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in x.items()}
    draws = torch.Generator().manual_seed(1)
    for step in range(steps):
        t = torch.rand(K * copies, generator=draws)
        value = loss(denoiser, xs, t, draws, weight=coding.weight(many["ligand"]), **many).mean()
        optimizer.zero_grad()
        value.backward()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20) * min(1, 2 - 2 * step / steps)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    rng = Streams(5, range(len(xs["centre"])))
    drawn = sample(denoiser, process.prior(xs, rng), uniform(process.schedule, 20), Euler(eta=1.0), rng, **many)
    places = coding.places(drawn, many["ligand"])[:, : len(ligand)].double().numpy()
    ways = symmetries(ligand.mol)
    far, first = rmsd(places, ligand.places, ways), int(apart(places, ways).mean(1).argmin())
    assert far[first] - found["left"][first % K] < 0.5  # of what most samples agree on
    assert np.median(far) < 1
    assert (far < 2).mean() > 0.9
