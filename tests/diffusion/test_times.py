"""When: what a batch draws of times, by their laws, and by row alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from sfumato.diffusion import (
    SO3,
    VP,
    Adaptive,
    Clean,
    Covered,
    Gaussian,
    Heat,
    Linear,
    LogitNormal,
    LogNormal,
    Masked,
    PartlyKnown,
    PerFrame,
    PerPart,
    Product,
    Ramp,
    Streams,
    Uniform,
    key,
    loss,
    stratified,
)
from sfumato.diffusion.denoiser import Denoiser
from tests.laws.worlds import F64, normal

MANY, LENGTH = 6000, 5
LINEAR = Gaussian(Linear())
LAWS: dict[str, tuple[Any, Any]] = {  # times, and their distribution function on the straight schedule
    "uniform": (Uniform(0.1, 0.9), stats.uniform(0.1, 0.8).cdf),
    "logit_normal": (LogitNormal(0.4, 0.8), lambda t: stats.norm(0.4, 0.8).cdf(logit(t))),
    "log_normal": (LogNormal(-1.2, 1.2), lambda t: stats.norm(-1.2, 1.2).cdf(logit(t))),  # sigma / alpha = t / (1 - t)
}


def logit(t: Any) -> Any:
    t = torch.as_tensor(t, dtype=F64).clamp(1e-12, 1 - 1e-12)
    return torch.logit(t).numpy()


def drawn(times: Any, process: Any = LINEAR, rows: Any = range(MANY), total: int = MANY, **batch: Any) -> Any:
    """What the rows of a global batch draw, wherever they are put together."""
    rng = Streams(key("times", 3), rows)
    u = stratified(rng, torch.tensor(list(rows)), total)
    if not batch:
        batch = {"x": torch.zeros(len(rows), LENGTH, 2)}
    return times.draw(u, rng, process, batch)


def follows(t: Tensor, law: Any) -> bool:
    """Kolmogorov and Smirnov at one in a thousand."""
    return bool(stats.kstest(t.flatten().double().numpy(), law).pvalue > 1e-3)


def uncorrelated(a: Tensor, b: Tensor) -> bool:
    """Ranks of as many independent numbers correlate by less than 4 deviations, 4 / sqrt(n)."""
    return abs(float(stats.spearmanr(a.numpy(), b.numpy()).statistic)) < 4 / math.sqrt(len(a))


def share_is(found: Tensor, wanted: float) -> bool:
    return abs(float(found.double().mean()) - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / len(found)) + 1e-12


@pytest.mark.parametrize("name", LAWS)
def test_one_time_a_sample_follows_its_law(name: str) -> None:
    times, law = LAWS[name]
    t = drawn(times)
    assert t.shape == (MANY,)
    assert follows(t, law)
    # spread evenly over the batch: far closer to the law than independent numbers would be
    assert stats.kstest(t.numpy(), law).statistic < 2 / MANY


def test_a_share_covers_all_of_the_way_and_as_much_lies_at_the_start() -> None:
    share = 0.1
    t = drawn(Covered(Uniform(0.4, 0.6), share))
    assert abs(float((t == 1).double().mean()) - share) < 2 / MANY
    outside = t[((t < 0.4) | (t > 0.6)) & (t < 1)]
    assert abs(len(outside) / MANY - 0.8 * share) < 2 / MANY
    assert follows(t[(t < 0.4)], stats.uniform(0, 0.4).cdf)
    inside = t[(t >= 0.4) & (t <= 0.6)]
    assert follows(inside, stats.uniform(0.4, 0.2).cdf)
    assert float(t.min()) > 0


def test_a_share_may_lie_at_the_start_alone() -> None:
    t = drawn(Covered(Uniform(0.4, 0.6), 0.1, even=False))
    assert abs(float((t == 1).double().mean()) - 0.1) < 2 / MANY
    assert follows(t[t < 1], stats.uniform(0.4, 0.2).cdf)


@pytest.mark.parametrize("name", LAWS)
def test_every_frame_has_a_time_of_its_own(name: str) -> None:
    times, law = LAWS[name]
    t = drawn(PerFrame(times))
    assert t.shape == (MANY, LENGTH)
    for frame in range(LENGTH):
        assert follows(t[:, frame], law)
    for one in range(LENGTH):
        for two in range(one):
            assert uncorrelated(t[:, one], t[:, two])


def test_frames_may_be_known_as_a_prefix_or_any() -> None:
    """Each kind of row as often as its share says; what is known is clean, or all alike a little noisy; the rest has one time."""
    t = drawn(PartlyKnown(Uniform(0.4, 0.6), own=0.3, prefix=0.2, some=0.1, soft=0.5, small=0.1))
    known = t < 0.2
    count, alike = known.sum(1), (t.max(1).values - torch.where(known, 1.0, t).min(1).values) == 0
    place = torch.arange(LENGTH)
    held, leading = count > 0, (known == (place < count[:, None])).all(1)
    share = lambda which: float(which.double().mean())  # noqa: E731
    assert abs(share(~alike) - 0.3) < 0.02
    assert abs(share(held) - 0.3) < 0.02
    # of any n of L frames the first n are taken by chance, too
    by_chance = sum(1 / math.comb(LENGTH, n) for n in range(1, LENGTH)) / (LENGTH - 1)
    assert abs(share(held & leading) - (0.2 + 0.1 * by_chance)) < 0.02
    assert bool(alike[held].all())
    for n in range(1, LENGTH):
        assert abs(share(count[held] == n) - 1 / (LENGTH - 1)) < 0.05
    levels = torch.where(known, t, 0.0).max(1).values[held]
    assert bool((torch.where(known, t, levels.new_zeros(()))[held].sum(1) - count[held] * levels < 1e-12).all())
    assert abs(share(levels == 0) - 0.5) < 0.05
    assert follows(levels[levels > 0], stats.uniform(0, 0.1).cdf)
    assert follows(t[~held & alike][:, 0], stats.uniform(0.4, 0.2).cdf)


def world(**more: Any) -> Product:
    return Product(place=Gaussian(Linear()), turn=Heat(SO3()), words=Masked(4), label=Clean(), **more)


def batch(rows: int) -> dict[str, Any]:
    turns = SO3().uniform(torch.empty(rows, LENGTH, 3, 3), torch.Generator().manual_seed(0))
    x = {"place": torch.zeros(rows, 2), "turn": turns, "words": torch.zeros(rows, 7, dtype=torch.int64)}
    return {"x": {**x, "label": torch.zeros(rows)}}


def test_every_part_has_times_of_its_own() -> None:
    """Each from its own law, on its own schedule, (B,) or a time for each of its places; clean parts have none."""
    laws = {name: LAWS[of][1] for name, of in (("place", "uniform"), ("turn", "logit_normal"), ("words", "log_normal"))}
    times = PerPart(
        {"place": LAWS["uniform"][0], "turn": PerFrame(LAWS["logit_normal"][0]), "words": LAWS["log_normal"][0]}
    )
    t = drawn(times, world(), **batch(MANY))
    assert list(t) == ["place", "turn", "words"]
    assert [t[name].shape for name in t] == [(MANY,), (MANY, LENGTH), (MANY,)]
    for name, law in laws.items():
        assert follows(t[name] if t[name].ndim == 1 else t[name][:, 2], law), name
    assert uncorrelated(t["place"], t["words"])
    assert uncorrelated(t["place"], t["turn"][:, 0])
    assert uncorrelated(t["words"], t["turn"][:, 0])
    noised = world().interpolate(batch(MANY)["x"], world().prior(batch(MANY)["x"]), t)  # the process takes them so
    assert noised["turn"].shape == (MANY, LENGTH, 3, 3)


@pytest.mark.parametrize("together", [0.0, 0.3, 1.0])
def test_parts_share_their_place_in_a_share_of_the_rows(together: float) -> None:
    """Where they are together they stand at the same quantile, each of its own law; the laws are theirs in any case."""
    times = PerPart({"place": Uniform(0.0, 1.0), "turn": Uniform(0.2, 0.7), "words": LogitNormal()}, together)
    t = drawn(times, world(), **batch(MANY))
    places = [t["place"], (t["turn"] - 0.2) / 0.5, torch.special.ndtr(torch.logit(t["words"]))]
    one, two = ((places[0] - other).abs() < 1e-9 for other in places[1:])
    assert torch.equal(one, two)
    assert torch.equal((places[1] - places[2]).abs() < 1e-9, one)  # all of them together, or none with any other
    assert share_is(one, together)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not bool((~one).any()) or uncorrelated(places[a][~one], places[b][~one])
    for place in places:
        assert follows(place, stats.uniform().cdf)


def test_parts_of_parts() -> None:
    """A nested product has one time for its parts, or a dict again."""
    product = world(inner=Product(far=Gaussian(VP()), near=Gaussian(Linear()), mark=Clean()))
    data = batch(40)
    data["x"]["inner"] = {"far": torch.zeros(40, 3), "near": torch.zeros(40, 3), "mark": torch.zeros(40)}
    one = drawn(PerPart(Uniform()), product, range(40), 40, **data)
    assert list(one) == ["place", "turn", "words", "inner"]
    assert one["inner"].shape == (40,)
    two = drawn(
        PerPart({**{n: Uniform() for n in one}, "inner": PerPart(LogitNormal())}), product, range(40), 40, **data
    )
    assert list(two["inner"]) == ["far", "near"]
    assert (two["inner"]["far"] != two["inner"]["near"]).all()
    product.interpolate(data["x"], product.prior(data["x"]), two)


def test_ramps_rise_to_their_time() -> None:
    """A share of the rows; where each begins and how long it rises are even; the others have one time."""
    t = drawn(Ramp(Uniform(0.2, 1.0), 0.6))
    assert t.shape == (MANY, LENGTH)
    flat = (t == t[:, :1]).all(1)
    assert share_is(~flat, 0.6)
    assert follows(t[flat][:, 0], stats.uniform(0.2, 0.8).cdf)
    rising = t[~flat]
    assert bool((rising[:, 1:] >= rising[:, :-1]).all())
    steps = rising[:, 1:] - rising[:, :-1]
    top = rising.max(1).values
    # short ramps arrive at their time; of the longest, of LENGTH places, the last one is a step short of it
    full = top + steps[:, 0] * (steps[:, -1] > 1e-12)
    assert follows(full, stats.uniform(0.2, 0.8).cdf)
    assert follows(rising[:, 0] / full, stats.uniform().cdf)
    length = 1 + (steps[:, 1:] > 1e-12).sum(1)
    for places in range(1, LENGTH):
        wanted = 1 / LENGTH if places < LENGTH - 1 else 2 / LENGTH  # LENGTH - 1 and LENGTH places have as many steps
        assert share_is(length == places, wanted)
    straight = (steps[:, :1] - steps).abs().gt(1e-9) & (steps > 1e-9)
    assert not bool((straight & (torch.arange(LENGTH - 1) < length[:, None] - 1)).any())


def adaptive() -> Adaptive:
    times = Adaptive()
    times.errors.copy_(torch.linspace(1, 5, 100, dtype=F64))
    return times


EVERY: dict[str, Any] = {
    **{name: times for name, (times, _) in LAWS.items()},
    "adaptive": adaptive(),
    "covered": Covered(LogitNormal()),
    "per frame": PerFrame(LogitNormal()),
    "per frame covered": PerFrame(Covered(Uniform())),
    "ramp": Ramp(LogitNormal()),
    "partly known": PartlyKnown(LogitNormal()),
}
EVERY_OF_PARTS: dict[str, Any] = {
    "per part": PerPart(Uniform()),
    "per part together": PerPart({"place": LogNormal(), "turn": Ramp(Uniform()), "words": PerFrame(Uniform())}, 0.5),
}


@pytest.mark.parametrize("name", [*EVERY, *EVERY_OF_PARTS])
def test_a_rows_times_are_its_own(name: str) -> None:
    """The same in the batch of 8, in two of 4 on two machines, and alone."""
    times, parts = {**EVERY, **EVERY_OF_PARTS}[name], name in EVERY_OF_PARTS
    process = world() if parts else LINEAR

    def of(rows: Any) -> Any:
        return drawn(times, process, rows, 8, **(batch(len(rows)) if parts else {"x": torch.zeros(len(rows), LENGTH)}))

    whole = of(range(8))
    for rows in (range(4), range(4, 8), *([i] for i in range(8)), [5, 2, 7]):
        found = of(rows)
        for part in whole if parts else [None]:
            a, b = (whole, found) if part is None else (whole[part], found[part])
            assert torch.allclose(a[list(rows)], b, rtol=1e-12, atol=0)


def test_the_loss_takes_times_of_every_kind() -> None:
    """Times as they are drawn go into the loss as they are: by frame, and by part."""
    denoiser = Denoiser(
        lambda shown, level: shown.sin() + level.reshape(len(shown), -1, 1).mean(1, keepdim=True), LINEAR
    )
    x = normal(8, LENGTH, 2)
    for name in ("ramp", "per frame", "covered"):
        found = loss(denoiser, x, drawn(EVERY[name], LINEAR, range(8), 8, x=x), Streams(key("z"), range(8)))
        assert found.shape == (8,)
        assert bool((found > 0).all())


def test_what_has_no_times_is_named() -> None:
    with pytest.raises(ValueError, match="part 'turn' has no times: there are times for place"):
        drawn(PerPart({"place": Uniform()}), world(), range(2), 2, **batch(2))
    with pytest.raises(ValueError, match=r"together = 1\.5: must be a share"):
        PerPart(Uniform(), 1.5)
