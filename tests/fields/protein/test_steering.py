"""Samples drawn towards contacts, with a known answer; and residues that are held where a structure has them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.cli import main
from sfumato.data.atoms import Atoms, read_structure, write_structure
from sfumato.diffusion.exact import finite_data
from sfumato.diffusion.process import Endpoints
from sfumato.errors import Wrong
from sfumato.fields.protein.alphabet import ATOMS, ELEMENTS
from sfumato.fields.protein.data import padded
from sfumato.fields.protein.holding import span
from sfumato.fields.protein.queries import Sequences
from sfumato.fields.protein.sequences import numbered, of_run
from sfumato.fields.protein.steering import SLACK, Potentials, steered
from sfumato.jobs.model import Model, load
from sfumato.metrics.superpose import fit, rmsd
from tests.fields.protein.folds import backbone, rotation
from tests.fields.protein.test_truths import Shaped, asked


class Residues(Shaped):
    """An exact denoiser of flat vectors, shown residues."""

    def __call__(self, x_t: Tensor, t: Tensor, s: Any = None, *, given: Any = None, **known: Any) -> Endpoints:
        ends = self.data(x_t.flatten(1).double(), t)
        return Endpoints(*(each.view_as(x_t).to(x_t.dtype) for each in ends))


def test_the_reward_counts_what_is_beyond_its_bound() -> None:
    ca = torch.tensor([[[0.0, 0, 0], [3.0, 0, 0], [7.0, 0, 0], [7.0, 1.2, 0]]])
    assert float(Potentials.of(("1:3:8",), False, 4).reward(ca)) == 0
    assert float(Potentials.of(("1:3:6",), False, 4).reward(ca)) == pytest.approx(-0.5 * (1.0 / SLACK) ** 2)
    assert float(Potentials(no_clash=True).reward(ca)) == 0  # 1.2 A, but neighbours
    close = ca.clone()
    close[0, 3] = torch.tensor([3.0, 1.2, 0])
    assert float(Potentials(no_clash=True).reward(close)) == pytest.approx(-0.5 * (2.0 / SLACK) ** 2)


@pytest.mark.parametrize("text", ["1:2", "0:4:5", "1:9:5", "2:2:5", "1:2:-3", "a:b:c", "1:2:nan"])
def test_contacts_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(Wrong, match="contact = "):
        Potentials.of((text,), False, 8)


def test_steered_samples_have_the_shares_that_the_reward_gives(model: Model) -> None:
    """Two structures as the whole of the data, equally likely; in one a distance is 0.5 A beyond its bound, which costs half
    a unit: their shares are 1 and exp(-1 / 2)."""
    rng = np.random.default_rng(0)
    one = asked(12)
    stored = np.stack([backbone(rng.uniform(-150, -50, 12), rng.uniform(-60, 160, 12)) for _ in range(2)])
    stored -= stored.mean((1, 2), keepdims=True)
    flat = torch.zeros(2, padded(12), 12, dtype=torch.float32)
    flat[:, :12] = torch.from_numpy(stored).flatten(2) / model.facts.scale
    ends = [float(np.linalg.norm(each[0, 1] - each[9, 1])) for each in stored]
    near, far = (0, 1) if ends[0] < ends[1] else (1, 0)
    bound = ends[far] - 0.5
    assert ends[near] < bound
    exact: Any = Residues(finite_data(flat.flatten(1).double(), process=model.process), 0)
    knowing = dataclasses.replace(model, denoiser=exact)
    towards = Potentials.of((f"1:10:{bound}",), False, 12)
    queries = Sequences([one], 1500, potentials=towards, scale=model.facts.scale)
    x = steered(knowing, one, queries.batch([0]), towards, 1500)
    which = torch.cdist(x.flatten(1), flat.flatten(1)).argmin(1)
    wanted = math.exp(-0.5) / (1 + math.exp(-0.5))
    assert float((which == far).float().mean()) == pytest.approx(wanted, abs=0.06)
    free = steered(knowing, one, queries.batch([0]), Potentials(), 1500)
    even = torch.cdist(free.flatten(1), flat.flatten(1)).argmin(1)
    assert float((even == far).float().mean()) == pytest.approx(0.5, abs=0.06)


def test_steering_works_through_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "sample",
        str(run),
        "-n",
        "3",
        "--steps",
        "2",
        "--contact",
        "22:60:9",
        "--no-clash",
        "--out",
        str(tmp_path / "a"),
    ]
    assert main(words) == 0
    assert len(list((tmp_path / "a").glob("*.cif"))) == 3
    assert main([*words[:-1], str(tmp_path / "b"), "--contact", "22:600:9"]) != 0
    assert "must be two places within 1 to" in capsys.readouterr().err


# ---- held ----------------------------------------------------------------------------------------------------------------------


def structure(model: Model, path: Path, chain: int) -> tuple[Path, np.ndarray]:
    """A chain of the run in a file, in a frame of its own."""
    one = of_run(model.companions.store, chain)
    assert one.truth is not None
    rng = np.random.default_rng(3)
    coords = (one.truth.reshape(-1, 3) @ rotation(rng) + 80).astype(np.float32)
    count = len(one)
    atoms = Atoms(coords, ATOMS * count, ELEMENTS * count, np.arange(count).repeat(4), numbered(one.codes, "H"),
                  np.zeros(4 * count, dtype=np.float32))  # fmt: skip
    return write_structure(path, [(1, atoms)]), one.cdr if one.cdr is not None else np.zeros(0)


def test_held_residues_stay_where_the_structure_has_them(run: Path, model: Model, tmp_path: Path) -> None:
    """Whatever frame the file is in: all but the third loop lies on it, to the noise that is left; the loop is drawn."""
    path, cdr = structure(model, tmp_path / "known.cif", 4)
    out = tmp_path / "folds"
    assert main(["sample", str(run), "--hold", str(path), "-n", "2", "--out", str(out)]) == 0
    known = torch.from_numpy(read_structure(path).coords.reshape(-1, 4, 3)).double()
    drawn = torch.from_numpy(read_structure(out / "0000.cif").coords.reshape(-1, 4, 3)).double()
    own = torch.from_numpy(cdr != 3)
    motion = fit(drawn[own].flatten(0, 1), known[own].flatten(0, 1))
    assert float(rmsd(motion(drawn[own].flatten(0, 1)), known[own].flatten(0, 1))) < 0.1
    assert (
        float(rmsd(motion(drawn[~own].flatten(0, 1)), known[~own].flatten(0, 1))) > 1.0
    )  # the network has hardly learned
    whole = load(run).sample(1, hold=path, steps=40)[0]  # in the frame of the run, where the network expects it
    truth = of_run(model.companions.store, 4).truth
    assert truth is not None
    assert float(np.linalg.norm(whole.coords - truth, axis=-1)[cdr != 3].mean()) < 2.0
    few = load(run).sample(1, hold=path, held=("21:25",), steps=40)[0]
    ca = torch.from_numpy(few.coords[20:25]).double().flatten(0, 1)
    assert float(rmsd(fit(ca, known[20:25].flatten(0, 1))(ca), known[20:25].flatten(0, 1))) < 0.1


def test_holding_is_refused_where_it_cannot_be(
    run: Path, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = structure(model, tmp_path / "known.cif", 4)
    for words, said in (
        (["--hold", str(path), "--held", "5:900"], "held = '5:900': must lie within 1 to"),
        (["--held", "5:9"], "given with hold"),
        (["--hold", str(path), "--no-clash"], "left out with contact and no_clash"),
    ):
        assert main(["sample", str(run), *words]) != 0
        assert said in capsys.readouterr().err
    assert span("held", "3", 5) == [2]
    with pytest.raises(Wrong, match="must be a place or two"):
        span("held", "x:3", 5)
