"""The whole job of a forecast through the command: inspect, train, resume, sample, measure, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import h5netcdf
import numpy as np
import pytest
import torch

from sfumato.cli import main
from sfumato.diffusion import Denoiser
from sfumato.diffusion.loss import loss
from sfumato.fields.weather import kernel, measure
from sfumato.fields.weather.network import FieldNetwork, maps_of
from sfumato.fields.weather.options import FieldNetworkOptions, ForecastMeasure
from sfumato.fields.weather.rollout import Forecasts, drawn
from sfumato.fields.weather.sphere import SphereGaussian
from sfumato.fields.weather.writing import read
from sfumato.jobs.model import Model, load
from sfumato.jobs.walk import Walk
from sfumato.training import checkpoint
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


def test_a_store_with_gaps_is_learned_and_forecast(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zarr as WeatherBench2 has it, a globe on levels with noise of the sphere: looked at, learned, gone on with, forecast,
    measured."""
    monkeypatch.setattr(
        measure, "pictures_of", lambda *_: {}
    )  # they are looked at in the demo's test, and take the longest
    values = worlds.fields(60)
    values["msl"][:, 1:3, 2] = np.nan
    data, out = worlds.store(tmp_path / "w.zarr", values, worlds.times(60), 3), tmp_path / "run"
    globe = ["sphere" if word == "cells" else word for word in worlds.TRAIN]
    assert main(["inspect", "weather", str(data), *globe]) == 0
    assert "geopotential500" in capsys.readouterr().out
    words = ["--previews", "0", "--steps", "2", "--held-out", "0.3", "--out", str(out)]
    assert main(["train", "weather", str(data), *globe, *words]) == 0
    assert isinstance(load(out).process, SphereGaussian)
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


@pytest.mark.parametrize("name", ["f.nc", "f.zarr"])
def test_the_verb_forecasts_what_sample_does_and_draws_the_plume(run: Path, tmp_path: Path, name: str) -> None:
    words = ["--leads", "2", "-n", "3", "--steps", "3"] + ["--no-plume"] * (name == "f.zarr")
    out = tmp_path / name
    assert (
        main(["weather", "forecast", str(run), "--init", "2003-06-01T12:00", "latest", *words, "--out", str(out)]) == 0
    )
    model = load(run)
    things = model.sample(3, start=("2003-06-01T12:00", "latest"), leads=2, steps=3)
    for thing, other in zip(read(model.facts, out), things[:3]):
        assert (thing.start, thing.member) == (other.start, other.member)
        assert np.array_equal(thing.values, other.values)
    assert name == "f.zarr" or (tmp_path / f"{name}.plume.png").stat().st_size > 10_000
    again = ["weather", "forecast", str(run), *{*words, "--no-plume"} - {*words}, *words]
    assert main([*again, "--out", str(out)]) == 0  # one of ours is replaced
    made = out / "msl" / "0.0.0.0.0" if out.is_dir() else out
    made.write_bytes(made.read_bytes() + b"mine")
    assert main([*again, "--out", str(out)]) != 0  # what somebody changed is not
    assert made.read_bytes().endswith(b"mine")


def test_a_rival_begins_with_the_weights_of_a_denoiser_and_answers_in_one_call(run: Path, tmp_path: Path) -> None:
    data, out = run.parent / "fields.nc", tmp_path / "rival"
    words = ["--previews", "0", "--steps", "2", "--held-out", "0.2", "--method.learn", "crps", "--out", str(out)]
    assert main(["train", "weather", str(data), *worlds.TRAIN, "--weights", str(run), *words]) == 0
    model = load(out)
    assert model.walk.steps == 1
    calls: list[int] = []
    model.denoiser.network.register_forward_pre_hook(lambda *_: calls.append(1))
    first, second = model.sample(2, leads=1)
    assert len(calls) == 1
    assert not np.array_equal(first.values, second.values)
    for name, begun in load(run).denoiser.network.state_dict().items():  # two steps of a small rate away
        moved = (model.denoiser.network.state_dict()[name].float() - begun.float()).abs().max()
        assert float(moved) < 0.02, name
    assert (
        main(
            ["train", "weather", str(data), *worlds.TRAIN, "--weights", str(tmp_path), *words[:-1], str(tmp_path / "b")]
        )
        != 0
    )


def test_members_are_drawn_from_each_network_in_turn(run: Path, tmp_path: Path) -> None:
    """As from each alone: member m is of network m mod 2, in an ensemble of any size; the second draws the whole change where
    the first draws what a regression leaves. What was not finished is trained by `resume`, and nothing else is."""
    data, out = run.parent / "fields.nc", tmp_path / "two"
    words = [
        "--previews",
        "0",
        "--steps",
        "2",
        "--held-out",
        "0.2",
        "--networks",
        "2",
        "--mean",
        "ridge",
        "--out",
        str(out),
    ]
    assert main(["train", "weather", str(data), *worlds.TRAIN, *words]) == 0
    first = out / "model.safetensors"
    model = load(out, Walk(steps=4))
    (other,) = model.companions.others
    assert other.whole
    store = dataclasses.replace(model.companions, others=())
    alone = dataclasses.replace(model, bring=lambda: store)
    plain = dataclasses.replace(store, mean=None)
    second = dataclasses.replace(model, denoiser=other.denoiser, bring=lambda: plain)
    start = model.companions.starts(model.facts.until, model.facts.held_until, 2)[3:4]

    def members(of: Model, count: int) -> torch.Tensor:
        (part,) = drawn(of, Forecasts(of.companions, start, count, 2), range(count))
        assert isinstance(part.x, torch.Tensor)
        return part.x

    both, one, two = members(model, 4), members(alone, 4), members(second, 4)
    assert torch.allclose(both[::2], one[::2], atol=1e-5)
    assert torch.allclose(both[1::2], two[1::2], atol=1e-5)
    assert not torch.allclose(both[1::2], one[1::2], atol=1e-3)
    assert torch.allclose(members(model, 3), both[:3], atol=1e-5)
    shutil.rmtree(out / "network-1")
    kept = checkpoint.read_weights(first)[0]
    assert len(load(out).companions.others) == 0  # a run stopped on the way forecasts with what is finished
    assert main(["resume", str(out)]) == 0
    assert all(torch.equal(value, kept[name]) for name, value in checkpoint.read_weights(first)[0].items())
    assert torch.allclose(members(load(out, Walk(steps=4)), 4), both, atol=1e-5)


@pytest.mark.parametrize("mean", ["ridge", "kernel"])
def test_what_a_regression_leaves_is_learned_and_forecast(run: Path, tmp_path: Path, mean: str) -> None:
    """In a linear world nothing is left to learn but noise of spread 1, and a network that knows that much, v = 0,
    forecasts as the law does."""
    data, out = run.parent / "fields.nc", tmp_path / mean
    words = ["--previews", "0", "--steps", "1", "--held-out", "0.2", "--mean", mean, "--out", str(out)]
    assert main(["train", "weather", str(data), *worlds.TRAIN, *words]) == 0
    model = load(out)
    store, facts = model.companions, model.facts
    windows = model.recipe.open(model.run)
    x = windows.train.batch(np.arange(len(windows.train)))["x"]
    assert np.abs(np.sqrt(np.square(x).mean((0, 2, 3))) - 1).max() < 0.05  # of spread 1
    deviation = worlds.SPREAD["msl"] * np.sqrt(1 - worlds.A**2) / facts.change[0]
    assert 1 < facts.residual[0] / deviation < 1.15  # the noise of the law, and what a regression errs
    known = dataclasses.replace(worlds.knowing(model, steps=20, batch=256), denoiser=Denoiser(Nothing(), model.process))
    start = store.starts(facts.until, facts.held_until, 1)[5:6]
    (part,) = drawn(known, Forecasts(store, start, 256, 1), range(256))
    found = store.restored(part.x)[:, 0]
    first = np.asarray(store.frames[start[0], 0]) - worlds.MEAN["msl"]
    wrong = (found[:, 0].mean(0) - worlds.MEAN["msl"] - worlds.A * first) / worlds.SPREAD["msl"]
    assert np.sqrt(np.square(wrong).mean()) < 0.3  # 196 numbers from 1200 days
    assert found[:, 0].std(0).mean() == pytest.approx(worlds.SPREAD["msl"] * np.sqrt(1 - worlds.A**2), rel=0.2)


def test_a_table_of_too_many_times_is_refused_in_a_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "MOST_DAYS", 1000)
    words = ["--steps", "1", "--held-out", "0.2", "--mean", "kernel", "--out", str(tmp_path / "k")]
    assert main(["train", "weather", str(run.parent / "fields.nc"), *worlds.TRAIN, *words]) != 0
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1,198 are more than 1,000; give --mean ridge" in last
    assert not (tmp_path / "k").exists()


class Nothing(torch.nn.Module):
    """The denoiser of normal numbers of spread 1, which v = 0 says at every level."""

    def __init__(self) -> None:
        super().__init__()
        self.options = {"kind": "fields"}
        self.blind = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor, level: torch.Tensor, **told: torch.Tensor) -> torch.Tensor:
        return 0 * x


def test_the_large_network_is_built_for_the_globe_with_its_parameters_and_shapes() -> None:
    """84 channels of WeatherBench2's 240 x 121 cells, on a device without memory."""
    options = FieldNetworkOptions(size="large")
    width, depth, multipliers, recompute = options.of("cpu")
    with torch.device("meta"):
        network = FieldNetwork(
            channels=84, maps=6, rows=121, columns=240, closes=True, width=width, depth=depth, multipliers=multipliers,
            recompute=recompute,
        )  # fmt: skip
        x, state = torch.empty(2, 84, 121, 240), torch.empty(2, 168, 121, 240)
        answer = network(x, torch.empty(2), state=state, clock=torch.empty(2, 4))
    assert answer.shape == x.shape
    count = sum(parameter.numel() for parameter in network.parameters())
    assert 150e6 < count < 300e6  # GenCast's and FGN's size
    assert recompute
    assert network.body.enter.in_channels == 84 + 168 + 6


def test_activations_worked_out_again_give_the_same_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        network = FieldNetwork(channels=2, maps=0, rows=6, columns=8, width=8, depth=1, recompute=recompute)
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))
        x, state = torch.randn(3, 2, 6, 8, generator=rng), torch.randn(3, 4, 6, 8, generator=rng)
        network(x, torch.zeros(3), state=state, clock=torch.zeros(3, 4)).square().sum().backward()
        gradients.append(
            torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])
        )
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_forecast_is_made_fast_by_a_flow_map(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "map"
    assert main(["distill", str(run), "--steps", "2", "--previews", "0", "--snapshots", "0", "--out", str(out)]) == 0
    assert (out / "steps.png").is_file()
    model = load(out)
    calls: list[int] = []
    model.denoiser.network.register_forward_pre_hook(lambda *_: calls.append(1))
    (thing,) = model.sample(1, leads=2, steps=1)
    assert len(calls) == 2  # a call a lead
    assert np.isfinite(thing.values).all()


@pytest.mark.slow
def test_the_demo_goes_from_nothing_to_a_scored_forecast(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, few = tmp_path / "planet", ForecastMeasure(n=4, cases=4)
    monkeypatch.setattr("sfumato.fields.weather.demo.ForecastMeasure", lambda **asked: few)  # a fifth of the forecasts
    assert main(["weather", "demo", "--out", str(out), "--days", "120", "--minutes", "0.02"]) == 0
    assert "against ridge" in capsys.readouterr().out
    for name in ("plume.png", "forecast.png", "ranks.png", "forecast.nc"):
        assert (out / name).stat().st_size > 5000, name
    assert main(["weather", "demo", "--out", str(out)]) != 0  # nothing is overwritten


def test_few_days_are_not_learned_by_heart(run: Path) -> None:
    recipe = load(run).recipe
    data = recipe.open(load(run).run)
    usual = recipe.training(data, "cpu")
    assert usual.steps is not None
    assert usual.batch is not None
    assert 30 * len(data.train) < usual.steps * usual.batch <= 40 * len(data.train)
    many = dataclasses.replace(data, train=range(100_000))
    assert recipe.training(many, "cpu").steps is None
