"""Ceilings of the machine, overhead of sampling, random numbers row by row."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu import library
from benchmarks.gpu.record import Facts, Record, clock, in_turn, syncs, wait
from sfumato import networks
from sfumato.diffusion import SOLVERS, Denoiser, Gaussian, Linear, Streams, cosine, dpmpp_2m, key, sample

DATASHEET = {"H100": 989.0, "H200": 989.0}
"""Dense bf16 TFLOP/s of the SXM cards by NVIDIA's data sheet."""


@dataclass(frozen=True)
class Sizes:
    """How large what is measured is."""

    product: int
    copied: int
    small: dict[str, Any]
    big: dict[str, Any]
    batches: tuple[int, ...]
    few: int
    repeats: int
    streams: tuple[int, ...]
    pictures: int
    side: int
    learner: dict[str, Any]
    samples: int


FULL = Sizes(
    product=8192,
    copied=1 << 31,
    small={"channels": 3, "width": 128, "depth": 4, "patch": 4},
    big={"channels": 4, "width": 768, "depth": 12, "patch": 2},
    batches=(128, 256),
    few=16,
    repeats=7,
    streams=(16, 256, 2048),
    pictures=20_000,
    side=64,
    learner={"channels": 3, "width": 384, "depth": 10, "patch": 4},
    samples=1024,
)
TINY = Sizes(
    product=256,
    copied=1 << 22,
    small={"channels": 3, "width": 32, "depth": 2, "patch": 8},
    big={"channels": 4, "width": 64, "depth": 2, "patch": 8},
    batches=(8,),
    few=2,
    repeats=3,
    streams=(4, 16),
    pictures=400,
    side=16,
    learner={"channels": 3, "width": 64, "depth": 2, "patch": 4},
    samples=64,
)


class Bf16(nn.Module):
    """A network under bf16 autocast, as the loop and `sfumato sample` run it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            answer: Tensor = self.network(x, level).float()
        return answer


def build(options: dict[str, Any], device: torch.device) -> nn.Module:
    """A transformer with weights that are nowhere zero."""
    torch.manual_seed(0)
    network = networks.DiT(**options).to(device)
    with torch.no_grad():
        for parameter in network.parameters():
            if not bool(parameter.any()):
                parameter.normal_(std=0.02)
    return network


def big_shape(sizes: Sizes) -> tuple[int, int, int]:
    return (sizes.big["channels"], 32, 32)


# ---- machine ---------------------------------------------------------------------------------------------------------


def machine(record: Record, device: torch.device, sizes: Sizes, facts: Facts) -> None:
    """What this is, and its two ceilings."""
    facts.update(
        device=str(device), python=platform.python_version(), torch=torch.__version__, cuda=torch.version.cuda,
        cores=os.cpu_count(), threads=torch.get_num_threads(), numpy=np.__version__,
    )  # fmt: skip
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts.update(
            card=properties.name, capability=list(torch.cuda.get_device_capability(device)),
            memory=properties.total_memory, multiprocessors=properties.multi_processor_count,
            cudnn=torch.backends.cudnn.version(),
            datasheet=next((peak for name, peak in DATASHEET.items() if name in properties.name), None),
        )  # fmt: skip
        record.attempt(facts, "driver", driver)

    record.attempt(facts, "tensorboard", tensorboard)

    def product() -> float:
        n = sizes.product
        a, b = (torch.randn(n, n, device=device).to(torch.bfloat16) for _ in range(2))
        times = in_turn(device, {"product": lambda: a @ b}, sizes.repeats, times=5)
        return 2 * n**3 / times["product"]["median"] / 1e12

    def copied() -> float:
        source = torch.randint(0, 256, (sizes.copied,), dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        times = in_turn(device, {"copy": lambda: target.copy_(source)}, sizes.repeats, times=5)
        return 2 * sizes.copied / times["copy"]["median"] / 1e9

    record.attempt(facts, "bf16 TFLOP/s", product)
    record.attempt(facts, "copy GB/s", copied)


def tensorboard() -> str:
    """Whether it is there. The loop writes events where it is installed; where that cannot be imported it is hidden from it, so
    that its fault is told here and spoils no training."""
    if importlib.util.find_spec("tensorboard") is None:
        return "not installed"
    try:
        importlib.import_module("torch.utils.tensorboard")
        return "there"
    except Exception:
        sys.modules["tensorboard"] = None  # type: ignore[assignment]
        raise


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, timeout=15, check=True).stdout.strip()


# ---- overhead of sampling --------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Counts the calls of a network."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        self.calls += 1
        answer: Tensor = self.network(x, level)
        return answer


def walked(network: nn.Module, z: Tensor, solver: Any, steps: int, rng: Callable[[], Any], repeats: int) -> Facts:
    """Seconds of a walk and of as many bare calls, taken in turn, and their ratio."""
    device, times = z.device, cosine(Linear(), steps)
    level = torch.zeros(len(z), device=device)
    counted = Counting(network)
    sample(Denoiser(counted, Gaussian(Linear(), "data", "velocity")), z, times, solver, rng())
    denoiser = Denoiser(network, Gaussian(Linear(), "data", "velocity"))

    @torch.no_grad()
    def bare() -> None:
        for _ in range(counted.calls):
            network(z, level)

    works = {"walk": lambda: sample(denoiser, z, times, solver, rng()), "bare": bare}
    found: Facts = in_turn(device, works, repeats, warm=1)
    ratio = found["walk"]["median"] / found["bare"]["median"]
    return {**found, "calls": counted.calls, "ms a call": found["bare"]["median"] / counted.calls * 1e3, "ratio": ratio}


def overhead(record: Record, device: torch.device, sizes: Sizes, facts: Facts) -> None:
    """`sample` against bare calls, and where the host waits for the device."""
    streams = lambda where: lambda: Streams(key("overhead"), range(sizes.few), where)  # noqa: E731
    one = torch.Generator(device).manual_seed(0)
    cases: dict[str, tuple[Any, Callable[[], Any]]] = {
        **{name: (SOLVERS[name], lambda: None) for name in ("euler", "heun", "ab3", "unipc", "dpmpp_2m")},
        "ancestral, streams on the CPU": (SOLVERS["ancestral"], streams("cpu")),
        "ancestral, streams on the device": (SOLVERS["ancestral"], streams(device)),
        "ancestral, one generator": (SOLVERS["ancestral"], lambda: one),
        "dpmpp_2m, eta 0.5, streams on the device": (dpmpp_2m(0.5), streams(device)),
        "churn, streams on the device": (SOLVERS["churn"], streams(device)),
    }
    for size, options, shape in (("small", sizes.small, (3, 32, 32)), ("big", sizes.big, big_shape(sizes))):
        network = Bf16(build(options, device).eval().requires_grad_(False))
        z = torch.randn(sizes.few, *shape, device=device)
        part = facts[size] = {"network": networks.describe(network.network), "batch": sizes.few, "steps": 20}
        for name, (solver, rng) in cases.items():
            record.attempt(part, name, walked, network, z, solver, 20, rng, max(3, sizes.repeats - 2))
    found = facts["syncs"] = {}
    network = Bf16(build(sizes.small, device).eval().requires_grad_(False))
    z, denoiser = (
        torch.randn(sizes.few, 3, 32, 32, device=device),
        Denoiser(network, Gaussian(Linear(), "data", "velocity")),
    )
    names = ("euler", "ancestral", "heun", "dpmpp_2m", "ab2", "ab3", "ab4", "unipc", "churn", "predictor_corrector")
    for name in names:
        work = partial(sample, denoiser, z, cosine(Linear(), 6), SOLVERS[name], streams(device)())
        record.attempt(found, f"walk of 6 steps, {name}", syncs, device, work)
    record.attempt(found, "adaptive times, one batch", syncs, device, library.observe_adaptive(device))
    record.attempt(found, "loop.train, 3 steps", train_syncs, record.out / "syncs", device, sizes)


def train_syncs(folder: Path, device: torch.device, sizes: Sizes) -> Facts:
    """Where the real loop waits, in 3 steps without previews; what it saves at the start and the end counts too."""
    pictures = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    task = library.make_task(build(sizes.small, device), pictures, 8)
    options = {"steps": 3, "batch": 8, "compile": "off", "previews": 0, "snapshots": 0, "save_seconds": 1e6}
    return syncs(device, lambda: library.fit(task, folder, device, **options))


# ---- random numbers row by row ---------------------------------------------------------------------------------------


def streams(record: Record, device: torch.device, sizes: Sizes, facts: Facts) -> None:
    """Seconds to draw a batch of (4, 32, 32), rows from streams of their own or all from one generator."""
    one = torch.Generator(device).manual_seed(0)

    def case(batch: int, name: str) -> dict[str, dict[str, float]]:
        shape = (batch, 4, 32, 32)

        def rows(where: torch.device | str) -> Tensor:
            return getattr(Streams(key("rows"), range(batch), where), name)(shape).to(device)

        kept = Streams(key("rows"), range(batch), device)
        plain = torch.randn if name == "normal" else torch.rand
        works = {
            "streams on the CPU, moved": lambda: rows("cpu"),
            "streams on the device": lambda: rows(device),
            "streams on the device, made before": lambda: getattr(kept, name)(shape),
            "making the streams on the device": lambda: Streams(key("rows"), range(batch), device),
            "one generator": lambda: plain(shape, generator=one, device=device),
        }
        return in_turn(device, works, sizes.repeats, warm=1)

    for batch in sizes.streams:
        for name in ("normal", "uniform"):
            record.attempt(facts, f"{name}, batch {batch}", case, batch, name)


def twin(network: nn.Module) -> nn.Module:
    """A copy with weights of its own."""
    return copy.deepcopy(network)


def compiled(network: nn.Module, example: Callable[[nn.Module], Any], device: torch.device, **options: Any) -> Facts:
    """Compile, call ``example`` with it once, and tell the seconds of that; the module is under "module"."""
    torch._dynamo.reset()
    module = torch.compile(network, **options)
    seconds = clock(device, lambda: example(module))
    wait(device)
    return {"module": module, "seconds": seconds}
