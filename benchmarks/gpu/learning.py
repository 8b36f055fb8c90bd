"""One real training: coloured shapes that are drawn here, learned through the library's loop, and a sheet of samples."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu import library
from benchmarks.gpu.record import Facts, Record, clock
from benchmarks.gpu.speed import Sizes
from sfumato import networks
from sfumato.diffusion import key

CHUNK = 250


def _chunk(number: int, count: int, side: int, seed: int) -> np.ndarray:
    """``count`` pictures (count, 3, side, side) uint8: a wavy ground, and one or two discs, squares or triangles."""
    rng = np.random.default_rng([seed, number])
    line = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    y, x = np.broadcast_arrays(line[:, None], line)

    def numbers(low: float, high: float, *more: int) -> np.ndarray:
        return rng.uniform(low, high, (count, *more, 1, 1)).astype(np.float32)

    picture = np.broadcast_to(numbers(0.15, 0.85, 3), (count, 3, side, side)).copy()
    for _ in range(2):
        turn, pitch = numbers(0, 2 * np.pi), numbers(3, 12)
        wave = np.sin(pitch * (x * np.cos(turn) + y * np.sin(turn)) + numbers(0, 2 * np.pi))
        picture += numbers(-0.12, 0.12, 3) * wave[:, None]
    for shape in range(2):
        kind, there = rng.integers(0, 3, (count, 1, 1)), rng.random((count, 1, 1)) < (1.0, 0.5)[shape]
        size, turn = numbers(0.2, 0.5), numbers(0, 2 * np.pi)
        right, down = x - numbers(-0.6, 0.6), y - numbers(-0.6, 0.6)
        u, v = (right * np.cos(turn) + down * np.sin(turn)) / size, (down * np.cos(turn) - right * np.sin(turn)) / size
        corner = np.maximum(-2 * v, np.maximum(v + 3**0.5 * u, v - 3**0.5 * u))
        reach = np.where(kind == 0, np.hypot(u, v), np.where(kind == 1, 1.2 * np.maximum(abs(u), abs(v)), corner))
        cover = (np.clip((1 - reach) * size * side / 2 + 0.5, 0, 1) * there)[:, None]
        picture += cover * (numbers(0, 1, 3) - picture)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def shapes(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Pictures (count, 3, side, side), uint8, a function of the seed alone."""
    sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        parts = pool.map(lambda i: _chunk(i, sizes[i], side, seed), range(len(sizes)))
        return np.concatenate(list(parts))


def sheet(samples: np.ndarray, real: np.ndarray, path: Path) -> Path:
    """64 samples left, 64 real pictures right, uint8 (64, 3, H, W) each; as .npy where there is no pillow."""

    def half(pictures: np.ndarray) -> np.ndarray:
        side = pictures.shape[2]
        rows = pictures[:64].reshape(8, 8, 3, side, side).transpose(0, 3, 1, 4, 2)
        return np.ascontiguousarray(rows.reshape(8 * side, 8 * side, 3))

    gap = np.full((8 * samples.shape[2], 8, 3), 255, np.uint8)
    whole = np.concatenate([half(samples), gap, half(real)], 1)
    try:
        from PIL import Image
    except ImportError:
        np.save(path.with_suffix(".npy"), whole)
        return path.with_suffix(".npy")
    Image.fromarray(whole).save(path)
    return path


def far(samples: Tensor, held_out: Tensor, train: Tensor, device: torch.device) -> Facts:
    """Kernel distance of samples to held-out pictures on texture features, and of as many training pictures (the floor)."""
    from sfumato.metrics.distances import kernel_distance
    from sfumato.metrics.features import Patches

    features = Patches.fit(train[: max(64, len(train) // 2)].to(device))
    aim = features(held_out.to(device))
    count = min(len(samples), len(train) // 2)
    value, floor = (kernel_distance(features(some.to(device)), aim) for some in (samples[:count], train[-count:]))
    return {"distance": value, "floor": floor, "samples": count, "held out": len(held_out)}


def training(record: Record, device: torch.device, sizes: Sizes, seconds: float, facts: Facts) -> None:
    """Draw, train for about ``seconds`` (as many steps as fit by the cost measured first), sample, compare, lay out."""
    begin = time.perf_counter()
    pictures = shapes(sizes.pictures, sizes.side)
    facts["seconds to draw"] = time.perf_counter() - begin
    held = min(2000, sizes.pictures // 4)
    torch.manual_seed(key("weights", 0))
    network = networks.DiT(**sizes.learner)
    task = library.make_task(network, pictures, held)
    batch = 128 if device.type == "cuda" else 16
    bf16 = device.type == "cuda"
    precision = "bf16" if bf16 else "fp32"
    cost = library.cost(task, batch, device, precision)
    steps = max(10, int(seconds / cost))
    facts.update(
        {"network": networks.describe(network), "batch": batch, "seconds of a step, measured": cost, "steps": steps}
    )
    record.say(f"  {steps} steps of {cost * 1e3:.1f} ms, {facts['network']}")
    record.save()
    folder = record.out / "run"
    options: dict[str, Any] = {
        "steps": steps, "batch": batch, "precision": precision, "compile": "off", "previews": 4, "snapshots": 0,
        "save_seconds": 1e6,
    }  # fmt: skip
    begin = time.perf_counter()
    library.fit(task, folder, device, **options)
    facts["seconds to train"] = time.perf_counter() - begin
    records = library.records(folder)
    losses = [(each["step"], each["loss"], each["time"]) for each in records if "loss" in each]
    facts["loss"] = [(step, round(loss, 5)) for step, loss, _ in losses[:: max(1, len(losses) // 60)]]
    facts["held-out loss"] = [(each["step"], each["held_out"]) for each in records if "held_out" in each]
    if len(losses) > 1:
        facts["images per second"] = (losses[-1][0] - losses[0][0]) * batch / max(1e-3, losses[-1][2] - losses[0][2])
    record.save()

    grid = library.trained(folder, network)
    network.to(device).requires_grad_(False)
    shape = pictures.shape[1:]
    begin = time.perf_counter()
    drawn = library.draw_samples(network, shape, sizes.samples, device, bf16=bf16, grid=grid)
    facts["samples per second"] = sizes.samples / (time.perf_counter() - begin)
    statistics = task.train.statistics
    made = np.clip((statistics.restore(drawn.numpy()) + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    facts["sheet"] = sheet(made, pictures[-64:], record.out / "sheet.png").name
    record.save()
    real = torch.from_numpy(statistics.standardise(pictures[-held:]))
    train = torch.from_numpy(statistics.standardise(pictures[: 2 * min(len(drawn), (len(pictures) - held) // 2)]))
    record.attempt(facts, "distance", far, drawn, real, train, device)
    for workers in (0, min(4, (os.cpu_count() or 2) // 2)):
        record.attempt(facts, f"seconds to read a batch, {workers} workers", read, pictures, batch, workers)


def read(pictures: np.ndarray, batch: int, workers: int, count: int = 30) -> float:
    """Seconds a batch, read as the loop reads them, after the first five."""
    batches = library.loaded(pictures, batch, count + 5, workers)
    for _ in range(5):
        next(batches)
    return clock(torch.device("cpu"), lambda: next(batches), count)
