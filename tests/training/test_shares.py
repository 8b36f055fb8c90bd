"""What is hidden in training is what guidance hides (law 15), and everything is done in the share that was promised:
counted over many steps of the loop itself, within four standard deviations of a binomial count."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.adapting.flow_map import Conversion, FlowMap, Guided
from sfumato.data import Items
from sfumato.diffusion import (
    Blanks,
    Denoiser,
    FromNoise,
    Gaussian,
    Geodesic,
    Linear,
    PerFrame,
    PerPart,
    Product,
    Ramp,
    Torus,
    Uniform,
    generate,
    guide,
    tree,
)
from sfumato.diffusion.tree import Tree
from sfumato.training import loop
from sfumato.training.loader import fetch
from sfumato.training.objective import Objective, Task, noised, plain

from .small import made, options
from .worlds import WORLDS

MANY = options(steps=100, batch=32, save_seconds=3600)
ROWS = 3200
COUNT = 64


def agrees(count: float, share: float, rows: int = ROWS) -> bool:
    """Whether so many of ``rows`` independent rows are ``share`` of them, up to chance."""
    return abs(float(count) - share * rows) <= 4 * math.sqrt(share * (1 - share) * rows) + 1e-9


# ---- hidden conditions -------------------------------------------------------------------------------------------------

CONDITION: dict[str, Tree] = {
    "number": torch.arange(COUNT),  # which item: shown to the network, but never hidden
    "label": torch.arange(COUNT) % 3,
    "mask": torch.arange(COUNT * 5).reshape(COUNT, 5) % 5 <= torch.arange(COUNT)[:, None] % 4,
    "vector": torch.linspace(1, 2, COUNT * 2).reshape(COUNT, 2),
    "scene": {
        "places": torch.linspace(3, 4, COUNT * 6).reshape(COUNT, 2, 3),
        "kinds": torch.arange(COUNT * 2).view(-1, 2),
    },
}
GROUPS = {("label", "mask"): 0.1, ("vector", "scene"): 0.3}


class Seeing(nn.Module):
    """A network that answers 0 and keeps what conditions it is called with; ``makes``: by its own ``given``."""

    def __init__(self, makes: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[dict[str, Tree]] = []
        self.made: list[dict[str, Tree]] = []
        if makes:
            self.given = self._given

    def __deepcopy__(self, memo: Any) -> Seeing:  # the averaged network is another one, that looks for itself
        return type(self)(hasattr(self, "given"))

    def _given(self, **condition: Tree) -> dict[str, Tree]:
        self.made.append(condition)
        return {"all": condition}

    def forward(self, shown: Tensor, *levels: Tensor, all: Any = None, **condition: Tree) -> Tensor:
        if self.training or not torch.is_grad_enabled():
            self.seen.append(all or condition)
        return 0 * shown + self.weight


def told(makes: bool) -> tuple[Seeing, Task]:
    network = Seeing(makes)
    items = Items({"x": torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(0)), **CONDITION})
    return network, Task(network, Gaussian(), items, items, hidden=GROUPS)


@pytest.mark.parametrize("makes", [False, True])
def test_training_hides_what_guidance_hides_in_the_promised_shares(makes: bool, tmp_path: Path):
    network, task = told(makes)
    loop.train(task, made(tmp_path), MANY)
    trained = tree.join(*network.seen)
    assert tree.rows(trained) == ROWS
    number = trained.pop("number")

    # what the network is shown on the weak side of guidance, of each item
    network.seen.clear()
    network.eval()
    guided = guide(Denoiser(network, task.process), 0.0, names_of(GROUPS))
    asked = Blanks(torch.zeros(4), COUNT, CONDITION)
    list(generate(guided, asked, range(COUNT), begin=FromNoise(1), batch=COUNT))
    assert len(network.seen) == 1
    weak = network.seen[0]
    assert torch.equal(weak.pop("number"), CONDITION["number"])  # not among the names to guide by

    means = {torch.float32: 0.0, torch.int64: -1, torch.bool: False}
    for name in names_of(GROUPS):
        assert all(bool((value == means[value.dtype]).all()) for value in tree.leaves(weak[name])), name

    # each row of the training shows the item's own condition or, of whole groups, the weak side's
    gone = {}
    for names in GROUPS:
        rows = []
        for name in names:
            mine, plainly, hidden = (tree.leaves(value) for value in (trained[name], CONDITION[name], weak[name]))
            given = torch.stack([rowwise(a, b[number]) for a, b in zip(mine, plainly, strict=True)]).all(0)
            dropped = torch.stack([rowwise(a, b[number]) for a, b in zip(mine, hidden, strict=True)]).all(0)
            assert bool((given ^ dropped).all()), name
            rows.append(dropped)
        assert all(torch.equal(one, rows[0]) for one in rows), names  # hidden together
        gone[names] = rows[0]
    (one, other), (first, second) = gone.values(), GROUPS.values()
    assert agrees(one.sum(), first)
    assert agrees(other.sum(), second)
    assert agrees((one & other).sum(), first * second)  # and apart from the other group


def names_of(groups: dict[tuple[str, ...], float]) -> list[str]:
    return [name for names in groups for name in names]


def rowwise(a: Tensor, b: Tensor) -> Tensor:
    """Rows (B,) in which a and b (B, ...) are equal."""
    assert a.dtype == b.dtype
    return (a == b).reshape(len(a), -1).all(1)


def test_what_is_not_there_cannot_be_hidden(tmp_path: Path):
    _, task = told(False)
    task = dataclasses.replace(task, hidden={("lable",): 0.1})
    with pytest.raises(ValueError, match="lable cannot be hidden: not among the conditions number, label"):
        loop.train(task, made(tmp_path), MANY)


# ---- copies ------------------------------------------------------------------------------------------------------------


def test_copies_are_given_once_and_have_times_and_noise_of_their_own():
    network, task = told(makes=True)
    task = dataclasses.replace(task, copies=4, times=Uniform(0.0, 1.0))
    piece = noised(task, fetch(task.train, range(8)), 7, 0, 8, torch.device("cpu"))
    Objective(task, False)(*piece)
    assert [tree.rows(condition) for condition in network.made] == [8]
    assert [tree.rows(condition) for condition in network.seen] == [32]
    assert torch.equal(network.seen[0]["number"], torch.arange(8).repeat_interleave(4))
    assert torch.equal(piece.x, task.train.batch(torch.arange(8).repeat_interleave(4).numpy())["x"])
    assert len(piece.z.unique(dim=0)) == 32
    strata = (piece.t * 32).floor().long()
    assert torch.equal(strata.sort().values, torch.arange(32))  # one time in each of 4 x 8


@pytest.mark.parametrize("name", ["Gaussian", "Masked", "Product with tokens"])
def test_copies_of_a_batch_are_the_batch_of_copies(name: str):
    """k copies of n rows meet the times and the noise of n k rows, in any share of the places."""
    world = WORLDS[name]
    task, cpu = world.task(hidden={}), torch.device("cpu")
    copied = dataclasses.replace(task, copies=3)
    found = noised(copied, fetch(task.train, range(4, 8)), 7, 16, 8, cpu)
    spread = noised(task, fetch(task.train, [i for i in range(4, 8) for _ in range(3)]), 7, 48, 24, cpu)
    for mine, other in ((found.x, spread.x), (found.z, spread.z), (found.t, spread.t)):
        assert all(torch.equal(a, b) for a, b in zip(tree.leaves(mine), tree.leaves(other), strict=True))


def test_copies_are_hidden_together(tmp_path: Path):
    """What depends on conditions is made once a row, so a row's copies are hidden or not as one."""
    network, task = told(False)
    loop.train(dataclasses.replace(task, copies=2), made(tmp_path), dataclasses.replace(MANY, steps=50))
    vectors = tree.join(*network.seen)["vector"][:, 0].reshape(-1, 2)
    assert torch.equal(vectors[:, 0] == 0, vectors[:, 1] == 0)
    assert agrees((vectors[:, 0] == 0).sum(), 0.3, len(vectors))
    assert len(vectors) == 50 * 32


# ---- times -------------------------------------------------------------------------------------------------------------


def times_of(task: Task, folder: Path) -> Tree:
    """All times of a training, in order of its rows."""
    seen: list[Tree] = []

    def noted(denoiser: Denoiser, x: Tree, t: Tree, **other: Any) -> Tensor:
        seen.append(t)
        return plain(denoiser, x, t, **other)

    loop.train(dataclasses.replace(task, criterion=noted), made(folder), MANY)
    return tree.join(*seen)


class Constant(nn.Module):
    """Answers a number of its own for everything."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, shown: Tree, level: Tree) -> Tree:
        return tree.each(lambda value: 0 * value + self.weight, shown)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_ramp_is_a_share_of_the_rows(share: float, tmp_path: Path):
    items = Items({"x": torch.randn(COUNT, 6, 2, generator=torch.Generator().manual_seed(0))})
    t = times_of(Task(Constant(), Gaussian(), items, times=Ramp(Uniform(0.0, 1.0), share)), tmp_path)
    assert t.shape == (ROWS, 6)
    rising = t[:, 0] < t[:, -1]
    assert agrees(rising.sum(), share)
    assert bool((t[~rising] == t[~rising][:, :1]).all())
    assert bool((t.diff(dim=1) >= 0).all())
    full = t[rising & (t[:, -2] == t[:, -1])]  # which reach their time before the end
    low = full[:, 0] / full[:, -1]
    assert agrees((low < 0.3).sum(), 0.3, len(low))  # ramps of every height
    assert agrees((full[:, -1] < 0.3).sum(), 0.3, len(low))  # and at every time


def test_every_frame_has_a_time_of_its_own(tmp_path: Path):
    items = Items({"x": torch.randn(COUNT, 3, 2, generator=torch.Generator().manual_seed(0))})
    t = times_of(Task(Constant(), Gaussian(), items, times=PerFrame(Uniform(0.0, 1.0))), tmp_path).double()
    assert t.shape == (ROWS, 3)
    assert float((t.T.corrcoef() - torch.eye(3)).abs().max()) < 4 / math.sqrt(ROWS)
    assert agrees((t[:, 1] < 0.3).sum(), 0.3)


@pytest.mark.parametrize("together", [0.0, 0.25])
def test_parts_go_together_in_a_share_of_the_rows(together: float, tmp_path: Path):
    process = Product(place=Gaussian(Linear()), angle=Geodesic(Torus()))
    x = {"place": torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(0)), "angle": torch.zeros(COUNT, 1)}
    task = Task(Constant(), process, Items({"x": x}), times=PerPart(Uniform(0.0, 1.0), together))
    t = times_of(task, tmp_path)
    same = t["place"] == t["angle"]
    assert agrees(same.sum(), together)
    apart = torch.stack([t["place"], t["angle"]]).double()[:, ~same]
    assert abs(float(apart.corrcoef()[0, 1])) < 4 / math.sqrt(ROWS)
    for times in (*apart, t["place"], t["angle"]):
        assert agrees((times < 0.3).sum(), 0.3, len(times))


# ---- conversion --------------------------------------------------------------------------------------------------------


class Watching(nn.Module):
    """A map that answers 0 and keeps the levels of departure and arrival and the guidance that it learns at."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []

    def __deepcopy__(self, memo: Any) -> Watching:
        return type(self)()

    def forward(self, shown: Tensor, level: Tensor, arrival: Tensor, *, label: Tensor, guidance: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.seen.append(torch.cat([level[:, None], arrival[:, None], guidance], 1))
        return 0 * shown + self.weight


@pytest.mark.parametrize(("anchor", "ends", "interval"), [(0.25, 0.2, 0.25), (0.6, 0.1, 0.7)])
def test_a_conversion_learns_in_the_promised_shares(anchor: float, ends: float, interval: float, tmp_path: Path):
    """Of the anchored rows three quarters learn the plain denoiser, s = t, the others the last step; the rest start at pure
    noise, and go all the way, in their shares. Guidance has an interval of its own in its share."""
    process = Gaussian(Linear(), "velocity")
    teacher = Denoiser(lambda shown, level, label: 0 * shown, process)
    guided = Guided(1.5, 3.0, interval)
    network = Watching()
    items = Items(
        {"x": torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(0)), "label": torch.arange(COUNT)}
    )
    task = Task(
        network, process, items, items, times=Uniform(0.0, 1.0), denoiser=FlowMap,
        criterion=Conversion(teacher, "semigroup", guided, anchor=anchor, ends=ends),
        beside={"guidance": torch.tensor([[1.5, 0.0, 1.0]])},
    )  # fmt: skip
    loop.train(task, made(tmp_path), dataclasses.replace(MANY, previews=1))
    level, arrival, w, low, high = torch.cat(network.seen).unbind(1)
    assert len(level) == ROWS
    bottom, top = -12.0, 7.0  # levels shown at t = 0 and t = 1
    finest = math.log(0.01 / 0.99)
    assert agrees((level == arrival).sum(), 0.75 * anchor)
    last = ((level - finest).abs() < 1e-3) & (arrival == bottom)
    assert agrees(last.sum(), 0.25 * anchor)
    rest = ~last & (level != arrival)
    assert agrees((rest & (arrival == bottom)).sum(), ends * (1 - anchor))
    assert agrees((rest & (level == top)).sum(), ends * (1 - anchor))
    assert agrees((rest & (level == top) & (arrival == bottom)).sum(), ends**2 * (1 - anchor))
    own = (low != 0) | (high != 1)
    assert agrees(own.sum(), interval)
    assert bool((low <= high).all())
    assert float(w.min()) >= 1.5
    assert float(w.max()) <= 3.0
    assert agrees((w < 2).sum(), 1 / 3)
    assert agrees(((w < 2) & own).sum(), interval / 3)  # w and the interval apart from each other
