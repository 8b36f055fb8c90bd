"""Downscaling: rain with its exact zeros, drawn for the coarse weather of its day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import pytest
import torch

from sfumato.cli import main
from sfumato.diffusion.sample import Euler
from sfumato.errors import Mendable
from sfumato.fields.weather.downscaling import Days, Rain, analogs, measured
from sfumato.fields.weather.fine import FineStore, read
from sfumato.fields.weather.rain import RainNetwork, RainTimes, cascade, rain
from sfumato.fields.weather.recipe import Weather
from sfumato.jobs.model import load
from sfumato.jobs.walk import solver_of
from tests.fields.weather import worlds

COUNT, ROWS, COLUMNS = 240, 3, 4
MIDNIGHT = worlds.times(COUNT) - 43_200


def shared() -> np.ndarray:
    """What the coarse cells have in common, (COUNT,)."""
    msl = worlds.fields(COUNT)["msl"]
    return (msl.mean((1, 2)) - msl.mean()) / msl.mean((1, 2)).std()


def coarse() -> dict[str, np.ndarray]:
    """Coarse fields whose pressure moves together over the whole map."""
    found = worlds.fields(COUNT)
    return {**found, "msl": found["msl"] + 2 * worlds.SPREAD["msl"] * shared()[:, None, None]}


def fields(seed: int = 1) -> np.ndarray:
    """(COUNT, ROWS, COLUMNS) mm: it rains where the pressure of a coarse cell is low, the more the lower; one cell has
    no value."""
    rng = np.random.default_rng(seed)
    drive = -shared()[:, None, None] + 0.5 * rng.normal(size=(COUNT, ROWS, COLUMNS))
    values = np.where(drive > 0.3, np.expm1(drive.clip(0)), 0.0)
    values[:, 1, 2] = np.nan
    return values


def written(path: Path, values: np.ndarray | None = None, units: str = "mm", when: np.ndarray = MIDNIGHT) -> Path:
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"time": len(when), "northing": ROWS, "easting": COLUMNS}
        file.create_variable("time", ("time",), data=when / 3600).attrs["units"] = "hours since 1970-01-01"
        for name, size in (("northing", ROWS), ("easting", COLUMNS)):
            file.create_variable(name, (name,), data=5000.0 * np.arange(size))
        made = file.create_variable("tp", ("time", "northing", "easting"), data=fields() if values is None else values)
        made.attrs["units"] = units
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("rain")
    data = worlds.netcdf(place / "fields.nc", coarse(), worlds.times(COUNT))
    words = ["--fine", str(written(place / "tp.nc")), "--network.width", "32", "--network.depth", "1", "--batch", "32"]
    words += [
        "--steps",
        "250",
        "--previews",
        "0",
        "--network.jitter",
        "0.1",
        "--threads",
        "1",
        "--precision",
        "fp32",
        "--snapshots",
        "0",
    ]
    words += ["--held-out", "0.2"]
    assert main(["train", "weather", str(data), *words, "--out", str(place / "run")]) == 0
    return place / "run"


def test_a_day_of_rain_is_that_of_the_coarse_frame_that_falls_into_it(run: Path) -> None:
    """Rain is stamped with the beginning of its day, 00 UTC, and the coarse frame of that day is of 12 UTC."""
    model = load(run)
    fine = model.companions
    assert fine.cells == ROWS * COLUMNS - 1
    assert np.array_equal(fine.store.times[fine.at] - 43_200, MIDNIGHT[1:-1])  # the ends lack a frame beside them
    flat = fields()[1:-1].reshape(COUNT - 2, -1)
    assert np.allclose(fine.values, flat[:, np.isfinite(flat[0])], atol=1e-5)
    windows = model.recipe.open(model.run).train
    batch = windows.batch(np.arange(50))
    assert np.array_equal(batch["x"]["wet"] == 1, fine.values[:50] > 0)
    assert np.array_equal(batch["weight"]["amount"], batch["x"]["wet"])
    # what is drawn comes back in mm, dry cells as exact zeros
    assert np.allclose(fine.restored(batch["x"]), fine.values[:50], rtol=1e-4)
    assert np.abs(batch["coarse"].std(0) - 1).mean() < 0.3


def test_rain_is_drawn_for_its_weather_and_better_than_for_any(run: Path) -> None:
    """Where it rains is known by the coarse fields: trained a little, the draws beat climatology, and are dry where
    they say so."""
    model = load(run)
    fine: FineStore = model.companions
    rows = fine.split(model.facts.until, model.facts.held_until).rows
    found = measured(model, rows, 8)
    assert found["crps"]["model"].mean() < 0.9 * found["crps"]["climatology"].mean()
    assert found["like"]["drawn"]["dry"] == pytest.approx(found["like"]["came"]["dry"], abs=0.25)
    assert found["like"]["drawn"]["mean"] == pytest.approx(found["like"]["came"]["mean"], rel=0.6)
    some = analogs(fine, int(rows[0]))
    assert all((fine.values[: rows[0]] == each).all(1).any() for each in some)


def test_it_goes_into_a_file_with_the_axes_of_the_fine_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rain.nc"
    assert (
        main(
            ["sample", str(run), "--start", "2000-08-01T12:00", "latest", "-n", "3", "--steps", "6", "--out", str(out)]
        )
        == 0
    )
    things = load(run).sample(3, start=("2000-08-01T12:00", "latest"), steps=6)
    assert all(isinstance(thing, Rain) for thing in things)
    with h5netcdf.File(out, "r") as file:
        assert file["tp"].dimensions == ("time", "member", "northing", "easting")
        assert np.isnan(file["tp"][:, :, 1, 2]).all()
        assert np.isnan(file["tp"][:]).sum() == 6
        assert np.array_equal(file["northing"][:], 5000.0 * np.arange(ROWS))
        flat = file["tp"][:].reshape(6, -1)
        assert np.array_equal(flat[:, np.isfinite(flat[0])], np.stack([thing.values for thing in things]))
    assert main(["evaluate", str(run), "-n", "4", "--cases", "10", "--steps", "6"]) == 0
    assert "crps_analogs" in json.dumps(json.loads((run / "metrics.json").read_text()))
    capsys.readouterr()
    assert main(["weather", "forecast", str(run), "--out", str(tmp_path / "f.nc")]) != 0
    assert "downscales" in capsys.readouterr().err
    assert main(["sample", str(run), "--start", "2000-01-01T12:00", "--out", str(tmp_path / "g.nc")]) != 0
    assert "a step before and a step after are needed" in capsys.readouterr().err


def test_first_where_then_how_much() -> None:
    times = cascade(torch.linspace(1, 0, 13, dtype=torch.float64))
    assert len(times) == 13
    wet, amount = ([float(each[name]) for each in times] for name in ("wet", "amount"))
    assert wet[0] == 1
    assert wet[8:] == [0.0] * 5
    assert amount[:9] == [1.0] * 9
    assert amount[-1] == 0
    assert wet[0] - wet[1] < 0.25 * (wet[7] - wet[8])  # few cells at first: those of one step do not know of each other
    u = torch.linspace(0.001, 0.999, 512, dtype=torch.float64)
    drawn = RainTimes().draw(u, torch.Generator().manual_seed(0), rain(), {})
    first, second = drawn["wet"], drawn["amount"]
    assert bool(((first == 0) | (second == 1)).all())
    assert 0.4 < float((first == 0).double().mean()) < 0.6
    assert float((first[first > 0] > 0.98).double().mean()) > 0.12  # of even times 0.02 would be


def test_the_usual_walk_spreads_what_all_cells_share_as_far_as_it_should() -> None:
    """Amounts of some hundred cells go together: their first component has 80 times the variance of a cell. The usual walk
    leaves all of it that matters within 7 %; Euler's method, in half as many steps, leaves half of it."""
    walk, power = Weather(Path("any"), fine=Path("other")).walk(), torch.tensor([80.0, 10, 1, 0.1], dtype=torch.float64)
    process = rain().processes["amount"]

    def spread(solver: Any, steps: int) -> torch.Tensor:
        times = [each["amount"] for each in cascade(torch.linspace(1, 0, steps + 1, dtype=torch.float64))]
        return worlds.spread_by(process, solver, times, power)

    usual = solver_of(walk, rain(), {}).solvers["amount"]
    assert walk.steps is not None
    assert float((spread(usual, walk.steps) - 1).abs().max()) < 0.07
    assert float(spread(Euler(), walk.steps // 2)[0]) < 0.55


def test_what_is_dry_or_unknown_tells_nothing_of_its_amount() -> None:
    network = RainNetwork(cells=5, coarse=2, width=16, depth=1)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    wet, level = torch.tensor([[0, 1, 2, 1, 0]]), {"amount": torch.tensor([0.0])}
    told = {"coarse": torch.ones(1, 2), "clock": torch.zeros(1, 4)}
    amount = torch.randn(1, 5, generator=torch.Generator().manual_seed(1))
    first = network({"wet": wet, "amount": amount}, level, **told)
    for cell, seen in enumerate((False, True, False, True, False)):
        other = amount.clone()
        other[0, cell] += 1
        changed = network({"wet": wet, "amount": other}, level, **told)
        assert bool((changed["amount"] != first["amount"]).any()) == seen, cell
    with pytest.raises(ValueError, match="for 5 cells"):
        network({"wet": wet[:, :4], "amount": amount[:, :4]}, level, **told)


def test_draws_of_a_day_are_the_same_in_any_ensemble(run: Path) -> None:
    model = load(run)
    fine = model.companions
    many = {
        n: x
        for part in model.draw(Days(fine, fine.at[[30, 31]], 5), range(10))
        for n, x in zip(part.numbers, part.x["wet"])
    }
    few = {
        n: x for part in model.draw(Days(fine, fine.at[[31]], 2), range(2)) for n, x in zip(part.numbers, part.x["wet"])
    }
    assert all(torch.equal(few[m], many[5 + m]) for m in (0, 1))


def test_what_cannot_be_rain_is_said_in_a_line(tmp_path: Path) -> None:
    below, holes = fields(), fields()
    below[3, 0, 0] = -0.5
    holes[7, 0, 0] = np.nan
    for i, (how, words) in enumerate((
        ({"values": below}, "holds -0.5, below 0"), ({"values": holes}, "lacks values at 2000-01-08 00:00"),
        ({"units": "K"}, "is in 'K'; expected rain in mm or m"),
    )):  # fmt: skip
        with pytest.raises(Mendable, match=words):
            read(written(tmp_path / f"{i}.nc", **how))
    metres = read(written(tmp_path / "m.nc", fields() / 1000, "m"))
    assert np.allclose(metres.values, read(written(tmp_path / "mm.nc")).values, rtol=1e-4)
    data = worlds.netcdf(tmp_path / "fields.nc", worlds.fields(COUNT), worlds.times(COUNT))
    late = written(tmp_path / "late.nc", when=MIDNIGHT + 4000 * worlds.STEP)
    assert main(["train", "weather", str(data), "--fine", str(late), "--out", str(tmp_path / "run")]) != 0
