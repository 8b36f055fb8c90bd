"""The device against the CPU. Everything is made on the CPU and moved, so that both sides see the same numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.record import Facts, Record
from benchmarks.gpu.worlds import NETWORKS, ROWS, SCHEDULES, WORLDS, normal
from sfumato.diffusion import (
    SOLVERS,
    VP,
    Denoiser,
    Descent,
    Endpoints,
    Equilibrium,
    Gaussian,
    Linear,
    Renoised,
    SelfConditioned,
    Streams,
    auto,
    cosine,
    dpmpp_2m,
    guide,
    key,
    loss,
    remember,
    residual,
    sample,
)

Tree = Any


def moved(tree: Tree, device: torch.device) -> Tree:
    """A tensor or a dict of trees on the device."""
    if isinstance(tree, Mapping):
        return {name: moved(part, device) for name, part in tree.items()}
    return tree.to(device)


def leaves(tree: Tree) -> Iterator[Tensor]:
    if isinstance(tree, Mapping):
        for part in tree.values():
            yield from leaves(part)
    else:
        yield tree


def relative(found: Tree, wanted: Tree) -> float:
    """||found - wanted|| / ||wanted|| over all numbers of the leaves, at worst; of whole numbers the share that differs."""
    worst = 0.0
    for a, b in zip(leaves(found), leaves(wanted), strict=True):
        a, b = a.detach().cpu(), b.detach().cpu()
        if not b.is_floating_point():
            apart = float((a != b).double().mean())
        else:
            apart = float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))
        worst = max(worst, apart if math.isfinite(apart) else math.inf)
    return worst


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in float32: no TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


# ---- coefficients ----------------------------------------------------------------------------------------------------


def schedules(device: torch.device) -> dict[str, dict[str, float]]:
    """Largest relative difference of alpha, sigma and log-SNR at times that are on the device, in float64 and float32."""
    found: dict[str, dict[str, float]] = {}
    for name, schedule in SCHEDULES.items():
        found[name] = {}
        for dtype in (torch.float64, torch.float32):
            t = torch.linspace(0.01, 0.99, 197, dtype=dtype)
            apart = 0.0
            for rule in (schedule.alpha, schedule.sigma, schedule.logsnr):
                here, there = rule(t), rule(t.to(device)).cpu()
                size = here.abs().clamp_min(1e-2)  # a log-SNR passes through 0
                apart = max(apart, float(((here - there).abs() / size).max()))
            t_back = schedule.time(schedule.logsnr(t.to(device))).cpu()
            found[name][str(dtype).removeprefix("torch.")] = apart
            found[name][f"inverse, {str(dtype).removeprefix('torch.')}"] = float((t_back - t).abs().max())
    return found


@dataclass
class Basis:
    """A guess that answers with one basis vector after the other, so that a walk's result is the list of its factors."""

    process: Gaussian
    size: int
    device: torch.device
    calls: list[int] = field(default_factory=lambda: [0])

    def unit(self, place: int) -> Tensor:
        vector = torch.zeros(1, self.size, dtype=torch.float64)
        vector[0, place] = 1
        return vector.to(self.device)

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        place = 2 * self.calls[0]
        self.calls[0] += 1
        return Endpoints(self.unit(place + 1), self.unit(place + 2))


def one_step(device: torch.device) -> dict[str, bool]:
    """Whether the factors of one step, at single times as in a walk, are the same bits on the device as on the CPU."""
    t, s = (torch.tensor(value, dtype=torch.float64) for value in (0.7, 0.45))
    found = {}
    for name, schedule in SCHEDULES.items():
        rows = []
        for place in (torch.device("cpu"), device):
            process = Gaussian(schedule, "v")
            units = Basis(process, 4, place)
            x, z = units.unit(0), units.unit(1)
            ends = process.endpoints(z, x, t)
            parts = [
                process.interpolate(x, z, t),
                *ends,
                process.noise_given(x, z, t),
                process.step(Endpoints(x, z), x, t, s),
            ]
            parts.append(process.precondition(x, t)[0])
            rows.append(torch.cat([part.cpu() for part in parts]))
        found[name] = bool(torch.equal(*rows))
    return found


def solver_factors(device: torch.device) -> dict[str, float]:
    """Largest difference of the factors with which a whole walk of 5 steps weighs its start and its guesses."""
    solvers = {name: SOLVERS[name] for name in ("euler", "heun", "ab2", "ab3", "ab4", "unipc", "dpmpp_2m")}
    found = {}
    for name, solver in solvers.items():
        for label, schedule in (("linear", Linear()), ("vp", VP())):
            ends = []
            for place in (torch.device("cpu"), device):
                guess = Basis(Gaussian(schedule, "data"), 40, place)
                ends.append(sample(guess, guess.unit(0), cosine(schedule, 5), solver).cpu())
            found[f"{name}, {label}"] = float((ends[0] - ends[1]).abs().max())
    return found


# ---- networks --------------------------------------------------------------------------------------------------------


def network_case(name: str, device: torch.device) -> dict[str, float]:
    """Errors of a network's answer and gradient in fp32, and of its answer under bf16 autocast."""
    net = NETWORKS[name]
    here = net.made()
    there = copy.deepcopy(here).to(device)
    x, level = normal(4, *net.shape), torch.linspace(-3, 3, 4).reshape(4, *[1] * len(net.level)).expand(4, *net.level)
    aim, condition = normal(4, *net.shape, seed=7), net.condition()
    with full_precision():
        wanted = here(x, level, **condition, **net.given)
        found = there(x.to(device), level.to(device), **moved(condition, device), **net.given)
        (wanted * aim).mean().backward()
        (found * aim.to(device)).mean().backward()
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            coarse = there(x.to(device), level.to(device), **moved(condition, device), **net.given)
    grads = [{n: p.grad for n, p in network.named_parameters() if p.grad is not None} for network in (there, here)]
    assert grads[0].keys() == grads[1].keys()
    sides = [torch.cat([grad[n].detach().cpu().double().flatten() for n in grads[1]]) for grad in grads]
    return {
        "answer": relative(found, wanted),
        "gradient": relative(sides[0], sides[1]),
        "bf16": relative(coarse.float(), wanted),
    }


# ---- walks -----------------------------------------------------------------------------------------------------------

WALKS = ("euler", "ancestral", "heun", "ab2", "ab3", "ab4", "unipc", "dpmpp_2m", "churn", "predictor_corrector", "adaptive",
         "euler_maruyama", "renoised", "dpmpp_2m, eta 0.5", "guided", "remembered", "auto grid")  # fmt: skip


class Seeing(nn.Module):
    """A network that is told its last guess."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, level: Tensor, *, previous: Tensor) -> Tensor:
        answer: Tensor = self.network(x + 0.1 * previous.to(x.dtype), level)
        return answer


def walk_case(name: str, device: torch.device) -> float:
    """Error of samples of a small transformer, 8 steps from the same noise, with the same fresh noise on the way."""
    network = NETWORKS["DiT, pictures"].made().requires_grad_(False)
    schedule = VP() if name == "euler_maruyama" else Linear()
    z = Streams(key("walk"), range(4)).normal((4, 3, 16, 16))
    samples = []
    with full_precision():
        for place in (torch.device("cpu"), device):
            own = copy.deepcopy(network).to(place)
            own = Seeing(own) if name == "remembered" else own
            guess: Any = Denoiser(own, Gaussian(schedule, "v"))
            times, condition = cosine(schedule, 8), {}
            more = {
                "renoised": Renoised(),
                "dpmpp_2m, eta 0.5": dpmpp_2m(0.5),
                "remembered": remember(SOLVERS["euler"]),
            }
            solver = more.get(name) or SOLVERS.get(name) or SOLVERS["euler"]
            if name == "guided":
                guess, condition = guide(guess, 2.0), {"label": torch.tensor([0, 1, 2, 0]).to(place)}
            if name == "auto grid":
                times = auto(guess, z.to(place))(schedule, 8)
            rng = Streams(key("fresh"), range(4))
            samples.append(sample(guess, z.to(place), times, solver, rng, **condition))
    assert samples[1].device.type == device.type
    return relative(samples[1], samples[0])


# ---- worlds ----------------------------------------------------------------------------------------------------------


def world_case(name: str, device: torch.device, part: str) -> dict[str, float]:
    """One ``part`` of a process on the device: "loss" (with the gradient) and "walk" (with numbers drawn on the CPU) against
    the CPU; "drawn": loss and walk with noise drawn on the device, from streams and from one generator: only that it runs,
    stays on the device and is finite."""
    world, steps = WORLDS[name], []
    torch.manual_seed(0)
    network, x = world.network(), world.data()
    z = world.process.prior(x, Streams(key("noise"), range(ROWS)))
    t = torch.linspace(0.05, 0.95, ROWS)
    solver: Any = Descent(most=5) if isinstance(world.process, Equilibrium) else SOLVERS["euler"]
    solver = type(solver)(world.eta) if world.eta else solver
    times = torch.tensor([1.0, 0.0], dtype=torch.float64) if isinstance(world.process, Equilibrium) else world.times()

    def denoiser(place: torch.device) -> Denoiser:
        return Denoiser(copy.deepcopy(network).to(place), world.process)

    with full_precision():
        if part == "loss":
            for place in (torch.device("cpu"), device):
                guess = denoiser(place)
                losses = loss(guess, moved(x, place), t.to(place), z=moved(z, place))
                losses.mean().backward()
                grads = [p.grad.detach().cpu().flatten() for p in guess.network.parameters()]  # type: ignore[attr-defined]
                steps.append({"loss": losses, "gradient": torch.cat(grads)})
            return {each: relative(steps[1][each], steps[0][each]) for each in ("loss", "gradient")}
        if part == "walk":
            for place in (torch.device("cpu"), device):
                rng = Streams(key("fresh"), range(ROWS))
                steps.append(sample(denoiser(place), moved(z, place), times, solver, rng))
            return {"walk": relative(steps[1], steps[0])}
        guess, here = denoiser(device), moved(x, device)
        for rng in (Streams(key("own"), range(ROWS), device), torch.Generator(device).manual_seed(0), None):
            noise = world.process.prior(here, rng)
            values = loss(guess, here, t.to(device), rng)
            drawn = sample(guess, noise, times, solver, rng)
            for tensor in (*leaves(noise), values, *leaves(drawn)):
                assert tensor.device.type == device.type, f"{tensor.device}"
                assert bool(torch.isfinite(tensor.double()).all()), "not finite"
        if isinstance(world.process, Equilibrium):
            assert residual(guess, here).device.type == device.type
        if name.startswith("Gaussian"):
            seeing = SelfConditioned(
                Denoiser(Seeing(guess.network), world.process), rng=Streams(key("see"), range(ROWS))
            )  # type: ignore[arg-type]
            loss(seeing, here, t.to(device)).mean().backward()  # type: ignore[arg-type]
    return {"ran": 1.0}


def equality(record: Record, device: torch.device, facts: Facts) -> None:
    """The section: every case of its own, so that each fault is seen."""
    record.attempt(facts, "schedules, apart", schedules, device)
    record.attempt(facts, "one step, exact", one_step, device)
    record.attempt(facts, "solvers, apart", solver_factors, device)
    networks_: Facts = {}
    walks: Facts = {}
    worlds: dict[str, Facts] = {}
    facts.update(networks=networks_, walks=walks, worlds=worlds)
    for name in NETWORKS:
        record.attempt(networks_, name, network_case, name, device)
    for name in WALKS:
        record.attempt(walks, name, walk_case, name, device)
    for name in WORLDS:
        worlds[name] = {}
        for part in ("loss", "walk", "drawn"):
            record.attempt(worlds[name], part, world_case, name, device, part)
