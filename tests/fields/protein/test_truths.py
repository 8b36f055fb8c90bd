"""What must hold of the network, its loss, its frame and its walk, asked of exact denoisers and of chains that are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.diffusion import Denoiser, Streams, key, sample
from sfumato.diffusion.exact import GaussianData, finite_data
from sfumato.diffusion.solvers import SOLVERS
from sfumato.fields.protein.data import Store, Wanted, condition, prepare
from sfumato.fields.protein.measure import errors
from sfumato.fields.protein.method import BackboneLoss, laid, turned
from sfumato.fields.protein.network import BackboneNetwork
from sfumato.fields.protein.options import BackboneMethod
from sfumato.fields.protein.queries import Sequences
from sfumato.fields.protein.recipe import Protein
from sfumato.fields.protein.sequences import Asked, numbered
from sfumato.fields.protein.template import template
from sfumato.jobs.model import Model
from sfumato.jobs.walk import grid_of, spelt
from sfumato.training.run import Run
from tests.fields.protein.folds import backbone, rotation

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "antibodies"
PROCESS = BackboneMethod().build()


def network(width: int = 16, trained: bool = True) -> BackboneNetwork:
    """A small network; ``trained``: no layer is silent."""
    torch.manual_seed(0)
    made = BackboneNetwork(scale=8.0, width=width, depth=2, heads=2, trunk=1)
    if trained:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return made.eval()


def told(lengths: tuple[int, ...], size: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    items = [condition(rng.integers(0, 21, length), None, size) for length in lengths]
    return {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}


# ---- the denoiser ------------------------------------------------------------------------------------------------------------


def test_an_untrained_network_guesses_as_edm_says() -> None:
    """c_skip = 1 / (1 + sigma^2): nothing of x_t at much noise, all of it at none (Karras 2022, table 1)."""
    denoiser = Denoiser(network(trained=False), PROCESS)
    x_t, known = torch.randn(4, 16, 12), told((16,) * 4, 16)
    for t in (0.02, 0.4, 0.9):
        time = torch.full((4,), t)
        sigma = float(PROCESS.schedule.sigma(torch.tensor(t)))
        assert torch.allclose(denoiser(x_t, time, **known).x, x_t / (1 + sigma**2), atol=1e-5)


def test_without_noise_a_denoiser_returns_what_it_is_shown() -> None:
    denoiser = Denoiser(network(), PROCESS)
    x_t, known = torch.randn(2, 16, 12), told((16, 16), 16)
    assert float((denoiser(x_t, torch.zeros(2), **known).x - x_t).abs().max()) < 0.02
    whole = denoiser(160 * x_t, torch.ones(2), **known).x
    assert float(whole.abs().max()) < 30  # the network's own answer, not the noise


def test_padding_changes_nothing() -> None:
    """The answer of 14 residues is the same in 16 and in 48 places, whatever stands in the padding."""
    net, x = network(), torch.randn(1, 14, 12)
    ends, level = [], torch.tensor([0.3])
    for size, fill in ((16, 0.0), (48, 7.0)):
        shown = torch.full((1, size, 12), fill)
        shown[:, :14] = x
        previous = shown * 0.5
        ends.append(net(shown, level, **net.given(**told((14,), size)), previous=previous)[:, :14])
    assert torch.allclose(ends[0], ends[1], atol=1e-5)


def test_what_depends_on_the_sequence_alone_is_worked_out_once() -> None:
    net, known = network(), told((16, 12), 16)
    x, level = torch.randn(2, 16, 12), torch.tensor([0.3, -2.0])
    given = net.given(**known)
    twice = {name: value.repeat_interleave(2, 0) for name, value in given.items()}
    both = net(x.repeat_interleave(2, 0), level.repeat_interleave(2, 0), **twice)
    assert torch.allclose(both[::2], net(x, level, **given), atol=1e-5)
    other = dict(known, residue=(known["residue"] + 1) % 20)
    assert not torch.allclose(net(x, level, **net.given(**other)), net(x, level, **given), atol=1e-3)


def test_the_last_guess_is_heard_and_zeros_mean_none() -> None:
    net, known = network(), told((16,), 16)
    x, level, given = torch.randn(1, 16, 12), torch.tensor([0.3]), None
    given = net.given(**known)
    without = net(x, level, **given)
    assert torch.allclose(net(x, level, **given, previous=torch.zeros_like(x)), without, atol=1e-6)
    assert not torch.allclose(net(x, level, **given, previous=torch.randn_like(x)), without, atol=1e-3)


# ---- the walk ----------------------------------------------------------------------------------------------------------------


def walked(data: Any, count: int, name: str) -> Tensor:
    """Samples of an exact denoiser by a walk of the field."""
    walk = Protein(data=Path("x")).walk(name)
    chosen = spelt("solver", walk.solver or "", {**SOLVERS, **Protein(data=Path("x")).solvers()})
    times = grid_of(walk, None)(PROCESS.schedule, walk.steps or 1)
    rng = Streams(key("truths"), range(count))
    return sample(data, PROCESS.prior(torch.zeros(count, data.shape, dtype=torch.float64), rng), times, chosen, rng)


def test_the_grid_reaches_the_finest_bonds() -> None:
    """A chain of points whose bonds are a thousandth of its extent: the exact denoiser on the field's grid gives them the
    right mean square to 2 %, and their extent too (variances in a ratio of a million)."""
    n, bond = 24, 1e-3
    variance = torch.full((n,), bond**2, dtype=torch.float64)
    variance[:3] = 1.0
    data = GaussianData(torch.zeros(n, dtype=torch.float64), variance, process=PROCESS)
    data = Shaped(data, n)
    x = walked(data, 6000, "diverse").double()
    assert float(x[:, 3:].square().mean()) == pytest.approx(bond**2 + 4e-4**2, rel=0.02)
    assert float(x[:, :3].square().mean()) == pytest.approx(1.0, rel=0.06)


class Shaped:
    """An exact denoiser that knows its number of coordinates."""

    def __init__(self, data: Any, shape: int):
        self.data, self.shape = data, shape

    @property
    def process(self) -> Any:
        return self.data.process

    def given(self, **known: Any) -> Any:
        return known

    def __call__(self, x_t: Tensor, t: Tensor, s: Any = None, *, given: Any = None, **known: Any) -> Any:
        return self.data(x_t, t)


@pytest.mark.parametrize("name", ["usual", "diverse", "fast"])
def test_stored_structures_come_out(name: str) -> None:
    """Five structures as the whole of the data: every sample is one of them, to a thousandth of an Angstrom beyond the noise
    that the schedule leaves; in equal shares by the walk that keeps the spread."""
    rng = np.random.default_rng(0)
    stored = np.stack([backbone(rng.uniform(-150, -50, 12), rng.uniform(-60, 160, 12)).reshape(-1) for _ in range(5)])
    stored = (
        torch.from_numpy(stored - stored.reshape(5, -1, 3).mean(1)[:, None].repeat(48, 1).reshape(5, -1)).float() / 8
    )
    data = Shaped(finite_data(stored.double(), process=PROCESS), stored.shape[1])
    x = walked(data, 500, name)
    apart = torch.cdist(x, stored.double()) / np.sqrt(48) * 8
    least, which = apart.min(1)
    assert float(least.max()) < 1e-3 + 3 * 8 * 4e-4 * np.sqrt(3)
    count = torch.bincount(which, minlength=5).double()
    if name == "diverse":
        assert float(((count - 100) ** 2 / 100).sum()) < 18.5  # chi-square of 4 degrees, one in a thousand


# ---- the loss ----------------------------------------------------------------------------------------------------------------


class Fixed:
    """A network whose guess of the data is always the same backbone, however noised it is shown."""

    def __init__(self, x: Tensor):
        self.x = x

    def __call__(self, shown: Tensor, level: Tensor, **known: Any) -> Tensor:
        sigma = level.exp()[:, None, None]
        x_t = shown * (1 + sigma**2).sqrt()
        z = (x_t - self.x) / sigma
        return (-sigma * self.x + z) / (1 + sigma**2).sqrt()  # v


def criterion(guess: Tensor, x: Tensor, t: float, free: bool, weight: Tensor | None = None) -> dict[str, Tensor]:
    loss = BackboneLoss(8.0, 0.02, 0.2, 0.0, free)
    z = PROCESS.prior(x, Streams(key("z"), range(len(x)), "cpu"))
    return loss(
        Denoiser(Fixed(guess), PROCESS), x, torch.full((len(x),), t, dtype=x.dtype), rng=Streams(key("q"), range(len(x))), z=z,
        weight=torch.ones_like(x) if weight is None else weight, given={}, condition={},
    )  # fmt: skip


def some(count: int = 3, length: int = 20) -> Tensor:
    rng = np.random.default_rng(0)
    made = [backbone(rng.uniform(-150, -50, length), rng.uniform(-60, 160, length)) for _ in range(count)]
    centred = [x - x.mean((0, 1)) for x in made]
    return torch.from_numpy(np.stack(centred)).flatten(2) / 8


def moved(x: Tensor, seed: int = 0) -> Tensor:
    turn = torch.from_numpy(rotation(np.random.default_rng(seed)))
    return (x.unflatten(-1, (-1, 3)) @ turn).flatten(2)


@pytest.mark.parametrize("t", [0.25, 0.5, 0.8])
def test_the_loss_of_the_free_frame_does_not_see_motions(t: float) -> None:
    """The truth may be turned, and so may a guess that does not look at what it is shown: every term stays."""
    x = some()
    guess = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    plain = criterion(guess, x, t, True)
    for other in (criterion(guess, moved(x), t, True), criterion(moved(guess, 3), x, t, True)):
        for name, value in plain.items():
            assert torch.allclose(other[name], value, rtol=1e-4, atol=1e-7), name
    framed = criterion(moved(guess, 3), x, t, False)
    assert float(framed["square"].sum()) > 2 * float(plain["square"].sum())


def test_a_right_guess_has_no_loss_and_a_wrong_one_has_the_square_of_edm() -> None:
    """EDM's weight: (1 + 1 / sigma^2) times the square of the error in x, the mean over what counts."""
    x = some()
    right = criterion(x, x, 0.5, False)
    assert float(right["square"].max()) < 1e-9
    assert float(right["springs"].max()) < 1e-3
    off, weight = x.clone(), torch.ones_like(x)
    off[:, 4] += 0.01
    off[:, 9] += 100.0
    weight[:, 9] = 0
    sigma = float(PROCESS.schedule.sigma(torch.tensor(0.5)))
    wanted = (1 + 1 / sigma**2) * 0.01**2 * 12 / (19 * 12)
    assert criterion(off, x, 0.5, False, weight)["square"].tolist() == pytest.approx([wanted] * 3, rel=1e-4)


def test_turns_are_proper_even_and_differ_from_row_to_row() -> None:
    x = some(1).expand(400, -1, -1)
    found = turned(x, Streams(key("turn"), range(400)))
    frame, first = found.unflatten(-1, (-1, 3))[:, :3, :3], x.unflatten(-1, (-1, 3))[:, :3, :3]
    inside = [(each.flatten(1, 2)[:, 1:] - each.flatten(1, 2)[:, :-1]).norm(dim=-1) for each in (frame, first)]
    assert torch.allclose(*inside, atol=1e-9)
    one = found.unflatten(-1, (-1, 3))[:, 0, 0]
    one = one / one.norm(dim=-1, keepdim=True)
    assert float(one.mean(0).norm()) < 0.12  # of 400 even directions
    volumes = [torch.linalg.det(each.unflatten(-1, (-1, 3))[:, 0, :3]) for each in (found, x)]
    assert torch.allclose(*volumes, atol=1e-9)  # no mirror


def test_the_truth_is_laid_on_the_guess_by_what_counts() -> None:
    x = some()
    y, weight = moved(x, 2), torch.ones_like(x)
    y[:, 15:] += 40
    weight[:, 15:] = 0
    assert torch.allclose(laid(x, y, weight)[:, :15], y[:, :15], atol=1e-9)


# ---- samples -----------------------------------------------------------------------------------------------------------------


def asked(length: int, name: str = "q", cdr: np.ndarray | None = None) -> Asked:
    codes = np.random.default_rng(length).integers(0, 21, length)
    return Asked(name, codes, cdr, numbered(codes, "A"))


def test_a_sample_is_the_same_alone_in_a_batch_and_beside_longer_chains(model: Model) -> None:
    """X_t of sample i is a function of the seed, the sequence's name and i: whatever is drawn beside it."""
    short, long = asked(30, "short"), asked(45, "long")
    few = dataclasses.replace(model, walk=dataclasses.replace(model.walk, steps=4))

    def drawn(queries: Sequences, numbers: list[int]) -> dict[tuple[str, int], Tensor]:
        return {
            queries.name(number): row[: len(queries.of(number)[0])]
            for part in few.draw(queries, numbers) for number, row in zip(part.numbers, part.x)
        }  # fmt: skip

    alone = drawn(Sequences([short], 5), [3])["short", 3]
    many = drawn(Sequences([long, short], 25), list(range(50)))
    assert torch.allclose(many["short", 3], alone, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(many["short", 4], alone, atol=0.1)


@pytest.mark.parametrize("length", [1, 2, 171])
def test_any_length_is_folded(model: Model, length: int) -> None:
    few = dataclasses.replace(model, walk=dataclasses.replace(model.walk, steps=2, batch=2))
    queries = Sequences([asked(length)], 2)
    for part in few.recipe.draw(few, queries, range(2)):
        for fold in few.recipe.things(few, queries, part):
            assert fold.coords.shape == (length, 4, 3)
            assert not fold.error


# ---- the published baseline --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason="the antibodies are not beside the repository")
def test_the_copied_template_scores_what_its_published_script_gives(tmp_path: Path) -> None:
    """With our own readers, frame, template and figures: 124 of 150 chains, and the seven means to a thousandth."""
    run = Run(tmp_path / "run")
    run.create()
    facts = prepare(run, SHARED / "vh_backbones.npz", Wanted(0.1, 0.1, 512, "auto"), lambda text: None)
    store, found = Store.of(run, facts), []
    for chain in store.part("test").chains:
        known = template(store, int(chain), store.part("train").chains)
        if known is not None:
            pair = (torch.from_numpy(store.coords[store.rows(int(i))][-known.common :]) for i in (known.chain, chain))
            cdr = store.regions(int(chain))
            assert cdr is not None
            found.append(errors(*pair, cdr[-known.common :]))
    assert len(found) == 124
    means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    wanted = {"FR": 0.913, "H1": 1.865, "H2": 1.708, "H3": 5.364, "H3_own": 3.014, "lddt": 0.846, "peptide": 1.0}
    assert means == pytest.approx(wanted, abs=6e-4)


def test_the_large_network_is_that_of_the_anchor_and_takes_no_memory() -> None:
    """24 blocks of width 768 with 16 heads, on the meta device."""
    recipe = Protein(data=Path("x"), network=dataclasses.replace(Protein(data=Path("x")).network, size="large"))
    sizes: dict[str, Any] = dict(recipe.network.settings("cpu"))
    with torch.device("meta"):
        made = BackboneNetwork(scale=16.0, **sizes)
        count = sum(parameter.numel() for parameter in made.parameters())
        known = {name: value.to("meta") for name, value in told((384,), 384).items()}
        answer = made(torch.empty(48, 384, 12), torch.empty(48), **{
            name: value.expand(48, *value.shape[1:]) for name, value in made.given(**known).items()
        })  # fmt: skip
    assert answer.shape == (48, 384, 12)
    assert answer.is_meta
    assert len(made.blocks) == 24
    assert 150e6 < count < 400e6
