"""The peers' half of :mod:`benchmarks.seconds`: one library trains on the given pictures for the given CPU seconds.

Each follows its own published recipe (the training script or README of its repository). Where that is meant for days
(warm-up over thousands of steps, averages of decay 0.9999), it is given the better of two worlds: the warm-up is at most
a tenth of the run, and it is sampled with the averaged and with the last weights. No recipe flips pictures here.
"""

from __future__ import annotations

import copy
import json
import sys
import time
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Draw = Callable[[int, int, torch.Generator], Tensor]
"""(how many, network calls, randomness) -> pictures (n, 3, side, side) in [-1, 1]."""


class Clock:
    """CPU seconds of this process since the start of training, against the budget; shows progress."""

    def __init__(self, name: str, budget: float) -> None:
        self.name, self.budget, self.begin, self.shown = name, budget, time.process_time(), 0.0

    @property
    def gone(self) -> float:
        return time.process_time() - self.begin

    def over(self, steps: int) -> bool:
        if self.gone - self.shown > self.budget / 10:
            self.shown = self.gone
            print(f"{self.name}: {steps} steps, {self.gone:.0f} of {self.budget:.0f} CPU seconds", flush=True)
        return self.gone >= self.budget


def nearest_size(
    wanted: int, build: Callable[..., nn.Module], widths: Sequence[int], shapes: Sequence[Any]
) -> nn.Module:
    """The network ``build(width, shape)`` whose number of parameters, which rises with the width, is nearest to ``wanted``;
    it must be within a tenth of it."""

    @cache
    def size(width: int, shape: Any) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in build(width, shape).parameters())

    found: list[tuple[int, int, Any]] = []
    for shape in shapes:
        first_above = bisect_left(widths, wanted, key=lambda width, of=shape: size(width, of))
        for width in widths[max(0, first_above - 1) : first_above + 1]:
            found.append((abs(size(width, shape) - wanted), width, shape))
    away, width, shape = min(found, key=lambda item: item[0])
    if away > 0.1 * wanted:
        raise RuntimeError(f"no network within a tenth of {wanted} parameters; the nearest has {size(width, shape)}")
    return build(width, shape)


def batches(pictures: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Shuffled epochs without end."""
    while True:
        for rows in torch.randperm(len(pictures), generator=generator).split(size):
            if len(rows) == size or len(pictures) < size:
                yield pictures[rows]


# ---- the three libraries ---------------------------------------------------------------------------------------------


def diffusers(pictures: Tensor, given: dict[str, Any]) -> tuple[dict[str, Draw], dict[str, Any]]:
    """examples/unconditional_image_generation/train_unconditional.py: DDPM on noise, AdamW 1e-4, cosine decay, warmed-up
    average of power 3/4, batch 16; the U-Net of google/ddpm-cifar10-32, narrower."""
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        UNet2DModel,
        UniPCMultistepScheduler,
    )
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    side = pictures.shape[-1]

    def build(width: int, layers: int) -> nn.Module:
        return UNet2DModel(
            sample_size=side, layers_per_block=layers, block_out_channels=(width, 2 * width, 2 * width, 2 * width),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), norm_num_groups=4,
        )  # fmt: skip

    network = nearest_size(given["parameters"], build, range(16, 257, 4), (2, 1))
    noise_scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    source = batches(pictures, 16, torch.Generator().manual_seed(given["seed"]))

    def step() -> None:
        x = next(source)
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        answer = network(noise_scheduler.add_noise(x, noise, t), t).sample
        nn.functional.mse_loss(answer, noise).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    per_step = cost(step, optimizer, network)
    total = max(1, int(given["seconds"] / per_step))
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=min(500, total // 10), num_training_steps=total)
    clock, steps = Clock("diffusers", given["seconds"]), 0
    while not clock.over(steps):
        step()
        schedule.step()
        optimizer.zero_grad()
        average.step(network.parameters())
        steps += 1
    facts = {"steps": steps, "cpu_seconds": clock.gone}
    averaged = copy.deepcopy(network)
    average.copy_to(averaged.parameters())
    kinds = {
        "DDIM": (DDIMScheduler, {"timestep_spacing": "trailing"}),
        "DDPM": (DDPMScheduler, {"timestep_spacing": "trailing"}),
        "DPM++2M": (DPMSolverMultistepScheduler, {}),
        "DPM++2M karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
        "UniPC": (UniPCMultistepScheduler, {"use_karras_sigmas": True}),
    }

    def drawing(model: nn.Module, kind: str) -> Draw:
        def draw(count: int, calls: int, rng: torch.Generator) -> Tensor:
            cls, options = kinds[kind]
            scheduler = cls(num_train_timesteps=1000, **options)
            scheduler.set_timesteps(calls)
            named = {"generator": rng} if kind in ("DDIM", "DDPM") else {}
            x = torch.randn(count, 3, side, side, generator=rng)
            for t in scheduler.timesteps:
                answer = model(scheduler.scale_model_input(x, t), t).sample
                x = scheduler.step(answer, t, x, **named).prev_sample
            return x

        return draw

    return both(network, averaged, drawing, list(kinds)), {**facts, **described(network)}


def lucidrains(pictures: Tensor, given: dict[str, Any]) -> tuple[dict[str, Draw], dict[str, Any]]:
    """denoising-diffusion-pytorch's Trainer as in its README: v answer, sigmoid schedule, Adam 8e-5, batch 32 twice
    accumulated, average of decay 0.995; its loader's worker processes decode PNG files, unpaid for."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
    from denoising_diffusion_pytorch import denoising_diffusion_pytorch as module

    side = pictures.shape[-1]
    build = lambda dim, mults: Unet(dim=dim, dim_mults=mults)  # noqa: E731
    network = nearest_size(given["parameters"], build, range(8, 129, 2), ((1, 2, 4, 8), (1, 2, 4)))
    diffusion = GaussianDiffusion(network, image_size=side, timesteps=1000, sampling_timesteps=50)
    trainer = Trainer(
        diffusion, given["folder"], train_batch_size=32, train_lr=8e-5, train_num_steps=10**9,
        gradient_accumulate_every=2, ema_decay=0.995, amp=False, calculate_fid=False, num_samples=4,
        save_and_sample_every=10**9, augment_horizontal_flip=False, results_folder=given["out"],
    )  # fmt: skip
    clock = Clock("lucidrains", given["seconds"])
    source = trainer.dl

    def until_over() -> Iterator[Tensor]:
        for number, x in enumerate(source):
            if number % 2 == 0 and clock.over(trainer.step):
                trainer.train_num_steps = trainer.step  # ends its loop after this step
            yield x

    trainer.dl = until_over()
    trainer.train()
    facts = {"steps": trainer.step, "cpu_seconds": clock.gone}
    quiet = module.tqdm
    module.tqdm = lambda *items, **named: quiet(*items, **{**named, "disable": True})
    trained = {"last": diffusion, "average": trainer.ema.ema_model}

    def drawing(model: Any, kind: str) -> Draw:
        def draw(count: int, calls: int, rng: torch.Generator) -> Tensor:
            torch.manual_seed(rng.initial_seed())  # it draws its noise by itself
            model.sampling_timesteps, model.is_ddim_sampling = calls, True
            model.ddim_sampling_eta = {"DDIM": 0.0, "DDIM, eta 1": 1.0}[kind]
            x: Tensor = model.sample(batch_size=count) * 2 - 1
            return x

        return draw

    return both(trained["last"], trained["average"], drawing, ["DDIM", "DDIM, eta 1"]), {**facts, **described(network)}


def torchcfm(pictures: Tensor, given: dict[str, Any]) -> tuple[dict[str, Draw], dict[str, Any]]:
    """examples/images/cifar10/train_cifar10.py with OT-CFM: Adam 2e-4, batch 128, clipping, average of decay 0.9999."""
    from torchcfm import ExactOptimalTransportConditionalFlowMatcher
    from torchcfm.models.unet.unet import UNetModelWrapper
    from torchdiffeq import odeint

    side = pictures.shape[-1]

    def build(channels: int, shape: tuple[int, tuple[int, ...]]) -> nn.Module:
        blocks, mults = shape
        return UNetModelWrapper(
            dim=(3, side, side), num_res_blocks=blocks, num_channels=channels, channel_mult=list(mults), num_heads=4,
            num_head_channels=64, attention_resolutions="16", dropout=0.1,
        )  # fmt: skip

    shapes = [
        (blocks, mults) for blocks in (2, 1, 3) for mults in ((1, 2, 2, 2), (1, 2, 2, 4), (1, 2, 2), (1, 2, 4, 4))
    ]
    network = nearest_size(given["parameters"], build, (32, 64, 128, 256), shapes)
    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
    source = batches(pictures, 128, torch.Generator().manual_seed(given["seed"]))

    def step() -> None:
        x = next(source)
        t, x_t, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
        optimizer.zero_grad()
        ((network(t, x_t) - velocity) ** 2).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    per_step = cost(step, optimizer, network)
    warm = max(1, min(5000, int(given["seconds"] / per_step / 10)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step, warm) / warm)
    clock, steps = Clock("torchcfm", given["seconds"]), 0
    while not clock.over(steps):
        step()
        schedule.step()
        with torch.no_grad():
            for mean, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                mean.copy_(mean * 0.9999 + now * 0.0001)
        steps += 1
    facts = {"steps": steps, "cpu_seconds": clock.gone}

    def drawing(model: nn.Module, kind: str) -> Draw:
        def draw(count: int, calls: int, rng: torch.Generator) -> Tensor:
            model.eval()
            steps = {"euler": calls, "midpoint": calls // 2}[kind]
            times = torch.linspace(0, 1, steps + 1)
            x = torch.randn(count, 3, side, side, generator=rng)
            found: Tensor = odeint(lambda t, x: model(t, x), x, times, method=kind)[-1]
            return found

        return draw

    return both(network, average, drawing, ["euler", "midpoint"]), {**facts, **described(network)}


def cost(step: Callable[[], None], optimizer: torch.optim.Optimizer, network: nn.Module) -> float:
    """CPU seconds of a step, measured on five that are then undone."""
    weights, state = copy.deepcopy(network.state_dict()), copy.deepcopy(optimizer.state_dict())
    step()
    begin = time.process_time()
    for _ in range(4):
        step()
    seconds = (time.process_time() - begin) / 4
    network.load_state_dict(weights)
    optimizer.load_state_dict(state)
    optimizer.zero_grad()
    return seconds


def both(
    last: nn.Module, averaged: nn.Module, drawing: Callable[[Any, str], Draw], kinds: list[str]
) -> dict[str, Draw]:
    """Every sampler with the averaged and with the last weights."""
    pairs = {"average": averaged.eval(), "last weights": last.eval()}
    return {f"{kind}, {name}": drawing(model, kind) for kind in kinds for name, model in pairs.items()}


def described(network: nn.Module) -> dict[str, Any]:
    return {"parameters": sum(p.numel() for p in network.parameters()), "network": type(network).__name__}


LIBRARIES = {"diffusers": diffusers, "lucidrains": lucidrains, "torchcfm": torchcfm}


@torch.no_grad()
def drawn(draw: Draw, count: int, calls: int, batch: int = 32) -> np.ndarray:
    """Pictures as bytes (count, 3, side, side)."""
    parts = []
    for start in range(0, count, batch):
        rng = torch.Generator().manual_seed(1000 + start)
        x = draw(min(batch, count - start), calls, rng)
        parts.append(((x.nan_to_num(0, 0, 0).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(parts).numpy()


def main(given_file: Path, found_file: Path) -> None:
    """Train, draw with every sampler at every number of calls, write the pictures to given["out"]."""
    warnings.simplefilter("ignore")
    given = json.loads(given_file.read_text())
    torch.set_num_threads(given["threads"])
    torch.manual_seed(given["seed"])
    pictures = torch.from_numpy(np.load(given["pictures"])).float() / 127.5 - 1
    samplers, facts = LIBRARIES[given["library"]](pictures, given)
    out = Path(given["out"])
    out.mkdir(parents=True, exist_ok=True)
    facts["samples"] = {}
    for number, (name, draw) in enumerate(samplers.items()):
        for calls in given["calls"]:
            if given.get("only") and given["only"][str(calls)] != name:
                continue
            path = out / f"{number}_{calls}.npy"
            np.save(path, drawn(draw, given["samples"], calls))
            facts["samples"].setdefault(name, {})[str(calls)] = str(path)
        print(f"{given['library']}: drawn with {name}", flush=True)
    found_file.write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
