"""Fields in files: the same numbers from every kind of file and order of axes, and a line for what cannot be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.errors import Mendable
from sfumato.fields.weather.data import Store, Wanted, prepare
from sfumato.fields.weather.files import arrays
from sfumato.fields.weather.source import opened
from sfumato.fields.weather.writing import Forecast, read, write
from sfumato.jobs.making import Making
from sfumato.training.run import Run
from tests.fields.weather import worlds

COUNT = 40
FIELDS = worlds.fields(COUNT)
WHEN = worlds.times(COUNT)
RAIN = np.random.default_rng(0).exponential(4.0, FIELDS["msl"].shape)
PLAIN = Wanted(None, None, None, None, None, 0.25)


def expected() -> np.ndarray:
    return np.stack([FIELDS["msl"], FIELDS["z"]], 1)


def turned(values: dict[str, np.ndarray], columns: int = 0, over: bool = False) -> dict[str, np.ndarray]:
    return {name: np.roll(x[:, ::-1] if over else x, columns, axis=2) for name, x in values.items()}


def ways(place: Path) -> dict[str, Path]:
    """The same fields written differently."""
    rising, east = worlds.LATITUDE[::-1], np.roll(worlds.LONGITUDE, 4)
    folder = place / "by_time"
    folder.mkdir()
    for i, part in enumerate((slice(0, 7), slice(7, 8), slice(8, COUNT))):
        worlds.netcdf(folder / f"{9 - i}.nc", {name: x[part] for name, x in FIELDS.items()}, WHEN[part])
    names = place / "by_name"
    names.mkdir()
    for name, x in FIELDS.items():
        worlds.netcdf(names / f"{name}.nc", {name: x}, WHEN)
    return {
        "plain": worlds.netcdf(place / "plain.nc", FIELDS, WHEN),
        "classic": worlds.classic(place / "classic.nc", FIELDS, WHEN),
        "turned over": worlds.netcdf(place / "over.nc", turned(FIELDS, over=True), WHEN, rising),
        "-180 to 180": worlds.netcdf(
            place / "east.nc", turned(FIELDS, 4), WHEN, longitude=np.where(east >= 180, east - 360, east)
        ),
        "another order": worlds.netcdf(place / "order.nc", FIELDS, WHEN, order="longitude time latitude"),
        "packed": worlds.netcdf(place / "packed.nc", FIELDS, WHEN, packed=True),
        "cut by time": folder,
        "a file a variable": names,
    }


def test_every_way_of_writing_gives_the_same_fields(tmp_path: Path) -> None:
    for way, path in ways(tmp_path).items():
        found = opened(path)
        near = {"packed": 0.1}.get(
            way, 0.01
        )  # a unit of packing is 0.1 to 0.2, and float32 of 100,000 has steps of 0.008
        assert [channel.label for channel in found.channels] == ["msl", "z"], way
        assert np.array_equal(found.times, WHEN), way
        assert np.abs(found.read(0, COUNT) - expected()).max() < near, way
        assert np.abs(found.read(5, 9) - expected()[5:9]).max() < near, way
        # and what goes out again is in the order of the input
        given = found.grid.theirs(found.read(0, 1))
        assert np.array_equal(found.grid.ours(given), found.read(0, 1))
        assert found.grid.closes


def test_a_gap_of_packed_numbers_is_no_number(tmp_path: Path) -> None:
    values = {"msl": FIELDS["msl"].copy()}
    values["msl"][:, 2, 3] = np.nan
    read = opened(worlds.netcdf(tmp_path / "a.nc", values, WHEN, packed=True)).read(0, COUNT)
    assert np.array_equal(np.isnan(read[:, 0]), np.isnan(values["msl"]))


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_with_longitude_first_and_levels(tmp_path: Path, version: int) -> None:
    found = opened(worlds.store(tmp_path / "weather.zarr", FIELDS, WHEN, version))
    assert [c.label for c in found.channels] == ["geopotential500", "geopotential850", "mean_sea_level_pressure"]
    read = found.read(0, COUNT)
    assert np.abs(read[:, 2] - FIELDS["msl"]).max() < 0.01
    assert np.abs(read[:, 0] - FIELDS["z"]).max() < 0.01
    assert np.abs(read[:, 1] - (FIELDS["z"] - 41_000)).max() < 0.01
    some = opened(tmp_path / "weather.zarr", ["geopotential"], [850])
    assert [c.label for c in some.channels] == ["geopotential850"]
    assert np.array_equal(some.read(3, 4)[0, 0], read[3, 1])


def test_a_variable_without_time_is_a_map_and_a_region_may_cross_greenwich(tmp_path: Path) -> None:
    east = np.array([350.0, 355.0, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0])
    path = worlds.netcdf(tmp_path / "a.nc", FIELDS, WHEN, longitude=east)
    import h5netcdf

    with h5netcdf.File(path, "a") as file:
        file.create_variable("orography", ("latitude", "longitude"), data=np.arange(48.0).reshape(6, 8))
    found = opened(path)
    assert list(found.maps) == ["orography"]
    assert found.maps["orography"][0, 1] == 1
    assert not found.grid.closes
    assert np.allclose(found.grid.longitude, np.arange(-10, 26, 5))


def test_means_and_spreads_are_those_of_the_times_learned_from(tmp_path: Path) -> None:
    values = {name: x.copy() for name, x in FIELDS.items()}
    values["msl"][30:] += 1e4  # held out: nothing of it may be known
    values["msl"][:, 2, 3] = np.nan  # a cell without a value
    run = made(tmp_path, values)
    learned = np.delete(values["msl"][:30].reshape(30, -1), 2 * 8 + 3, axis=1)
    assert run.mean[0] == pytest.approx(learned.mean(), abs=0.01)
    assert run.spread[0] == pytest.approx(learned.std(), rel=1e-4)
    assert run.change[0] == pytest.approx(np.diff(learned, axis=0).std(), rel=1e-3)
    assert run.hidden == pytest.approx(1 / 96)
    assert run.gappy == ("msl",)
    assert (run.count, run.held) == (28, 8)


def made(place: Path, values: dict[str, np.ndarray], wanted: Wanted = PLAIN, **how: Any) -> Any:
    run = Run(place / "run")
    run.create()
    return prepare(run, worlds.netcdf(place / "data.nc", values, WHEN, **how), wanted, lambda text: None)


def test_steps_across_a_gap_are_not_learned(tmp_path: Path) -> None:
    whole = np.delete(np.arange(COUNT), 10)
    run = Run(tmp_path / "run")
    run.create()
    path = worlds.netcdf(tmp_path / "a.nc", {name: x[whole] for name, x in FIELDS.items()}, WHEN[whole])
    told: list[str] = []
    facts = prepare(run, path, PLAIN, told.append)
    assert "2000-01-10 12:00" in told[0]
    assert f"{facts.count:,} are left, and {facts.held:,} held out" in told[0]
    assert facts.count + facts.held == 39 - 2 - 2 - 2  # three times in a row, in each of three stretches


def test_what_cannot_be_meant_is_said_in_a_line(tmp_path: Path) -> None:
    holes = {name: x.copy() for name, x in FIELDS.items()}
    holes["z"][7, 1, 1] = np.nan
    twice = WHEN.copy()
    twice[5] = twice[4]
    uneven = worlds.LATITUDE.copy()
    uneven[1] = 70
    mixed = worlds.LATITUDE[[1, 0, 2, 3, 4, 5]]
    bad: list[tuple[dict[str, Any], Wanted, str]] = [
        ({"values": holes}, PLAIN, "z at 2000-01-08 12:00 lacks 1 value"),
        ({"when": twice}, PLAIN, "2000-01-05 12:00 comes twice"),
        ({"latitude": mixed}, PLAIN, "neither rises nor falls"),
        ({"latitude": uneven}, PLAIN, "degrees apart; expected even ones"),
        ({"since": "fortnights since 1900-01-01"}, PLAIN, "has the units 'fortnights since 1900-01-01'"),
        ({"units": {"msl": "Pa", "z": "K"}, "values": {"z": FIELDS["z"] / 1e4}}, PLAIN, "degrees Celsius"),
        ({}, Wanted(("sst",), None, None, None, None, 0.25), "no variable called sst"),
        ({}, Wanted(("msl", "sst"), None, None, None, None, 0.25), "there is no 'sst'"),
        ({}, Wanted(None, None, 36, None, None, 0.25), "must be a multiple of the 24 h"),
        ({}, Wanted(None, None, None, "1990-01-01", None, 0.25), "must lie within the data"),
        ({}, Wanted(None, None, None, "soon", None, 0.25), "must be a date"),
        ({"values": {"msl": np.full_like(FIELDS["msl"], 1e5)}}, PLAIN, "does not change with time"),
        ({"values": {"tp": RAIN}, "units": {"tp": "m"}}, PLAIN, "as in mm; set its units to mm"),
        ({"values": {"tp": RAIN / 1000}, "units": {"tp": "mm"}}, PLAIN, "as in metres; set its units to m,"),
        (
            {},
            Wanted(None, None, None, "2000-01-03", None, 0.25),
            "no three times in a row, 24 h apart, are left to learn from",
        ),
    ]
    for i, (how, wanted, words) in enumerate(bad):
        run = Run(tmp_path / f"run{i}")
        run.create()
        how = {"values": FIELDS, "when": WHEN, **how}
        path = worlds.netcdf(tmp_path / f"{i}.nc", how.pop("values"), how.pop("when"), **how)
        with pytest.raises(Mendable, match=words) as complaint:
            prepare(run, path, wanted, lambda text: None)
        assert "\n" not in str(complaint.value)


def test_files_that_do_not_fit_together_are_both_named(tmp_path: Path) -> None:
    worlds.netcdf(tmp_path / "a.nc", {"msl": FIELDS["msl"]}, WHEN)
    worlds.netcdf(tmp_path / "b.nc", {"z": FIELDS["z"]}, WHEN, worlds.LATITUDE - 1)
    with pytest.raises(Mendable, match=r"b\.nc.*a\.nc"):
        opened(tmp_path)
    worlds.netcdf(tmp_path / "b.nc", {"msl": FIELDS["msl"]}, WHEN + 3 * worlds.STEP)
    with pytest.raises(Mendable, match=r"b\.nc.*begins at.*a\.nc"):
        opened(tmp_path)
    worlds.netcdf(tmp_path / "b.nc", {"z": FIELDS["z"]}, WHEN + 3600)
    with pytest.raises(Mendable, match="no time in common"):
        opened(tmp_path)


def test_a_geopotential_in_metres_is_found_out(tmp_path: Path) -> None:
    values = {name: x / 9.80665 if name == "z" else x for name, x in FIELDS.items()}
    path = worlds.store(tmp_path / "w.zarr", values, WHEN, 2)
    run = Run(tmp_path / "run")
    run.create()
    with pytest.raises(Mendable, match="height in metres"):
        prepare(run, path, Wanted(("geopotential",), (500.0,), None, None, None, 0.25), lambda text: None)


def test_levels_grids_and_axes_that_are_not_there_are_named(tmp_path: Path) -> None:
    import h5netcdf

    store = worlds.store(tmp_path / "w.zarr", FIELDS, WHEN, 3)
    with pytest.raises(Mendable, match="no level 300; there are 500, 850"):
        opened(store, ["geopotential"], [300])
    reduced = tmp_path / "reduced.nc"
    with h5netcdf.File(reduced, "w") as file:
        file.dimensions = {"time": COUNT, "values": 48}
        file.create_variable("time", ("time",), data=WHEN / 3600).attrs["units"] = "hours since 1970-01-01"
        for name, range_ in (("latitude", (-75, 75)), ("longitude", (0, 315))):
            file.create_variable(name, ("values",), data=np.linspace(*range_, 48))
        file.create_variable("z", ("time", "values"), data=FIELDS["z"].reshape(COUNT, -1))
    with pytest.raises(Mendable, match=r"z \(time, values\), on a reduced grid.*cdo remapbil"):
        opened(reduced)
    with pytest.raises(Mendable, match="not found; expected a folder or file"):
        opened(tmp_path / "nowhere")


def test_every_way_of_writing_gives_the_same_statistics_scores_and_forecasts(tmp_path: Path) -> None:
    """Turned over, rolled around, packed, cut, in another order or in zarr: what is learned from is the same to
    rounding, and what is forecast goes out in the order that came in."""
    found = {}
    every = {**ways(tmp_path), "zarr": worlds.store(tmp_path / "w.zarr", FIELDS, WHEN, 3)}
    for way, path in every.items():
        run = Run(tmp_path / f"run {way}")
        run.create()
        names = {"zarr": ("mean_sea_level_pressure", "geopotential")}.get(way, ("msl", "z"))
        wanted = Wanted(names, (500.0,) if way == "zarr" else None, None, None, None, 0.25)
        facts = prepare(run, path, wanted, lambda text: None)
        found[way] = facts, Store.of(run, facts)
    plain, store = found["plain"]
    for way, (facts, own) in found.items():
        near = 2e-4 if way == "packed" else 1e-5
        for name in ("mean", "spread", "change", "low", "high"):
            assert np.allclose(getattr(facts, name), getattr(plain, name), rtol=near), (way, name)
        assert np.abs(own.standard(np.arange(COUNT)) - store.standard(np.arange(COUNT))).max() < 5e-4, way
        assert np.allclose(own.area, store.area), way
        out = tmp_path / f"{way}.out.nc"
        thing = Forecast(facts, own.restored(own.standard(np.arange(3))), int(WHEN[0]), 0)
        write(facts, [thing], [thing.start], [0], out, Making("run", "0", 0))
        with h5netcdf_file(out) as file:
            given = opened(every[way], names_of(way)).grid
            assert np.array_equal(file["latitude"][:], given.north), way
            assert np.array_equal(file["longitude"][:], given.east), way
            first = file["mean_sea_level_pressure" if way == "zarr" else "msl"][0, 0]
        assert np.abs(given.ours(first) - FIELDS["msl"][:3]).max() < 0.2, way


def names_of(way: str) -> tuple[str, ...]:
    return ("mean_sea_level_pressure",) if way == "zarr" else ("msl",)


def h5netcdf_file(path: Path) -> Any:
    import h5netcdf

    return h5netcdf.File(path, "r")


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_a_forecast_read_again_has_the_same_bits(tmp_path: Path, suffix: str) -> None:
    run = Run(tmp_path / "run")
    run.create()
    facts = prepare(run, worlds.store(tmp_path / "w.zarr", FIELDS, WHEN, 2), PLAIN, lambda text: None)
    values = np.random.default_rng(0).normal(1e5, 800, (2, 3, len(facts.names), 6, 8)).astype("f4")
    values[..., 1, 2] = np.nan
    things = [Forecast(facts, values[m], int(WHEN[5]), m + 4) for m in range(2)]
    out = write(facts, things, [int(WHEN[5])], [4, 5], tmp_path / f"f{suffix}", Making("run", "0", 0))
    again = read(facts, out)
    assert [(thing.start, thing.member) for thing in again] == [(int(WHEN[5]), 4), (int(WHEN[5]), 5)]
    for thing, other in zip(again, things):
        assert thing.values.dtype == np.float32
        assert np.array_equal(thing.values, other.values, equal_nan=True)
    every = arrays(out)
    assert every["geopotential"].word("units") == "m**2 s**-2"
    init, lead, valid = (every[name].values((slice(None),) * len(every[name].shape)) for name in (
        "init_time", "lead_time", "valid_time",
    ))  # fmt: skip
    assert np.array_equal(valid, init[:, None] + 3600 * lead)
    assert every["geopotential"].axes == ("init_time", "member", "lead_time", "level", "latitude", "longitude")


def test_files_that_lie_are_refused(tmp_path: Path) -> None:
    lies = {
        "a.nc": b"CDF\x01" + b"\xff" * 60,
        "b.nc": b"\x89HDF\r\n\x1a\n" + b"\x07" * 90,
        "c.nc": b"hello",
        "d.grib": b"GRIB...",
    }
    for name, content in lies.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Mendable, match=name):
            opened(tmp_path / name)
    lost = worlds.store(tmp_path / "lost.zarr", FIELDS, WHEN, 2)
    next((lost / "geopotential").glob("1.*")).unlink()
    with pytest.raises(Mendable, match="pieces are missing"):
        opened(lost)
    coded = worlds.store(tmp_path / "coded.zarr", FIELDS, WHEN, 2)
    told = (coded / "geopotential" / ".zarray").read_text()
    (coded / "geopotential" / ".zarray").write_text(told.replace('"filters": null', '"filters": [{"id": "pickle"}]'))
    with pytest.raises(Mendable, match="pickle"):
        opened(coded)
