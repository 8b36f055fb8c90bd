"""Pipelines of diffusers as denoisers of ours: same calls, same samples, changes in and out, and back into a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.data import Items
from sfumato.diffusion import Denoiser, LogitNormal, loss
from sfumato.diffusion.generate import Blanks, streams
from sfumato.errors import DataError, Wrong
from sfumato.jobs.walk import Walk
from sfumato.networks import lora
from sfumato.open_models import exported, opened
from sfumato.open_models.lora_files import NAME, read_change, write_change
from sfumato.training import checkpoint

diffusers = pytest.importorskip("diffusers", reason="the extra hf is not installed")
from .tiny import EVERY, ROWS, finest, made, theirs  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("pipelines")
    return {name: made(name).save(place / name) for name in EVERY}


def noise(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """What `OpenModel.sample` begins with."""
    queries = Blanks(torch.zeros(shape), ROWS)
    return torch.cat([torch.randn(0), *(opened_prior(queries, shape, seed))]).reshape(ROWS, *shape)


def opened_prior(queries: Blanks, shape: tuple[int, ...], seed: int) -> list[torch.Tensor]:
    from sfumato.diffusion import Gaussian

    rng = streams(queries, range(ROWS), seed, ("sample",))
    return [Gaussian().prior(torch.zeros(ROWS, *shape), rng).flatten()]


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_a_call_is_theirs(name: str, folders: dict[str, Path]) -> None:
    one, model = made(name), opened(folders[name])
    flow = "FlowMatch" in type(one.scheduler).__name__
    for step in (0, 1, 400, 777, 999):
        x = noise(one.shape, step)
        t = torch.tensor(step / 1000 if flow else (step + 1) / 1000, dtype=torch.float64)
        answer = model.denoiser.answer(x, t, **one.condition)
        wanted = one.call(one.network, x, torch.full((ROWS,), float(step)))
        torch.testing.assert_close(answer, wanted, rtol=1e-5, atol=1e-5)
        assert float(wanted.std()) > 0.01
    assert set(one.condition) <= set(model.network.conditions)


@pytest.mark.parametrize("name", EVERY)
def test_its_own_samples_are_drawn_where_its_sampler_stops(name: str, folders: dict[str, Path]) -> None:
    one, model = made(name), opened(folders[name])
    for steps in (10, 25):
        mine = model.sample(ROWS, condition=one.condition, side=8, walk=Walk(steps=steps, batch=ROWS), theirs=True)
        wanted = theirs(one, noise(one.shape), steps)
        size = float(wanted.std())
        torch.testing.assert_close(mine / size, wanted / size, rtol=1e-4, atol=1e-4)


def test_guidance_is_theirs(folders: dict[str, Path]) -> None:
    one, model = made("stable_diffusion"), opened(folders["stable_diffusion"])
    empty = torch.zeros(1, 5, 12) + 0.3
    how = Walk(steps=10, batch=ROWS, w=4.0)
    mine = model.sample(ROWS, condition=one.condition, weak={"context": empty}, walk=how, theirs=True)
    x, net, scheduler = noise(one.shape), one.network, one.scheduler
    scheduler.set_timesteps(10)
    with torch.no_grad():
        for step in scheduler.timesteps:
            weak = net(x, step, encoder_hidden_states=empty.expand(ROWS, -1, -1)).sample
            answer = weak + 4.0 * (one.call(net, x, step) - weak)
            x = scheduler.step(answer, step, x, return_dict=False)[0]
    torch.testing.assert_close(mine / x.std(), x / x.std(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_3", "dit"])
def test_ten_steps_of_ours_are_nearer_to_a_thousand_than_theirs(name: str, folders: dict[str, Path]) -> None:
    one, model = made(name), opened(folders[name])
    z = noise(one.shape)
    fine = theirs(one, z, 1000, finest(one))
    apart = (theirs(one, z, 10) - fine).square().mean().sqrt()
    mine = model.sample(ROWS, condition=one.condition, walk=Walk(steps=10, batch=ROWS))
    assert float((mine - fine).square().mean().sqrt() / apart) < 0.6


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_3", "flux"])
def test_a_change_is_learned_and_diffusers_loads_it(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    one, model = made(name), opened(folders[name])
    plain = {k: v.clone() for k, v in model.network.network.state_dict().items()}
    adapted = lora.adapted(model.network, 3, alpha=6.0).train()
    x = noise(one.shape, 5)
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], 0.02)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        t = torch.tensor([0.3, 0.7])
        value = loss(Denoiser(adapted, model.process), x, t, z=noise(one.shape, 6), **one.condition).mean()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[-1] < losses[0]
    inner = {k.removeprefix("network."): v for k, v in adapted.state_dict().items()}
    file = write_change(tmp_path / NAME, inner, plain, one.part, scale=2.0)
    mine = opened(folders[name]).changed(file)
    t = torch.tensor(0.5, dtype=torch.float64)
    with torch.no_grad():
        merged = mine.denoiser.answer(x, t, **one.condition)
        live = Denoiser(adapted.eval(), model.process).answer(x, t, **one.condition)
        before = opened(folders[name]).denoiser.answer(x, t, **one.condition)
        torch.testing.assert_close(merged, live, rtol=1e-4, atol=1e-5)
        assert float((merged - before).abs().max()) > 1e-3
        one.network.load_lora_adapter(str(tmp_path), prefix=one.part, weight_name=NAME)
        step = model.process.precondition(x, t)[1]
        wanted = one.call(one.network, x, step)
    torch.testing.assert_close(merged, wanted, rtol=1e-4, atol=1e-5)


def test_a_change_that_diffusers_wrote_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    from peft import LoraConfig

    one = made("stable_diffusion_3")
    one.network.add_adapter(
        LoraConfig(r=4, lora_alpha=10, init_lora_weights=False, target_modules=["to_q", "to_out.0", "proj_out"])
    )
    one.network.save_lora_adapter(tmp_path)
    model = opened(folders["stable_diffusion_3"])
    x, t = noise(one.shape), torch.tensor(0.4, dtype=torch.float64)
    with torch.no_grad():
        wanted = one.call(one.network, x, torch.full((ROWS,), 400.0))
        for strength, far in ((1.0, 0.0), (0.5, 1e-3)):
            found = model.changed(tmp_path, strength).denoiser.answer(x, t, **one.condition)
            apart = float((found - wanted).abs().max())
            assert (apart < 1e-4) if far == 0 else (apart > far)
    named = {f"transformer.{name}": value for name, value in checkpoint.read_tensors(tmp_path / NAME).items()}
    checkpoint.save_weights(tmp_path / "named.safetensors", named, {})
    with pytest.raises(Wrong, match="has no change of unet"):
        read_change(tmp_path / "named.safetensors", "unet")
    other = opened(folders["flux"])
    with pytest.raises(Wrong, match="give a change of this model"):
        other.changed(tmp_path)


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_3"])
@torch.no_grad()
def test_what_is_exported_diffusers_loads(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    one, model = made(name), opened(folders[name])
    weights = {k: v + 0.01 for k, v in model.network.network.state_dict().items()}
    out = exported(model, tmp_path / "out", weights)
    loaded: Any = type(one.network).from_pretrained(out / one.part, use_safetensors=True)
    again, x = opened(out), noise(one.shape)
    t = torch.tensor(0.5, dtype=torch.float64)
    wanted = one.call(loaded.eval(), x, model.process.precondition(x, t)[1])
    torch.testing.assert_close(again.denoiser.answer(x, t, **one.condition), wanted, rtol=1e-5, atol=1e-5)
    assert float((wanted - model.denoiser.answer(x, t, **one.condition)).abs().max()) > 1e-3
    assert again.scheduler == model.scheduler
    with pytest.raises(DataError, match="exists already"):
        exported(model, out)


@torch.no_grad()
def test_pictures_are_coded_and_decoded_by_its_autoencoder(folders: dict[str, Path], tmp_path: Path) -> None:
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,), latent_channels=4, norm_num_groups=4, scaling_factor=0.5, shift_factor=0.1,
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
    ).eval()  # fmt: skip
    out = exported(opened(folders["stable_diffusion_3"]), tmp_path / "whole")
    vae.save_pretrained(out / "vae")
    model, x = opened(out), noise((4, 8, 8))
    torch.testing.assert_close(model.decoded(x), vae.decode(x / 0.5 + 0.1).sample)
    pictures = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model.encoded(pictures), (vae.encode(pictures).latent_dist.mean - 0.1) * 0.5)
    assert model.sample(1, condition=made("stable_diffusion_3").condition, walk=Walk(steps=2)).shape == (1, 4, 8, 8)


def test_it_is_trained_by_the_loop_as_any_network(folders: dict[str, Path], tmp_path: Path) -> None:
    import sfumato
    from sfumato.training.objective import Task

    model = opened(folders["ddpm"])
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    network = lora.adapted(model.network, 2)
    data = Items({"x": torch.randn(12, 3, 8, 8)})
    run = sfumato.fit(
        Task(network, model.process, data, times=LogitNormal()), tmp_path / "run", steps=3, batch=4, threads=1
    )
    learned, _ = checkpoint.read_weights(run.model)
    change = lora.factors(learned)
    assert any(bool(value.any()) for name, value in change.items() if name.endswith("lora_B.weight"))
    whole = lora.merged(learned, 1.0)
    held = {f"{name.removesuffix('.lora_A.weight')}.weight" for name in change}
    assert all(torch.equal(whole[name], value) for name, value in before.items() if name not in held)


def test_no_pickle_no_strange_class_no_code(folders: dict[str, Path], tmp_path: Path) -> None:
    out = exported(opened(folders["ddpm"]), tmp_path / "out")
    config = out / "unet" / "config.json"
    told = json.loads(config.read_text())
    (out / "unet" / "evil.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w').close()\nclass Evil: pass\n")
    config.write_text(json.dumps({**told, "_class_name": "Evil", "auto_map": {"AutoModel": "evil.Evil"}}))
    with pytest.raises(DataError, match="is of class 'Evil'; known are DiT"):
        opened(out)
    config.write_text(json.dumps({**told, "auto_map": {"AutoModel": "evil.Evil"}}))
    opened(out)
    assert not (tmp_path / "it_ran").exists()
    config.write_text(json.dumps({**told, "block_out_channels": [8, 24]}))
    with pytest.raises(DataError, match="do not fit"):
        opened(out)
    config.write_text(json.dumps(told))
    weights = out / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(DataError, match=r"diffusion_pytorch_model\.bin is not opened, for it can run code"):
        opened(out)
    with pytest.raises(DataError, match=r"has no unet/config\.json or transformer/config\.json"):
        opened(tmp_path)
    scheduler = out / "scheduler" / "scheduler_config.json"
    weights.with_suffix(".bin").rename(weights)
    scheduler.write_text('{"beta_schedule": "odd"}')
    with pytest.raises(DataError, match="beta_schedule = 'odd'"):
        opened(out)
    scheduler.write_text("[" * 100_000)
    with pytest.raises(DataError, match="cannot be read"):
        opened(out)
    with pytest.raises(Wrong, match="condition 'context': this network takes label"):
        opened(folders["dit"]).sample(1, condition={"context": torch.zeros(1, 2, 3)})


def test_weights_in_pieces_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    out = exported(opened(folders["dit"]), tmp_path / "out")
    one = made("dit")
    for file in (out / "transformer").glob("*.safetensors"):
        file.unlink()
    one.network.save_pretrained(out / "transformer", max_shard_size="20KB")
    assert len(list((out / "transformer").glob("*.safetensors"))) > 1
    model = opened(out)
    for name, value in one.network.state_dict().items():
        assert torch.equal(model.network.network.state_dict()[name], value)
    index = next((out / "transformer").glob("*.index.json"))
    told = json.loads(index.read_text())
    index.write_text(json.dumps({**told, "weight_map": {"a": "../../elsewhere.safetensors"}}))
    with pytest.raises(DataError, match="names files elsewhere"):
        opened(out)
