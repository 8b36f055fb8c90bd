"""The training step of a DiT-B/2-sized network beside a plain one; what compilation and CUDA graphs give."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu import library
from benchmarks.gpu.equality import relative
from benchmarks.gpu.record import Facts, Record, clock, in_turn, summary
from benchmarks.gpu.speed import Bf16, Sizes, big_shape, build, compiled, twin
from sfumato import networks
from sfumato.diffusion import SOLVERS, Denoiser, Gaussian, Linear, cosine, sample

VELOCITY = Gaussian(Linear(), "velocity")


class PlainStep:
    """Flow matching as one would write it down: no streams, no clipping, no checks; one average if asked for."""

    def __init__(self, network: nn.Module, average: bool = False):
        self.network = network.train()
        self.parameters = list(network.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, betas=(0.9, 0.99), fused=True)
        self.average = [p.detach().clone() for p in self.parameters] if average else []

    def __call__(self, x: Tensor, z: Tensor, t: Tensor) -> None:
        share = t[:, None, None, None]
        with torch.autocast(x.device.type, torch.bfloat16):
            answer = self.network((1 - share) * x + share * z, torch.log(t / (1 - t)))
        F.mse_loss(answer.float(), z - x).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 0.001)


def rates(times: Facts, batch: int, operations: float, machine: Facts) -> Facts:
    """Seconds as images per second, TFLOP/s, and shares of the two peaks."""
    speed = batch * operations / times["median"] / 1e12
    peak, sheet = machine.get("bf16 TFLOP/s"), machine.get("datasheet")
    return {
        **times,
        "images per second": batch / times["median"],
        "TFLOP/s": speed,
        "of_peak": speed / peak if isinstance(peak, float) else None,
        "of_datasheet": speed / sheet if sheet else None,
    }


def batch_of(batch: int, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random x, z and t."""
    x, z = (torch.randn(batch, *shape, device=device) for _ in range(2))
    return x, z, torch.rand(batch, device=device) * 0.96 + 0.02


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def step(record: Record, device: torch.device, sizes: Sizes, compile_: bool, facts: Facts) -> None:
    """Eager first, then compiled, then sampling; what compiles comes last, for it takes longest."""
    network, shape = build(sizes.big, device), big_shape(sizes)
    machine = record.facts.get("machine", {})
    forward = networks.flops(network, shape)
    facts.update({"network": networks.describe(network), "operations of a forward pass": forward})
    counted = 3.0 * forward

    def eager(batch: int) -> Facts:
        free(device)
        given = batch_of(batch, shape, device)
        steps: dict[str, Callable[..., Any]] = {
            "loop": library.LoopStep(twin(network), VELOCITY, device),
            "plain": PlainStep(twin(network)),
            "plain, average": PlainStep(twin(network), average=True),
        }
        works = {name: partial(one, *given) for name, one in steps.items()}
        times = in_turn(device, works, sizes.repeats, warm=2, times=2)
        found: Facts = {name: rates(each, batch, counted, machine) for name, each in times.items()}
        found["loop / plain"] = times["loop"]["median"] / times["plain"]["median"]
        if device.type == "cuda":
            found["memory, GB"] = torch.cuda.max_memory_allocated(device) / 1e9
        return found

    def drawn(batch: int) -> Facts:
        """The whole step with what comes before it, and the seconds of each of its parts."""
        free(device)
        pictures = np.random.default_rng(0).integers(0, 256, (4096, *shape), dtype=np.uint8)
        one, rounds = library.LoopStep(twin(network), VELOCITY, device), sizes.repeats + 2
        batches = library.loaded(pictures, batch, rounds)
        parts: dict[str, list[float]] = {"reading items": [], "drawing and moving": [], "step": [], "all": []}
        for i in range(rounds):
            kept: list[Any] = []
            keep = kept.append
            seconds = [clock(device, lambda keep=keep: keep(next(batches)))]
            seconds.append(clock(device, lambda keep=keep, x=kept[0], i=i: keep(library.drawn(x, i, device))))
            seconds.append(clock(device, partial(one, *kept[1])))
            if i >= 2:
                for name, value in zip(parts, [*seconds, sum(seconds)], strict=True):
                    parts[name].append(value)
        found: Facts = {name: summary(values) for name, values in parts.items()}
        found["all"] = rates(found["all"], batch, counted, machine)
        return found

    for batch in sizes.batches:
        record.attempt(facts, f"eager, batch {batch}", eager, batch)
    record.attempt(facts, f"loop, drawn, batch {sizes.batches[-1]}", drawn, sizes.batches[-1])
    record.attempt(facts, "sampling", sampling, device, network, sizes)
    free(device)
    if not compile_:
        return

    def faster(**options: Any) -> Facts:
        """The loop's and the plain step of a compiled network; compilation is told apart."""
        free(device)
        batch = sizes.batches[0]
        x, z, t = batch_of(batch, shape, device)
        ready: dict[str, Any] = {}
        level = torch.log(t / (1 - t))

        def example(module: nn.Module) -> None:
            with torch.autocast(device.type, torch.bfloat16):
                module(x, level).float().mean().backward()

        made = compiled(twin(network).train(), example, device, **options)
        module = made["module"]
        ready["loop"], ready["plain"] = library.LoopStep(module, VELOCITY, device), PlainStep(module)
        module.zero_grad(set_to_none=True)

        def one(name: str) -> Callable[[], None]:
            def work() -> None:
                torch.compiler.cudagraph_mark_step_begin()
                ready[name](x, z, t)

            return work

        times = in_turn(device, {name: one(name) for name in ready}, sizes.repeats, warm=3, times=2)
        rated: Facts = {name: rates(each, batch, counted, machine) for name, each in times.items()}
        return {"seconds to compile": made["seconds"], **rated}

    modes: dict[str, dict[str, Any]] = {"compile": {}, "compile, CUDA graphs": {"mode": "reduce-overhead"}}
    for name, options in modes.items():
        record.attempt(facts, f"{name}, batch {sizes.batches[0]}", partial(faster, **options))
        record.say(f"  {name}: done")
    record.attempt(facts, "sampling, compiled", sampling_compiled, device, network, sizes)
    torch._dynamo.reset()


# ---- sampling of a small batch ---------------------------------------------------------------------------------------


def graphed(work: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A CUDA graph of ``work`` and the tensor into which its replays write."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = work()
    return graph, out


@torch.no_grad()
def sampling(device: torch.device, network: nn.Module, sizes: Sizes) -> Facts:
    """A forward pass of a small batch and a walk of 20 steps (dpmpp_2m): eager, and each as one CUDA graph."""
    bare = Bf16(twin(network).eval().requires_grad_(False))
    found: Facts = {"batch": sizes.few}
    z, level = torch.randn(sizes.few, *big_shape(sizes), device=device), torch.zeros(sizes.few, device=device)
    denoiser, times = Denoiser(bare, Gaussian(Linear(), "data", "velocity")), cosine(Linear(), 20)

    def forward() -> Tensor:
        answer: Tensor = bare(z, level)
        return answer

    def walk() -> Tensor:
        ends: Tensor = sample(denoiser, z, times, SOLVERS["dpmpp_2m"])
        return ends

    for name, work in (("forward", forward), ("walk", walk)):
        works: dict[str, Callable[[], Any]] = {"eager": work}
        if device.type == "cuda":
            graph, out = graphed(work)
            works["CUDA graph"] = graph.replay
        times_ = in_turn(device, works, sizes.repeats)
        found[name] = dict(times_)
        if device.type == "cuda":
            graph.replay()
            found[name]["graph against eager"] = relative(out, work())
            found[name]["gain"] = times_["eager"]["median"] / times_["CUDA graph"]["median"]
            del graph, out
    return found


@torch.no_grad()
def sampling_compiled(device: torch.device, network: nn.Module, sizes: Sizes) -> Facts:
    """The forward pass of a small batch, compiled with CUDA graphs."""
    bare = Bf16(twin(network).eval().requires_grad_(False))
    z, level = torch.randn(sizes.few, *big_shape(sizes), device=device), torch.zeros(sizes.few, device=device)
    wanted = bare(z, level)
    made = compiled(bare, lambda module: module(z, level), device, mode="reduce-overhead")
    module = made["module"]

    def work() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        answer: Tensor = module(z, level)
        return answer

    times = in_turn(device, {"compiled": work, "eager": lambda: bare(z, level)}, sizes.repeats, warm=3)
    gain = times["eager"]["median"] / times["compiled"]["median"]
    return {
        "seconds to compile": made["seconds"],
        **times,
        "gain": gain,
        "against eager": relative(work().clone(), wanted),
    }
