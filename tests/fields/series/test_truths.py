"""What must hold of forecasts whatever was learned: exact laws, units, randomness, gaps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.cli import main
from sfumato.fields.series import base as bases
from sfumato.fields.series.base import Base, Outlook, Track
from sfumato.fields.series.covariance import covariance
from sfumato.fields.series.data import Store
from sfumato.fields.series.density import densities
from sfumato.fields.series.filling import blocks, fill
from sfumato.fields.series.forecasting import Case, Companions, Forecasts, Spread, cases_of, drawn
from sfumato.fields.series.white import White, masks
from sfumato.jobs.model import Model, load
from sfumato.metrics.forecast import crps, energy_score
from sfumato.training.loader import fetch
from tests.fields.series import worlds

LEADS = 8


def forecast(model: Model, cases: list[Case], paths: int, base: Base | None = None) -> np.ndarray:
    """Paths (cases, M, H)."""
    forecasts = Forecasts.of(base or model.companions.base, cases, paths, LEADS)
    made = np.empty((len(forecasts), LEADS))
    for part in drawn(model, forecasts, range(len(forecasts))):
        made[list(part.numbers)] = part.x.numpy()
    return made.reshape(len(cases), paths, LEADS)


def fresh(model: Model) -> Model:
    """The same run with a network that has learned nothing, and paths as it draws them."""
    network = model.recipe.build(model.facts, "cpu").eval()
    own = dataclasses.replace(model.companions, spread=Spread({}))
    denoiser = dataclasses.replace(model.denoiser, network=network)
    return dataclasses.replace(model, denoiser=denoiser, bring=lambda: own)


def case(model: Model, values: np.ndarray, name: str = "new", start: int = 0) -> Case:
    """Another series, to be forecast from its end."""
    outlook, clocks = model.companions.base.outlook, np.zeros((len(values) + 1, model.facts.clock), dtype=np.float32)
    return Case(name, start, Track.of(values, outlook, clocks, np.zeros((0, 0)), -1), len(values))


# ---- exact laws ------------------------------------------------------------------------------------------------------


def test_a_network_that_knows_nothing_forecasts_the_law_of_the_ridge(model: Model) -> None:
    """Its white numbers are N(0, 1), so its paths are N(mean, size^2 A A'): means and covariances of 4000 of them."""
    base = model.companions.base
    own = case(model, worlds.walks(1, 60, seed=5)[0])
    paths = forecast(fresh(model), [own], 4000)[0]
    table = base.table(own.track, np.array([60]))
    scale = float(table.size[0]) * (float(table.own[0]) if base.outlook.own else 1.0)
    white = np.linalg.solve(base.root, ((paths - base.restored(table, np.zeros((1, LEADS)))) / scale).T).T
    assert np.abs(white.mean(0)).max() < 4.5 / np.sqrt(4000)
    assert np.abs(white.T @ white / 4000 - np.eye(LEADS)).max() < 0.1
    assert np.abs((white**2).mean(0) - 1).max() < 4.5 * np.sqrt(2 / 4000) + 0.02  # 16 steps lose some of the spread


def test_the_law_of_an_autoregression_is_found(tmp_path: Path) -> None:
    """Walks with autoregressive steps: what is expected, and how far, beside the exact law, and the scores of both."""
    values = worlds.walks(200, 300, seed=1)
    outlook = Outlook(LEADS, 60, 1, "last", False)
    tracks = [
        Track.of(v, outlook, np.zeros((301, 0), np.float32), np.zeros((0, 0)), i % 5) for i, v in enumerate(values)
    ]
    base = bases.fit(outlook, tracks, [np.arange(60, 300 - LEADS + 1)] * 200)
    others = worlds.walks(400, 60 + LEADS, seed=2)
    chance = np.random.default_rng(3)
    ours, ideal, energy, least = [], [], [], []
    for row in others:
        track = Track.of(row[:60], outlook, np.zeros((61, 0), np.float32), np.zeros((0, 0)), -1)
        table = base.table(track, np.array([60]))
        mean, root = worlds.law(row[59], row[59] - row[58], LEADS)
        e, truth = chance.standard_normal((256, LEADS)), torch.from_numpy(row[60:])
        found = torch.from_numpy(base.restored(table, (e @ base.root.T)[None])[0])
        exact = torch.from_numpy(mean + e @ root.T)
        ours.append(crps(found, truth).mean())
        ideal.append(crps(exact, truth).mean())
        energy.append(float(energy_score(found[:, None], truth[None])))
        least.append(float(energy_score(exact[:, None], truth[None])))
    ratio = float(sum(ours) / sum(ideal))
    assert 0.995 < ratio < 1.03  # units are measured from 60 steps, which costs a little
    assert 0.995 < sum(energy) / sum(least) < 1.06
    spread = np.sqrt(np.diag(worlds.law(0, 0, LEADS)[1] @ worlds.law(0, 0, LEADS)[1].T)) / np.sqrt(
        1 / (1 - worlds.PHI**2)
    )
    assert np.allclose(np.sqrt((base.root**2).sum(1)), spread, rtol=0.08)
    ours_, exactly = (root @ root.T for root in (base.root, worlds.law(0, 0, LEADS)[1]))
    ours_, exactly = (each / np.sqrt(np.outer(np.diag(each), np.diag(each))) for each in (ours_, exactly))
    assert np.abs(ours_ - exactly).max() < 0.05  # and how the leads depend on each other


def test_residuals_given_what_is_known_follow_the_conditional_law() -> None:
    """For any mask: white numbers N(0, 1) of the unknown become draws of N(S_uk S_kk^-1 r_k, S_uu - S_uk S_kk^-1 S_ku)."""
    chance = np.random.default_rng(0)
    root = np.linalg.cholesky(covariance(chance.standard_normal((300, 6)) @ chance.standard_normal((6, 6))))
    white, whole = White(root), root @ root.T
    for mask in (np.array([1, 0, 0, 1, 0, 1], bool), np.array([0, 0, 0, 1, 1, 1], bool), np.zeros(6, bool)):
        left = np.where(mask, chance.standard_normal(6), 0)
        many = np.broadcast_to(mask, (40_000, 6))
        found = white.coloured(chance.standard_normal((40_000, 6)), many, np.broadcast_to(left, (40_000, 6)))
        assert np.array_equal(found[:, mask], many[:, mask] * left[mask])
        gain = whole[np.ix_(~mask, mask)] @ np.linalg.inv(whole[np.ix_(mask, mask)])
        mean, rest = gain @ left[mask], whole[np.ix_(~mask, ~mask)] - gain @ whole[np.ix_(mask, ~mask)]
        size = np.sqrt(np.diag(rest))
        assert np.all(np.abs(found[:, ~mask].mean(0) - mean) < 4.5 * size / 200)
        assert np.allclose(np.cov(found[:, ~mask].T), rest, atol=0.03 * size.max() ** 2)
        there = np.ones_like(many)
        again = white.white(found, many, there)  # and back: the unknown are white, and those they were
        assert np.allclose(White(root).coloured(again, many, found), found, atol=1e-8)
        assert np.allclose(np.cov(again[:, ~mask].T), np.eye(int((~mask).sum())), atol=0.03)


def test_masks_that_are_learned_with_are_whitened_by_their_matrices() -> None:
    known = masks(6, 30)
    assert not known.all(1).any()
    root = np.linalg.cholesky(covariance(np.random.default_rng(0).standard_normal((300, 6)).cumsum(1)))
    left = np.random.default_rng(1).standard_normal((30, 6))
    assert np.allclose(
        np.einsum("nij,nj->ni", White(root).whiteners(known), left), White(root).white(left, known, np.ones_like(known))
    )


def test_the_density_of_a_network_that_knows_nothing_is_the_laws(model: Model) -> None:
    store = model.companions.store
    chosen = cases_of(
        store,
        [i for i in range(len(store)) for _ in range(6)],
        [40 + 30 * k for _ in range(len(store)) for k in range(6)],
    )
    found = densities(fresh(model), chosen)
    assert found is not None
    assert found.shape == (6 * len(store), 2)
    assert (found[:, 0] - found[:, 1]).mean() == pytest.approx(
        0, abs=0.2
    )  # its noise levels are drawn at random, which alone is 0.04
    assert found[:, 1].mean() == pytest.approx(np.log(2 * np.pi * np.e) / 2, abs=0.3)


# ---- units and time --------------------------------------------------------------------------------------------------


def test_a_forecast_is_multiplied_and_moved_with_its_series(model: Model) -> None:
    values = worlds.walks(1, 80, seed=7)[0]
    plain = forecast(model, [case(model, values)], 5)
    assert np.allclose(forecast(model, [case(model, 1000 * values)], 5), 1000 * plain, rtol=2e-5)
    assert np.allclose(forecast(model, [case(model, values - 5000)], 5) + 5000, plain, atol=1e-3 * plain.std())


def test_a_path_is_the_same_alone_and_among_others(model: Model) -> None:
    every = [case(model, row, f"s{i}") for i, row in enumerate(worlds.walks(6, 70, seed=8))]
    many = forecast(model, every, 7)
    few = forecast(model, every[3:4], 3)
    assert np.allclose(many[3, :3], few[0], atol=1e-4)
    turned = forecast(model, every[::-1], 7)
    assert np.allclose(turned[::-1], many, atol=1e-4)
    assert not np.allclose(many[0, 0], many[0, 1], atol=0.1)


def test_constant_and_periodic_series_are_forecast_as_they_are(tmp_path: Path) -> None:
    day = np.tile(np.arange(24.0), 30)
    columns = {
        "still": np.full(720, 42.0),
        "daily": 10 + day,
        "twice": 10 - 3 * day,
        "other": np.sin(day / 24 * 2 * np.pi),
    }
    data = worlds.wide(tmp_path / "x.csv", worlds.days(720, "2021-01-01T00", "h"), columns)
    words = ["--horizon", "24", "--past", "48", "--steps", "1", "--out", str(tmp_path / "run")]
    assert main(["train", "series", str(data), *worlds.TRAIN, *words]) == 0
    things = load(tmp_path / "run").sample(3)
    for thing in things:
        assert np.isfinite(thing.values).all()
        size = {"still": 1.0, "daily": 7.0, "twice": 21.0, "other": 0.7}[thing.series]
        assert np.abs(thing.values - columns[thing.series][:24]).max() < 0.03 * size, thing.series


# ---- gaps ------------------------------------------------------------------------------------------------------------


def test_a_gap_weighs_nothing_and_padding_changes_nothing(model: Model) -> None:
    data = model.recipe.open(model.run).train
    rows = np.arange(0, len(data), max(1, len(data) // 200))
    batch = data.batch(rows)
    values = data.values.copy()
    at = data.at[rows % len(data.at)] + 2
    values[at] = np.nan
    gone = dataclasses.replace(data, values=values).batch(rows)
    values[at] = 1e9  # what stood there was not there
    assert (gone["weight"][:, 2] == 0).all()
    assert np.isfinite(gone["x"]).all()
    assert np.abs(gone["x"]).max() <= 8
    plain = rows // len(data.at) < data.rounds - 1
    assert np.allclose(gone["x"][plain][:, :2], batch["x"][plain][:, :2], atol=1e-5)  # those before it, as they were
    loss = fetch(
        dataclasses.replace(data, values=np.where(np.isin(np.arange(len(values)), at), np.nan, values)), rows.tolist()
    )
    assert torch.equal(torch.as_tensor(gone["x"]), loss.x)


def test_filling_a_walk_is_its_exact_bridge(model: Model, tmp_path: Path) -> None:
    """Of a walk with independent steps and one value missing in the middle, what it was is N(mean of both sides, 1/2)."""
    walk = np.concatenate((worlds.walks(1, 100, seed=3, phi=0.0)[0], np.zeros(0)))
    outlook = model.companions.base.outlook
    k = np.arange(1, LEADS + 1)
    root = np.linalg.cholesky(np.minimum(k[:, None], k[None]).astype(float))
    zero = np.zeros_like(model.companions.base.first.weights)
    ridge = dataclasses.replace(model.companions.base.first, weights=zero)
    exact = dataclasses.replace(
        model.companions.base, outlook=dataclasses.replace(outlook, scale="last", own=False), first=ridge, root=root
    )
    store = one(model, walk, [40, 60])
    own = Companions(store, exact, Spread({}))
    exactly = dataclasses.replace(fresh(model), bring=lambda: own)
    (filled,) = fill(exactly, store, 3000, passes=1)
    assert filled.at.tolist() == [40, 60]
    for at, drawn_ in zip((40, 60), filled.drawn.T):
        size = float(exact.table(store.track(0), np.array([at])).size[0])
        middle = (walk[at - 1] + walk[at + 1]) / 2
        assert abs(drawn_.mean() - middle) < 4 * size * np.sqrt(0.5 / 3000)
        assert drawn_.std() == pytest.approx(size * np.sqrt(0.5), rel=0.08)


def one(model: Model, values: np.ndarray, gone: list[int]) -> Store:
    """A store of one series with gaps."""
    held = values.copy()
    held[gone] = np.nan
    facts = dataclasses.replace(model.facts, names=("one",), test=0)
    return Store(
        facts, held, np.array([0, len(held)]), np.array([0]), np.zeros((len(held), 0)), np.array([0]), new=True
    )


def test_every_gap_is_in_one_block_and_drawn_with_what_comes_after_it() -> None:
    chance = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        values = np.where(chance.uniform(size=300) < share, np.nan, 1.0)
        values[:4] = values[-1] = 1.0
        found, done = blocks(values, 12), 0
        held = np.zeros(300, int)
        for block in found:
            assert block.origin >= done
            assert block.end - block.origin <= 12
            held[block.origin : block.end] += 1
            done = block.end
        assert (held[np.isnan(values)] == 1).all()
    long = np.ones(100)
    long[20:60] = np.nan
    found = blocks(long, 12)
    assert [block.goes_on for block in found] == [False, *[True] * (len(found) - 1)]


def test_a_gap_longer_than_a_horizon_is_filled_path_by_path(model: Model) -> None:
    """Each path goes on from itself: neighbours across the seam of two blocks differ as within one."""
    store = one(model, worlds.walks(1, 120, seed=4)[0], list(range(60, 85)))
    own = dataclasses.replace(model.companions, store=store)
    (filled,) = fill(dataclasses.replace(model, bring=lambda: own), store, 40)
    assert filled.drawn.shape == (40, 25)
    assert np.isfinite(filled.drawn).all()
    steps = np.abs(np.diff(filled.drawn, axis=1)).mean(0)
    seams = [block.origin - 61 for block in blocks(store.series(0), LEADS) if block.goes_on]
    inside = np.delete(steps, seams)
    assert steps[seams].max() < 1.6 * inside.max()
    assert np.array_equal(fill(dataclasses.replace(model, bring=lambda: own), store, 10)[0].drawn.shape, (10, 25))
