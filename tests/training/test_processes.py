"""One global batch gives the same loss and gradient in any number of processes and pieces, for every criterion (law 14)."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.adapting.flow_map import KINDS, Conversion, FlowMap, Guided
from sfumato.adapting.preferences import Improvement, Preference, Unaware
from sfumato.data import Items
from sfumato.diffusion import (
    Denoiser,
    Gaussian,
    Linear,
    LogitNormal,
    PerFrame,
    PerPart,
    Ramp,
    SelfConditioned,
    Uniform,
    optimal_transport,
)
from sfumato.diffusion.rng import uniform_like
from sfumato.networks import lora
from sfumato.training import checkpoint, loop, parallel
from sfumato.training.objective import Objective, Task, plain
from sfumato.training.optim import OptimOptions
from sfumato.training.parallel import Runtime, launched

from .small import made, options, processes, slow
from .worlds import CLASSES, COUNT, WORLDS, small

CPU = torch.device("cpu")


def conversion(kind: Any, name: str = "Gaussian", guided: Guided | None = None) -> Task:
    world = WORLDS[name]
    teacher = Denoiser(small(world.process, world.x(), seed=3).requires_grad_(False), world.process)
    criterion = Conversion(teacher, kind, guided)
    return world.task(criterion=criterion, denoiser=FlowMap, times=Uniform(0.0, 1.0), hidden={})


def frames(times: Any) -> Task:
    """Items of six frames, each with a time of its own."""
    process = Gaussian(Linear(), "data", "velocity")
    x = torch.randn(COUNT, 6, 2, generator=torch.Generator().manual_seed(0))
    items = Items({"x": x, "label": torch.arange(COUNT) % CLASSES})
    return Task(small(process, x, frames=6), process, items, times=times, hidden={("label",): 0.3})


def weighted() -> Task:
    """Items with weights: no two alike, and some numbers that do not count."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(COUNT, 4, generator=generator) * (torch.rand(COUNT, 4, generator=generator) < 0.7)
    world = WORLDS["Gaussian"]
    return Task(small(world.process, world.x()), world.process, world.items(weight=weight), hidden={("label",): 0.3})


def terms(denoiser: Denoiser, x: Tensor, t: Tensor, *, rng: Any, **other: Any) -> dict[str, Tensor]:
    """The plain loss, and one that draws: a criterion of two terms."""
    own = uniform_like(t, rng)
    return {"plain": plain(denoiser, x, t, rng=rng, **other), "drawn": own * denoiser(x, t).x.pow(2).mean(1)}


def conditioned(denoiser: Denoiser, x: Tensor, t: Tensor, *, rng: Any, given: Any, **other: Any) -> Tensor:
    """Self-conditioning, whose share is drawn from the rows' streams."""

    class Deaf(Denoiser):
        def answer(self, *asked: Any, previous: Tensor | None = None, **beside: Any) -> Tensor:
            seen = 0.0 if previous is None else previous
            return super().answer(*asked, **beside) + seen

    inner: Any = SelfConditioned(Deaf(denoiser.network, denoiser.process), rng=rng)
    return plain(inner, x, t, rng=rng, given=given, **other)


def low_rank() -> Task:
    """The plain loss of a network whose own weights are held."""
    task = WORLDS["Gaussian"].task()
    lora.adapted(task.network, 2)
    for name, value in task.network.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(0))
    return task


def judged(criterion: Callable[[Denoiser], Any], **more: Tensor) -> Task:
    """Items with judgements, which the network is not told."""
    world = WORLDS["Gaussian"]
    before = Denoiser(small(world.process, world.x(), seed=3).requires_grad_(False), world.process)
    task = world.task(criterion=criterion(before), denoiser=Unaware, hidden={})
    return replace(task, train=world.items(**more))


def others() -> Tensor:
    return torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(9))


TASKS: dict[str, Callable[[], Task]] = {
    "low rank": low_rank,
    "preference": lambda: judged(lambda before: Preference(before, 3.0), rejected=others()),
    "improvement": lambda: judged(
        lambda before: Improvement(before, before, leash=0.1), merit=others()[:, 0].sigmoid()
    ),
    "plain": lambda: WORLDS["Gaussian"].task(),
    "hidden": lambda: WORLDS["Gaussian"].task(hidden={("label",): 0.5}),
    "copies": lambda: WORLDS["Gaussian"].task(copies=3),
    "weights": weighted,
    "transport": lambda: WORLDS["Gaussian"].task(coupling=optimal_transport),
    "uncertainty": lambda: WORLDS["Gaussian"].task(uncertainty=True),
    "terms": lambda: WORLDS["Gaussian"].task(criterion=terms),
    "self-conditioned": lambda: WORLDS["Gaussian"].task(criterion=conditioned),
    "masked": lambda: WORLDS["Masked"].task(),
    "product": lambda: WORLDS["Product with tokens"].task(),
    "a time a frame": lambda: frames(PerFrame(LogitNormal())),
    "ramp": lambda: frames(Ramp(LogitNormal())),
    "a time a part": lambda: WORLDS["Product with tokens"].task(times=PerPart(LogitNormal(), 0.5)),
    **{kind: lambda kind=kind: conversion(kind) for kind in KINDS},  # type: ignore[misc]
    **{f"{kind}, guided": lambda kind=kind: conversion(kind, guided=Guided()) for kind in KINDS},  # type: ignore[misc]
    "product, converted": lambda: conversion("lagrangian", "Product", Guided()),
}


def descent(task: Task, world: int, accumulate: int = 1, batch: int = 8, step: int = 3) -> tuple[float, Tensor]:
    """Loss and gradient of one step as so many processes share it out, computed one after the other in this one."""
    how = options(batch=batch, accumulate=accumulate, seed=5)
    objective, total = Objective(task, False), 0.0
    for rank in range(world):
        _, pieces = next(loop._steps(task, how, step, Runtime(rank, world, CPU)))
        for i, piece in enumerate(pieces):
            rows = loop._draw(task, how, step, i * (batch // accumulate), piece, CPU)
            value, losses, _ = objective(*rows)
            (value / accumulate / world).backward()
            total += float(losses.mean()) / accumulate / world
    slopes = [p.grad.flatten() for p in objective.parameters() if p.grad is not None]
    return total, torch.cat(slopes).double()


@pytest.mark.parametrize(
    "name", [name for name in TASKS if name != "transport"]
)  # it needs processes that speak to each other
def test_one_batch_is_the_same_in_any_number_of_processes_and_pieces(name: str):
    whole, slope = descent(TASKS[name](), 1)
    assert math.isfinite(whole)
    assert slope.norm() > 1e-3
    # differences of the map, divided by their width, magnify rounding: 7e-7 of the loss was seen
    close = 1e-5 if any(kind in name for kind in KINDS) else 1e-6
    for world, accumulate in ((2, 1), (4, 1), (1, 2), (2, 2)):
        loss, mine = descent(TASKS[name](), world, accumulate)
        assert loss == pytest.approx(whole, rel=close)
        assert float((mine - slope).norm()) < 10 * close * float(slope.norm())


class Together:
    """What processes gather, where each is a thread."""

    def __init__(self, world: int):
        self.barrier, self.parts = threading.Barrier(world), [torch.empty(0)] * world

    def of(self, rank: int) -> Callable[[Tensor], Tensor]:
        def gather(value: Tensor) -> Tensor:
            self.parts[rank] = value
            self.barrier.wait(60)
            whole = torch.cat(self.parts)
            self.barrier.wait(60)
            return whole

        return gather


@pytest.mark.parametrize("copies", [1, 2])
def test_noise_is_dealt_out_among_all_processes_as_in_one(copies: int):
    """Which noise a sample meets must not depend on who else is in its process."""
    how = options(batch=8, seed=5)

    def drawn(world: int) -> list[Tensor]:
        together, found = Together(world), [torch.empty(0)] * world

        def work(rank: int) -> None:
            task = WORLDS["Gaussian"].task(coupling=optimal_transport, copies=copies)
            _, (piece,) = next(loop._steps(task, how, 3, Runtime(rank, world, CPU)))
            found[rank] = loop._draw(task, how, 3, 0, piece, CPU, together.of(rank) if world > 1 else None).z

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return found

    (whole,) = drawn(1)
    assert len({tuple(row.flatten().tolist()) for row in whole}) == len(whole) == 8 * copies
    for world in (2, 4):
        assert torch.equal(torch.cat(drawn(world)), whole)


@pytest.mark.parametrize("name", ["plain", "ramp", "lagrangian, guided"])
def test_another_step_is_another_batch(name: str):
    """The check above would see what does not depend on rows at all."""
    assert abs(descent(TASKS[name](), 1, step=4)[0] / descent(TASKS[name](), 1)[0] - 1) > 1e-3


# ---- two real processes -------------------------------------------------------------------------------------------------


def trained(name: str, folder: Path, world: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Ten steps of plain descent by so many processes: the weights, and the last line about steps in the log."""
    run = made(folder)
    how = options(batch=8, optim=OptimOptions(lr=0.02, clip=1.0), save_seconds=3600, previews=1)

    def work() -> None:
        # plain descent is linear in the gradient: AdamW would blow up rounding where a gradient is nearly zero
        loop.optim.build = lambda options, model, extra: torch.optim.SGD([*model.parameters(), *extra], lr=1.0)
        loop.train(TASKS[name](), run, how)

    assert processes(work, world) == [0] * world
    return checkpoint.read_tensors(run.model), next(record for record in run.records() if record.get("lr"))


@slow
@pytest.mark.parametrize(
    "name", ["terms", "transport", "lagrangian, guided", "a time a part", "low rank", "improvement"]
)
def test_two_processes_train_as_one(name: str, tmp_path: Path):
    try:
        one, two = (trained(name, tmp_path / str(world), world) for world in (1, 2))
    except OSError:
        pytest.skip("no local sockets here")
    assert one[1].keys() == two[1].keys()
    for word in one[1].keys() - {"time", "memory"}:
        assert two[1][word] == pytest.approx(one[1][word], rel=1e-4), word
    for layer, value in one[0].items():
        torch.testing.assert_close(two[0][layer], value, rtol=1e-4, atol=1e-5)


def test_processes_that_are_started_again_do_not_see_what_the_dead_left(monkeypatch: pytest.MonkeyPatch):
    """torchrun keeps one store for all starts; what a start writes there, its addresses too, is its own."""
    left, seen = torch.distributed.HashStore(), []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(parallel, "rendezvous", lambda _: iter([(left, 1, 2)]))
    monkeypatch.setattr(parallel, "pick_device", lambda _: torch.device("cpu"))
    for name in ("is_initialized", "get_rank", "destroy_process_group"):
        monkeypatch.setattr(parallel.dist, name, lambda: 0)
    monkeypatch.setattr(parallel.dist, "init_process_group", lambda kind, store, rank, world_size: seen.append(store))
    for start in ("0", "0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", start)
        with launched():
            pass
    seen[0].set("address of 0", "here")
    assert seen[1].check(["address of 0"])  # the others of the same start
    assert not seen[2].check(["address of 0"])
