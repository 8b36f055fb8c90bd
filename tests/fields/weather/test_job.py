"""The whole job of a forecast through the command: inspect, train, resume, sample, measure, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import h5netcdf
import numpy as np
import pytest
import torch

from sfumato.cli import main
from sfumato.diffusion import Denoiser
from sfumato.diffusion.loss import loss
from sfumato.fields.weather.network import FieldNetwork, maps_of
from sfumato.jobs.model import load
from sfumato.training.loader import fetch
from tests.fields.weather import worlds


def test_a_forecast_is_a_file_in_the_names_units_and_grid_of_the_data(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.nc"
    words = ["sample", str(run), "--start", "2003-06-01T12:00", "latest", "--leads", "2", "-n", "3", "--steps", "3"]
    assert main([*words, "--out", str(out)]) == 0
    things = load(run).sample(3, start=("2003-06-01T12:00", "latest"), leads=2, steps=3)
    with h5netcdf.File(out, "r") as file:
        assert dict(zip(file["msl"].dimensions, file["msl"].shape)) == {
            "init_time": 2, "member": 3, "lead_time": 2, "latitude": 6, "longitude": 8,
        }  # fmt: skip
        assert file["msl"].attrs["units"] == "Pa"
        assert file["z"].attrs["units"] == "m**2 s**-2"
        assert np.array_equal(file["latitude"][:], worlds.LATITUDE)
        assert np.array_equal(file["longitude"][:], worlds.LONGITUDE)
        init, lead, valid = file["init_time"][:], file["lead_time"][:], file["valid_time"][:]
        assert np.array_equal(valid, init[:, None] + 3600 * lead.astype("i8"))
        assert list(np.datetime_as_string(init.astype("datetime64[s]"), "h")) == ["2003-06-01T12", "2004-02-08T12"]
        for thing in things:
            i = list(init).index(thing.start)
            assert np.array_equal(file["z"][i, thing.member], thing.values[:, list(thing.facts.names).index("z")])
        making = json.loads(file.attrs["sfumato"])
    assert making["ask"]["leads"] == 2


def test_a_store_with_gaps_is_learned_and_forecast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = worlds.fields(60)
    values["msl"][:, 1:3, 2] = np.nan
    data, out = worlds.store(tmp_path / "w.zarr", values, worlds.times(60), 3), tmp_path / "run"
    assert main(["inspect", "weather", str(data)]) == 0
    assert "geopotential500" in capsys.readouterr().out
    assert (
        main(["train", "weather", str(data), *worlds.TRAIN, "--steps", "2", "--held-out", "0.3", "--out", str(out)])
        == 0
    )
    assert main(["resume", str(out), "--steps", "3"]) == 0
    file = tmp_path / "f.nc"
    assert main(["sample", str(out), "--leads", "2", "-n", "2", "--steps", "3", "--out", str(file)]) == 0
    with h5netcdf.File(file, "r") as made:
        sea = made["mean_sea_level_pressure"][0, 0]
        assert np.isnan(sea[:, 3:5, 2]).all()  # in the order of the input: rising
        assert np.isnan(sea).sum() == 2 * 2
        assert made["geopotential"].dimensions == ("init_time", "member", "lead_time", "level", "latitude", "longitude")
        assert list(made["level"][:]) == [500, 850]
        assert list(made["latitude"][:]) == list(worlds.LATITUDE[::-1])
    again = tmp_path / "again"
    assert main(["evaluate", str(out), "--leads", "2", "-n", "2", "--cases", "3", "--steps", "3"]) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert "crps_geopotential850_48h" in json.dumps(found)
    assert (out / "forecast.png").is_file()
    assert not again.exists()


def test_what_has_no_value_is_not_seen_and_weighs_nothing(tmp_path: Path) -> None:
    values = worlds.fields(60)
    values["msl"][:, 1:3, 2] = np.nan
    data = worlds.netcdf(tmp_path / "a.nc", values, worlds.times(60))
    assert (
        main(
            [
                "train",
                "weather",
                str(data),
                *worlds.TRAIN,
                "--previews",
                "0",
                "--steps",
                "1",
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 0
    )
    model = load(tmp_path / "run")
    rows = fetch(model.recipe.open(model.run).train, range(3))
    network = stirred(model)
    t, rng = torch.full((3,), 0.5), torch.Generator().manual_seed(0)
    x, weight = rows.x, rows.weight
    z = torch.randn(x.shape, generator=rng)
    other = z.clone()
    other[:, 0, 1:3, 2] += 100 * torch.randn(3, 2, generator=rng)
    first, second = (
        loss(Denoiser(network, model.process), x, t, z=each, weight=weight, **rows.condition) for each in (z, other)
    )
    assert torch.allclose(first, second)
    assert torch.isfinite(first).all()
    # the rest weighs as much as its area: of cells of the same error those nearer the poles count less
    assert weight[0, 1, 0, 0] / weight[0, 1, 2, 0] == pytest.approx(
        np.cos(np.deg2rad(75)) / np.cos(np.deg2rad(15)), rel=1e-5
    )
    assert float(weight[0, 1].mean()) == pytest.approx(1, rel=1e-5)


def stirred(model) -> FieldNetwork:
    """The network of a run with weights that say something."""
    network = model.recipe.build(model.facts, "cpu")
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        there, maps = maps_of(model.companions)
        network.there.copy_(there)
        network.maps.copy_(maps)
    return network.eval()


@pytest.mark.parametrize(
    ("closes", "columns", "seen"),
    [
        (True, 32, [*range(28, 32), *range(32), *range(4)]),
        (True, 30, [*range(25, 30), *range(30), *range(5)]),
        (False, 30, [0, *range(30), 29]),
    ],
)
def test_a_whole_circle_is_seen_across_its_seam_and_a_region_is_not(
    closes: bool, columns: int, seen: list[int]
) -> None:
    network = FieldNetwork(channels=1, maps=0, rows=4, columns=columns, closes=closes, width=8, attention_levels=0)
    shown: list[torch.Tensor] = []
    network.body.register_forward_pre_hook(lambda _, x, told: shown.append(told["beside"]), with_kwargs=True)
    state = torch.arange(columns).float().expand(1, 2, 4, columns)
    answer = network(torch.zeros(1, 1, 4, columns), torch.zeros(1), state=state, clock=torch.zeros(1, 4))
    assert shown[0][0, 0, 0].tolist() == seen
    assert answer.shape == (1, 1, 4, columns)


def test_what_makes_no_sense_is_said_in_a_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "f.nc")]
    for words, wrong in (
        (["sample", str(run), "--start", "2003-06-01", *out], "2003-06-01 00:00 is not among the times"),
        (["sample", str(run), "--start", "2000-01-01T12:00", *out], "a step before, is not among the times"),
        (["sample", str(run), "--start", "June", *out], "must be a date"),
        (["sample", str(run), "--leads", "0", *out], "leads = 0"),
        (["sample", str(run), "--leads", "5000", *out], "no held-out start has its truth for as long"),
        (["sample", str(run), "--out", str(tmp_path / "f.csv")], "must be a file that ends with one of .nc"),
        (["evaluate", str(run), "-n", "1"], "two members"),
        (["evaluate", str(run), "--since", "2020-01-01", "--before", "2021-01-01"], "0 start(s)"),
        (["train", "weather", str(tmp_path), "--out", str(tmp_path / "a")], "holds no NetCDF file"),
    ):
        assert main(words) != 0, words
        said = capsys.readouterr().err.strip().splitlines()
        assert wrong in said[-1], said
        assert not any("Traceback" in line for line in said)
