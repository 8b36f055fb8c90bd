"""The network of poses: a turned complex has the turned answer, padding is not there, templates matter, and large is built."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.diffusion import Denoiser, hide, tree
from sfumato.diffusion.loss import loss
from sfumato.fields.docking.batching import BLANK, Pocket, Shape, Template, rows_of
from sfumato.fields.docking.chemistry import from_smiles
from sfumato.fields.docking.kin import Kin
from sfumato.fields.docking.network import PoseNetwork
from sfumato.fields.docking.options import DockingMethod
from sfumato.fields.docking.pose import Joints, conformers
from tests.fields.docking import worlds
from tests.fields.docking.test_pose import drawn

CLOSE = 1e-3
"""Of what is a few units long: float32 is carried through a dozen sums."""


def close(a: Tensor, b: Tensor) -> bool:
    """The same to rounding, by the largest of them."""
    return torch.allclose(a, b, rtol=0, atol=CLOSE * max(1.0, float(b.detach().abs().max()) / 3))


def stirred(**options: Any) -> PoseNetwork:
    """A network whose weights say something."""
    torch.manual_seed(0)
    network = PoseNetwork(width=24, depth=2, heads=2, kin=True, **options)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return network.eval()


def rows(smiles: str, shape: Shape | None = None, template: str | None = "CC(=O)Nc1ccc(O)cc1") -> dict[str, Any]:
    """Two rows of one ligand on two conformers, in a pocket, with a template."""
    ligand = from_smiles(smiles)
    joints, made, chance = Joints.of(ligand.mol), conformers(ligand, 2).numpy(), np.random.default_rng(0)
    pocket = Pocket(np.arange(6), chance.normal(size=(6, 2, 3)).astype(np.float32) * 5, np.array([True] * 5 + [False]))
    pose = None if template is None else worlds.posed(template, "t", 0)
    known = BLANK if pose is None else Template.of(ligand, pose, 0.5, np.zeros(3))
    kin = Kin.of(ligand, [] if pose is None else [pose], np.zeros(3))
    shape = shape or Shape.of(len(ligand), len(joints), len(known.places))
    return rows_of(shape, [(ligand, joints, each) for each in made], [pocket] * 2, [known] * 2, [kin] * 2)


def x_for(condition: dict[str, Any], m: int, seed: int = 0) -> dict[str, Tensor]:
    """A pose for each row, with m torsions, padded."""
    x = {name: value.float() for name, value in drawn(2, m, seed).items()}
    more = condition["ligand"]["axes"].shape[1] - m
    return {**x, "torsions": torch.cat((x["torsions"], torch.zeros(2, more)), 1)}


def test_a_turned_complex_has_the_turned_answer() -> None:
    denoiser = Denoiser(stirred(frame="free"), DockingMethod().build())
    condition = rows("CC(=O)OCc1ccncc1")
    m = int(condition["ligand"]["joints"][0].sum())
    x_t, t = x_for(condition, m), torch.full((2,), 0.5)
    R = drawn(1, 0, seed=7)["turn"][0].float()
    turned = {**condition, "pocket": {**condition["pocket"], "places": condition["pocket"]["places"] @ R.T},
              "template": {**condition["template"], "places": condition["template"]["places"] @ R.T},
              "kin": {**condition["kin"], "places": condition["kin"]["places"] @ R.T}}  # fmt: skip
    moved = {**x_t, "centre": x_t["centre"] @ R.T, "turn": R @ x_t["turn"]}
    before, after = denoiser.answer(x_t, t, **condition), denoiser.answer(moved, t, **turned)
    assert close(before["centre"] @ R.T, after["centre"])
    assert close(before["turn"], after["turn"])  # of the body's own frame
    assert close(before["torsions"], after["torsions"])
    assert before["turn"].abs().max() > 1e-3
    ends = denoiser(x_t, t, **condition), denoiser(moved, t, **turned)
    assert torch.allclose(R @ ends[0].x["turn"], ends[1].x["turn"], atol=5 * CLOSE)


@pytest.mark.parametrize("frame", ["free", "receptor"])
def test_how_the_conformer_lies_does_not_enter_the_answer(frame: str) -> None:
    """A conformer given turned by Q, and a turn that undoes it, are the same pose: the same pulls, in another body frame."""
    denoiser = Denoiser(stirred(frame=frame), DockingMethod().build())
    condition = rows("CC(=O)OCc1ccncc1")
    m = int(condition["ligand"]["joints"][0].sum())
    x_t, t = x_for(condition, m), torch.full((2,), 0.3)
    Q = drawn(1, 0, seed=3)["turn"][0].float()
    other = {**condition, "ligand": {**condition["ligand"], "conformer": condition["ligand"]["conformer"] @ Q.T}}
    same = {**x_t, "turn": x_t["turn"] @ Q.T}
    before, after = denoiser.answer(x_t, t, **condition), denoiser.answer(same, t, **other)
    assert close(before["centre"], after["centre"])
    assert close(before["torsions"], after["torsions"])
    assert close(before["turn"] @ Q.T, after["turn"])


def test_a_mirrored_world_has_the_mirrored_answer() -> None:
    """Torques and torsions change sign under reflection where nothing but distances is seen: no hand is preferred."""
    denoiser = Denoiser(stirred(frame="free"), DockingMethod().build())
    condition = rows("CC(=O)OCc1ccncc1")
    m = int(condition["ligand"]["joints"][0].sum())
    x_t, t = x_for(condition, m), torch.full((2,), 0.5)
    M = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    mirrored = {name: {key: value @ M if key in ("places", "conformer") else value for key, value in part.items()}
                for name, part in condition.items()}  # fmt: skip
    flipped = {"centre": x_t["centre"] @ M, "turn": M @ x_t["turn"] @ M, "torsions": -x_t["torsions"]}
    before, after = denoiser.answer(x_t, t, **condition), denoiser.answer(flipped, t, **mirrored)
    assert close(before["centre"] @ M, after["centre"])
    assert close(before["torsions"], -after["torsions"])
    assert close(before["turn"] * torch.tensor([-1.0, -1.0, 1.0]), after["turn"])


@pytest.mark.parametrize("frame", ["free", "receptor"])
def test_what_is_padded_is_not_there(frame: str) -> None:
    network, process = stirred(frame=frame), DockingMethod().build()
    smiles, small = "CC(=O)OCc1ccncc1", rows("CC(=O)OCc1ccncc1")
    m = int(small["ligand"]["joints"][0].sum())
    wide = rows(smiles, Shape(small["ligand"]["there"].shape[1] + 16, small["ligand"]["axes"].shape[1] + 4, 48))
    answers, losses = [], []
    for condition in (small, wide):
        x = x_for(condition, m)
        z = {name: value.float() for name, value in drawn(2, m, 5).items() if name != "turn"}
        z |= {
            "turn": torch.ones(2, 3),
            "torsions": torch.cat((z["torsions"], torch.randn(2, x["torsions"].shape[1] - m)), 1),
        }
        weight = {"torsions": condition["ligand"]["joints"].float()}
        denoiser, t = Denoiser(network, process), torch.tensor([0.2, 0.8])
        answers.append(denoiser.answer(x, t, **condition))
        losses.append(loss(denoiser, x, t, z=z, weight=weight, **condition))
    assert torch.allclose(losses[0], losses[1], atol=1e-5)
    for name in ("centre", "turn"):
        assert torch.allclose(answers[0][name], answers[1][name], atol=1e-5)
    assert torch.allclose(answers[0]["torsions"][:, :m], answers[1]["torsions"][:, :m], atol=1e-5)


def test_a_hidden_template_is_none_and_a_shown_one_is_seen() -> None:
    denoiser = Denoiser(stirred(frame="free"), DockingMethod().build())
    shown = rows("CC(=O)OCc1ccncc1")
    m = int(shown["ligand"]["joints"][0].sum())
    x_t, t = x_for(shown, m), torch.full((2,), 0.5)
    hidden = hide(shown, ["template", "kin"])
    without = rows("CC(=O)OCc1ccncc1", template=None)
    answers = [denoiser.answer(x_t, t, **condition) for condition in (shown, hidden, without)]
    assert torch.allclose(answers[1]["centre"], answers[2]["centre"], atol=1e-5)
    assert not torch.allclose(answers[0]["centre"], answers[1]["centre"], atol=1e-3)


def test_what_depends_on_the_condition_alone_is_made_once() -> None:
    network = stirred(frame="receptor")
    condition = rows("CC(=O)OCc1ccncc1")
    x_t, t = x_for(condition, 3), torch.full((2,), 0.5)
    denoiser = Denoiser(network, DockingMethod().build())
    known = denoiser.given(**condition)
    with_given, without = denoiser.answer(x_t, t, given=known), denoiser.answer(x_t, t, **condition)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(with_given), tree.leaves(without)))
    calls: list[int] = []
    network.context.register_forward_hook(lambda *_: calls.append(1))
    denoiser.answer(x_t, t, given=known)
    assert not calls


def test_the_large_network_is_built_without_memory() -> None:
    with torch.device("meta"):
        network = PoseNetwork(width=512, depth=12, heads=16, frame="free")
    count = sum(weights.numel() for weights in network.parameters())
    assert 20e6 < count < 80e6
    assert next(network.parameters()).is_meta
