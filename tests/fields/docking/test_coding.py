"""What is diffused of a pose, in every coding: a pose goes in and comes out, padding is not there, and torn poses are closed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.cli import main
from sfumato.diffusion import Denoiser, loss
from sfumato.fields.docking.batching import Shape
from sfumato.fields.docking.chemistry import from_smiles
from sfumato.fields.docking.coding import CODINGS, Torsional
from sfumato.fields.docking.options import DockingMethod
from sfumato.fields.docking.pose import Joints, closed, conformers, quads_of, rmsd
from sfumato.jobs.model import load
from tests.fields.docking import worlds
from tests.fields.docking.test_network import CLOSE, rows, stirred, x_for
from tests.fields.docking.test_pose import drawn, stiff

SMILES = "CC(=O)OCCc1ccncc1"


def posed(shape: Shape | None = None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Conditions of two rows, and a pose for each as centre, turn and torsions."""
    condition = rows(SMILES, shape)
    return condition, x_for(condition, int(condition["ligand"]["joints"][0].sum()))


@pytest.mark.parametrize("process", CODINGS)
def test_a_pose_goes_in_and_comes_out(process: str) -> None:
    condition, x = posed()
    coding, body = CODINGS[process], condition["ligand"]
    coded = coding.encode(x, body)
    assert set(coded) == set(coding.parts) == set(DockingMethod(process=process).build().processes)
    assert torch.allclose(coding.places(coded, body), Torsional().places(x, body), atol=1e-4)
    blank = coding.blank(body)
    assert {name: (value.shape, value.dtype) for name, value in blank.items()} == {
        name: (value.shape, value.dtype) for name, value in coded.items()
    }


@pytest.mark.parametrize("process", CODINGS)
def test_what_is_shown_is_where_the_atoms_are(process: str) -> None:
    """The network reads places off what it is shown and its level alone: those of x_t."""
    condition, x = posed()
    coding, body, made = CODINGS[process], condition["ligand"], DockingMethod(process=process).build()
    coded = coding.encode(x, body)
    z = made.prior(coded, torch.Generator().manual_seed(0))
    t = torch.tensor([0.2, 0.7])
    x_t = made.interpolate(coded, z, t)
    shown, level = made.precondition(x_t, t)
    assert torch.allclose(
        coding.places(coding.shown(shown, level), body), coding.places(x_t, body), atol=1e-3, rtol=1e-4
    )


@pytest.mark.parametrize("process", ["fragments", "atoms", "flow"])
def test_padding_and_turning_hold_in_every_coding(process: str) -> None:
    network, made, coding = (
        stirred(frame="free", process=process),
        DockingMethod(process=process).build(),
        CODINGS[process],
    )
    found, answers = [], []
    condition, x = posed()
    small = condition["ligand"]["there"].shape[1]
    for shape in (None, Shape(small + 8, 8, 32)):
        condition, x = posed(shape)
        coded, t = coding.encode(x, condition["ligand"]), torch.tensor([0.3, 0.6])
        z = made.prior(coded, torch.Generator().manual_seed(0))
        z = {name: torch.ones_like(value) for name, value in z.items()}
        found.append(
            loss(Denoiser(network, made), coded, t, z=z, weight=coding.weight(condition["ligand"]), **condition)
        )
    assert torch.allclose(found[0], found[1], rtol=1e-3)
    R = drawn(1, 0, seed=7)["turn"][0].float()
    condition, x = posed()
    for Q in (torch.eye(3), R):
        moved = {**x, "centre": x["centre"] @ Q.T, "turn": Q @ x["turn"]}
        turned = {name: {key: value @ Q.T if key == "places" else value for key, value in part.items()}
                  for name, part in condition.items()}  # fmt: skip
        coded = coding.encode(moved, condition["ligand"])
        answers.append(Denoiser(network, made).answer(coded, torch.full((2,), 0.4), **turned))
    for name, answer in answers[0].items():
        vectors = name in ("centre", "centres", "atoms")
        assert torch.allclose(answer @ R.T if vectors else answer, answers[1][name], atol=5 * CLOSE), name


def test_torn_poses_are_closed_onto_the_conformer() -> None:
    ligand = from_smiles("C[C@H](N)C(=O)OCCc1ccccc1")
    joints, conformer = Joints.of(ligand.mol), conformers(ligand, 1)[0]
    quads, pose = quads_of(ligand.mol, joints), torch.from_numpy(worlds.pose_of(ligand, 4))
    torn = pose + 0.4 * torch.randn(pose.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = closed(conformer, joints, quads, torn)
    for before, after in zip(stiff(ligand, conformer[None].double()), stiff(ligand, whole[None]), strict=True):
        assert torch.allclose(before, after, atol=1e-4)
    assert float(rmsd(whole[None], torn)[0]) < 0.9  # the tear itself is 0.7
    assert float(rmsd(whole[None], pose)[0]) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("process", ["flow", "fragments", "atoms"])
def test_every_coding_goes_through_the_command(process: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--previews", "1", "--steps", "2", "--held-out", "0.3", "--method.process", process, "--out", str(out)]
    assert main(["train", "docking", str(data), *worlds.TRAIN, *words]) == 0
    assert main(["evaluate", str(out), "-n", "2", "--steps", "2"]) == 0
    if process == "flow":
        assert (
            main(
                [
                    "distill",
                    str(out),
                    "--steps",
                    "2",
                    "--threads",
                    "1",
                    "--previews",
                    "0",
                    "--out",
                    str(tmp_path / "map"),
                ]
            )
            == 0
        )
        out = tmp_path / "map"
    poses = load(out).sample(2, ligand=("C[C@H](N)C(=O)OCC",), steps=1)
    for pose in poses:
        conformer = pose.case.conformers[pose.case.conformer(pose.place)][None].double()
        for before, after in zip(
            stiff(pose.case.ligand, conformer), stiff(pose.case.ligand, torch.from_numpy(pose.places)[None])
        ):
            assert torch.allclose(before, after, atol=1e-3)


def test_a_turned_pose_has_turned_pieces_single_atoms_too() -> None:
    condition, x = posed()
    coding, body = CODINGS["fragments"], condition["ligand"]
    assert (body["pieces"].sum(-1) == 1).any()
    R = drawn(1, 0, seed=7)["turn"][0].float()
    before = coding.encode(x, body)
    after = coding.encode({**x, "centre": x["centre"] @ R.T, "turn": R @ x["turn"]}, body)
    real = body["pieces"].any(-1)
    assert torch.allclose((R @ before["turns"])[real], after["turns"][real], atol=1e-3)
    assert torch.allclose(before["centres"][real] @ R.T, after["centres"][real], atol=1e-4)
