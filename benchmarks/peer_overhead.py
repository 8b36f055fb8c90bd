"""The measuring half of :mod:`benchmarks.overhead_peers`, in the peers' environment: ours and theirs in one process."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import spread
from benchmarks.peers import k_diffusion_sampling
from sfumato.data import ArrayDataset, Statistics
from sfumato.diffusion import Denoiser, Gaussian, Linear, LogitNormal, ab, cosine, dpmpp_2m, euler, sample, unipc
from sfumato.networks import DiT
from sfumato.training import loop
from sfumato.training.objective import Task
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

Job = Callable[[], object]
SHAPE = (3, 32, 32)


def in_turn(jobs: dict[str, Job], repeats: int) -> dict[str, list[float]]:
    """Seconds of each job in each round; every round runs all, starting with another one, after one round of warming."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    names = list(jobs)
    for round_ in range(repeats + 1):
        for i in range(len(names)):
            name = names[(i + round_) % len(names)]
            begin = time.perf_counter()
            jobs[name]()
            if round_:
                seconds[name].append(time.perf_counter() - begin)
        print(f"sampling, round {round_ + 1} of {repeats + 1}", flush=True)
    return seconds


# ---- sampling ---------------------------------------------------------------------------------------------------------


def diffusers_job(network: nn.Module, z: Tensor, steps: int, name: str, **options: Any) -> Job:
    """The loop of a diffusers pipeline around one of its schedulers."""
    import diffusers

    scheduler = getattr(diffusers, name)(**options)

    @torch.no_grad()
    def job() -> Tensor:
        scheduler.set_timesteps(steps)
        x = z
        for t in scheduler.timesteps:
            if hasattr(scheduler, "scale_model_input"):
                x = scheduler.scale_model_input(x, t)
            answer = network(x, t.to(torch.float32).expand(len(x)))
            x = scheduler.step(answer, t, x, return_dict=False)[0]
        return x

    return job


def k_job(network: nn.Module, z: Tensor, steps: int, name: str) -> Job:
    """One of k-diffusion's samplers around EDM's input scaling and a noise answer."""
    sampling = k_diffusion_sampling()

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        scale = sigma[:, None, None, None]
        return x - scale * network(x / (scale**2 + 1).sqrt(), sigma.log())

    def job() -> Tensor:
        sigmas = sampling.get_sigmas_karras(steps, 0.002, 80.0)
        x: Tensor = getattr(sampling, name)(model, z * sigmas[0], sigmas, disable=True)
        return x

    return job


def azula_job(network: nn.Module, z: Tensor, steps: int, name: str, **options: Any) -> Job:
    """One of azula's samplers on its straight schedule."""
    from azula import noise
    from azula import sample as samplers
    from azula.denoise import Denoiser as Base
    from azula.denoise import DiracPosterior

    class Thin(Base):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.schedule = network, noise.RectifiedSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> DiracPosterior:
            alpha, sigma = self.schedule(t)
            return DiracPosterior(self.network(x_t, (sigma / alpha).log().expand(len(x_t))))

    sampler = getattr(samplers, name)(Thin(), steps=steps, silent=True, **options)

    def job() -> Tensor:
        x: Tensor = sampler(z)
        return x

    return job


class AsTheirs(nn.Module):
    """Our network with the attributes and the call that denoising-diffusion-pytorch expects of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.channels = self.out_dim = SHAPE[0]
        self.self_condition = self.random_or_learned_sinusoidal_cond = False

    def forward(self, x: Tensor, times: Tensor, x_self_cond: Any = None) -> Tensor:
        answer: Tensor = self.network(x, times.to(torch.float32))
        return answer


def lucidrains_job(network: nn.Module, z: Tensor, steps: int) -> Job:
    """denoising-diffusion-pytorch's DDIM sampler. It draws its noise itself and shows a progress bar, which is muted."""
    from denoising_diffusion_pytorch import GaussianDiffusion
    from denoising_diffusion_pytorch import denoising_diffusion_pytorch as module

    quiet = module.tqdm  # its bar on the way would be measured, and fill the screen
    module.tqdm = lambda *items, **named: quiet(*items, **{**named, "disable": True})
    diffusion = GaussianDiffusion(AsTheirs(network), image_size=SHAPE[1], sampling_timesteps=steps)

    def job() -> Tensor:
        x: Tensor = diffusion.sample(batch_size=len(z))
        return x

    return job


def sampling(width: int, depth: int, batch: int, steps: int, repeats: int) -> dict[str, Any]:
    """Ratios to the bare calls, one network for all."""
    torch.manual_seed(0)
    network = DiT(channels=3, width=width, depth=depth, patch=4).eval().requires_grad_(False)
    z, level = torch.randn(batch, *SHAPE), torch.zeros(batch)
    denoiser = Denoiser(network, Gaussian(Linear(), "data", "velocity"))
    times = cosine(Linear(), steps)

    @torch.no_grad()
    def bare() -> None:
        for _ in range(steps):
            network(z, level)

    jobs: dict[str, Job] = {"bare": bare}
    for name, solver in {"euler": euler(), "dpmpp_2m": dpmpp_2m(), "ab3": ab(3), "unipc3": unipc(3)}.items():
        jobs[f"sfumato {name}"] = lambda solver=solver: sample(denoiser, z, times, solver)  # type: ignore[misc]
    jobs["diffusers DDIM"] = diffusers_job(network, z, steps, "DDIMScheduler", timestep_spacing="trailing")
    jobs["diffusers DPM++2M"] = diffusers_job(network, z, steps, "DPMSolverMultistepScheduler", use_karras_sigmas=True)
    jobs["diffusers UniPC"] = diffusers_job(network, z, steps, "UniPCMultistepScheduler")
    jobs["diffusers FlowMatchEuler"] = diffusers_job(network, z, steps, "FlowMatchEulerDiscreteScheduler")
    for name in ("euler", "dpmpp_2m", "lms"):
        jobs[f"k-diffusion {name}"] = k_job(network, z, steps, f"sample_{name}")
    jobs["azula Euler"] = azula_job(network, z, steps, "EulerSampler")
    jobs["azula vAB3"] = azula_job(network, z, steps, "vABSampler", order=3)
    jobs["lucidrains DDIM"] = lucidrains_job(network, z, steps)
    seconds = in_turn(jobs, repeats)
    rows = {
        name: spread([own / plain for own, plain in zip(taken, seconds["bare"], strict=True)])
        for name, taken in seconds.items()
        if name != "bare"
    }
    return {"bare_call_ms": spread([s / steps * 1e3 for s in seconds["bare"]]), "ratios": rows, "batch": batch}


# ---- a training step --------------------------------------------------------------------------------------------------


def by_hand(network: nn.Module, batch: int) -> Job:
    """Forward, backward and optimiser step on data that is already there: what no library can save."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    x, z, t = torch.randn(batch, *SHAPE), torch.randn(batch, *SHAPE), torch.rand(batch).clamp(0.01, 0.99)

    def job() -> None:
        x_t = (1 - t)[:, None, None, None] * x + t[:, None, None, None] * z
        answer = network(x_t, torch.log(t / (1 - t)))
        ((answer - (z - x)) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return job


def timed(source: Iterator[Any], plain: Job, into: tuple[list[float], list[float]]) -> Iterator[Any]:
    """The items of a training loop's source of data; a step by hand in front of each, both timed."""
    begin = None
    while True:
        if begin is not None:
            into[0].append(time.perf_counter() - begin)
        start = time.perf_counter()
        plain()
        into[1].append(time.perf_counter() - start)
        begin = time.perf_counter()  # waiting for data counts as the loop's own
        try:
            item = next(source)
        except StopIteration:
            return
        yield item


def ratio(into: tuple[list[float], list[float]], skip: int = 5) -> dict[str, Any]:
    own, plain = into
    found = [a / b for a, b in zip(own[skip:], plain[skip:])]
    return {"ratio": spread(found), "by_hand_ms": spread([s * 1e3 for s in plain[skip:]])}


def our_step(build: Callable[[], nn.Module], pictures: np.ndarray, batch: int, repeats: int) -> dict[str, Any]:
    """A step of our loop: data, noise, clipping, two averages, checks, log."""
    dataset = ArrayDataset(pictures, Statistics.of(pictures))
    into: tuple[list[float], list[float]] = ([], [])
    plain, original = by_hand(build(), batch), loop._steps
    loop._steps = lambda *arguments: timed(iter(original(*arguments)), plain, into)  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder))
            run.create()
            task = Task(build(), Gaussian(Linear(), "velocity"), dataset, dataset, LogitNormal())
            options = TrainOptions(
                steps=repeats, batch=batch, previews=0, snapshots=0, save_seconds=1e6, precision="fp32", threads=1,
                optim=OptimOptions(lr=1e-3),
            )  # fmt: skip
            loop.train(task, run, options)
    finally:
        loop._steps = original  # type: ignore[assignment]
    return ratio(into)


def lucidrains_step(build: Callable[[], nn.Module], pictures: np.ndarray, batch: int, repeats: int) -> dict[str, Any]:
    """A step of denoising-diffusion-pytorch's Trainer: PNG files from a folder, clipping, average, as it does by itself."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer
    from PIL import Image

    into: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        for i, picture in enumerate(pictures):
            Image.fromarray(picture.transpose(1, 2, 0)).save(Path(folder) / f"{i:04d}.png")
        diffusion = GaussianDiffusion(AsTheirs(build()), image_size=SHAPE[1])
        trainer = Trainer(
            diffusion, folder, train_batch_size=batch, train_num_steps=repeats, calculate_fid=False, num_samples=4,
            save_and_sample_every=10**9, results_folder=str(Path(folder) / "results"),
        )  # fmt: skip
        trainer.dl = timed(trainer.dl, by_hand(build(), batch), into)
        trainer.train()
    return ratio(into)


def main(given_file: Path, found_file: Path) -> None:
    """Both parts."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    given = json.loads(given_file.read_text())
    found = {"sampling": sampling(given["width"], given["depth"], 4, given["steps"], given["repeats"])}
    pictures = np.random.default_rng(0).integers(0, 256, (512, *SHAPE), dtype=np.uint8)

    def build() -> nn.Module:
        torch.manual_seed(0)
        return DiT(channels=3, width=given["width"], depth=given["depth"], patch=4)

    batch = 16  # the least that denoising-diffusion-pytorch's trainer takes, and its default
    steps = given["training_steps"]
    found["training"] = {
        "batch": batch,
        "sfumato": our_step(build, pictures, batch, steps),
        "lucidrains": lucidrains_step(build, pictures, batch, steps),
    }
    found_file.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
