"""The library on a CUDA device: equal to the CPU, trained, continued and sampled there.

Skipped without a device. `GPU_TESTS_ON=cpu` runs them on the CPU, which tries the tests themselves.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # what torch asks for before it promises the same bits again

import numpy as np
import pytest
import torch

from benchmarks.gpu import equality, library
from benchmarks.gpu.learning import shapes
from benchmarks.gpu.worlds import NETWORKS, WORLDS
from sfumato import networks
from sfumato.diffusion import Adaptive
from sfumato.training import checkpoint
from sfumato.training.optim import OptimOptions
from sfumato.training.saving import Saver

CHOSEN = os.environ.get("GPU_TESTS_ON", "cuda")
DEVICE = torch.device(CHOSEN)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        CHOSEN == "cuda" and not torch.cuda.is_available(), reason="no GPU here: torch.cuda.is_available() is False"
    ),
]
TOKENS = ("Masked", "UniformTokens", "Product")
"""Worlds with drawn tokens: a number that rounds to the other side of a threshold moves one of 48 tokens."""


# ---- equality --------------------------------------------------------------------------------------------------------


def test_a_walks_coefficients_are_the_same_bits() -> None:
    found = equality.one_step(DEVICE)
    assert all(found.values()), [name for name, same in found.items() if not same]


def test_a_solvers_factors_are_the_same_numbers() -> None:
    found = equality.solver_factors(DEVICE)
    assert max(found.values()) < 1e-12, found


def test_schedules_of_times_on_the_device() -> None:
    for name, found in equality.schedules(DEVICE).items():
        assert found["float64"] < 1e-10, name
        assert found["float32"] < 1e-3, name
        assert found["inverse, float64"] < 1e-9, name
        assert found["inverse, float32"] < 1e-3, name


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_answer_alike(name: str) -> None:
    found = equality.network_case(name, DEVICE)
    assert found["answer"] < 1e-3
    assert found["gradient"] < 1e-3
    assert found["bf16"] < 0.06


@pytest.mark.parametrize("name", equality.WALKS)
def test_walks_arrive_alike(name: str) -> None:
    # steps that are accepted or not by a threshold may differ by the tolerance, and so may a measured grid
    assert equality.walk_case(name, DEVICE) < (1e-2 if name in ("adaptive", "auto grid") else 1e-3)


@pytest.mark.parametrize("name", WORLDS)
def test_losses_and_gradients_are_alike_in_every_world(name: str) -> None:
    found = equality.world_case(name, DEVICE, "loss")
    assert found["loss"] < 1e-3
    assert found["gradient"] < 1e-3


@pytest.mark.parametrize("name", WORLDS)
def test_walks_are_alike_in_every_world(name: str) -> None:
    assert equality.world_case(name, DEVICE, "walk")["walk"] < (0.05 if name in TOKENS else 1e-3)


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_draws_on_the_device(name: str) -> None:
    assert equality.world_case(name, DEVICE, "drawn") == {"ran": 1.0}


# ---- training --------------------------------------------------------------------------------------------------------

SHAPE = (3, 16, 16)
OPTIONS: dict[str, Any] = {
    "batch": 32, "previews": 1, "snapshots": 1, "save_seconds": 1e6, "optim": OptimOptions(lr=2e-3, warmup=5),
}  # fmt: skip


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return networks.DiT(channels=3, width=64, depth=2, patch=4, classes=2)


def small_task() -> Any:
    return library.make_task(small_network(), shapes(256, 16), 32, labels=np.arange(256) % 2)


def losses(folder: Path) -> list[float]:
    return [each["loss"] for each in library.records(folder) if "loss" in each]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_learns_and_its_files_serve_on_both_devices(tmp_path: Path, precision: str) -> None:
    library.fit(small_task(), tmp_path, DEVICE, steps=120, precision=precision, compile="off", **OPTIONS)
    found = losses(tmp_path)
    assert len(found) == 12
    assert sum(found[-3:]) / 3 < 0.8 * found[0]
    assert all(np.isfinite(found))
    network = small_network()
    grid = library.trained(tmp_path, network)
    label = {"label": torch.arange(2)}
    for place in (torch.device("cpu"), DEVICE):
        given = {"bf16": precision == "bf16", "grid": grid, "steps": 6, "condition": label}
        drawn = library.draw_samples(network.to(place), SHAPE, 6, place, **given)
        assert drawn.shape == (6, *SHAPE)
        assert bool(torch.isfinite(drawn).all())
        assert 0.3 < float(drawn.std()) < 3


def final(folder: Path) -> dict[str, torch.Tensor]:
    path, complaints = checkpoint.newest(folder / "checkpoints")
    assert path is not None
    assert not complaints
    found = checkpoint.load(path)
    assert found.step == 10
    return {f"{group}/{name}": value for group, named in found.tensors.items() for name, value in named.items()}


@pytest.mark.parametrize("times", ["fixed", "adaptive"])
def test_ten_steps_are_five_and_five_more(tmp_path: Path, times: str) -> None:
    """Law 12 on the device: the second run begins with the first one's checkpoint of step 5, and nothing else."""

    def task() -> Any:
        return small_task() if times == "fixed" else dataclasses.replace(small_task(), times=Adaptive())

    options = {**OPTIONS, "steps": 10, "precision": "fp32", "compile": "off", "save_seconds": 1e-9, "keep": 20}
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        library.fit(task(), tmp_path / "straight", DEVICE, **options)
        shutil.copytree(tmp_path / "straight/checkpoints/step-00000005", tmp_path / "again/checkpoints/step-00000005")
        library.fit(task(), tmp_path / "again", DEVICE, **options)
    finally:
        torch.use_deterministic_algorithms(before)
    straight, again = final(tmp_path / "straight"), final(tmp_path / "again")
    assert straight.keys() == again.keys()
    apart = {name: equality.relative(again[name], straight[name]) for name in straight}
    assert max(apart.values()) < 1e-5, max(apart, key=lambda name: apart[name])
    started = checkpoint.load(tmp_path / "straight/checkpoints/step-00000005").tensors["network"]
    assert any(not torch.equal(value, straight[f"network/{name}"]) for name, value in started.items())


def test_a_background_save_holds_the_state_of_its_step(tmp_path: Path) -> None:
    """Large enough that the copy takes longer than it takes to begin the next step, and changed as soon as that is allowed."""
    live = {"network": {name: torch.zeros(4_000_000, device=DEVICE) for name in "abcd"}}
    work = torch.randn(512, 512, device=DEVICE)
    with Saver(tmp_path, 9, print) as saver:
        for step in range(1, 5):
            for value in live["network"].values():
                value.add_(1.0)
            saver.save(step, live, {})
            for _ in range(20):  # the next gradient, in the queue of the training
                work = torch.tanh(work @ work)
            saver.settle()
    for step in range(1, 5):
        found = checkpoint.load(tmp_path / f"step-{step:08d}").tensors["network"]
        assert all(bool((value == step).all()) for value in found.values())


def test_a_sample_is_the_same_alone_and_among_others() -> None:
    network = small_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    network.to(DEVICE)
    few, more = (library.draw_samples(network, SHAPE, count, DEVICE, bf16=False, steps=5, batch=3) for count in (3, 5))
    assert equality.relative(more[:3], few) < 1e-5
    assert equality.relative(more[3:4], few[:1]) > 0.1  # other noise


def test_a_compiled_training_is_the_same_training(tmp_path: Path) -> None:
    """Last, because compiling takes longer than all the others together."""
    for mode in ("off", "on"):
        torch.manual_seed(0)
        task = dataclasses.replace(
            small_task(), network=networks.DiT(channels=3, width=64, depth=1, patch=8, classes=2)
        )
        library.fit(task, tmp_path / mode, DEVICE, steps=20, precision="fp32", compile=mode, **OPTIONS)
    assert losses(tmp_path / "on") == pytest.approx(losses(tmp_path / "off"), rel=0.02)
