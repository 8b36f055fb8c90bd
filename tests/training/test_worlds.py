"""Every world through every shared path (law 13): a training step, a held-out loss, a preview, sampling, conversion."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.adapting.flow_map import KINDS, Conversion, FlowMap, Leap
from sfumato.diffusion import Blanks, Denoiser, FromNoise, Guess, Uniform, generate, guide, tree
from sfumato.diffusion.tree import Tree
from sfumato.training import checkpoint, loop
from sfumato.training.objective import plain
from sfumato.training.run import Run

from .small import made, options
from .worlds import WORLDS, World, chances, habit, small, strays

HOW = options(steps=6, batch=16, previews=2, save_seconds=3600)


class Sheet:
    """Samples to be looked at, as a text that says what is wrong with them."""

    suffix = ".txt"

    def __init__(self, wrong: list[str]):
        self.wrong = wrong

    def save(self, path: Path) -> None:
        path.write_text("\n".join(self.wrong))


def asked(world: World, count: int = 5) -> Blanks:
    return Blanks(world.blank(), count, {"label": torch.arange(3)})


def drawn(world: World, guess: Guess, measured: dict[str, Any] | None = None, **other: Any) -> Tree:
    """Five samples by the habits of the process; what was shown on the way must be of this world, too."""
    begin, solver = habit(world.process, measured=measured)
    shown: list[Tree] = []
    how: dict[str, Any] = {"begin": begin, "solver": solver, "batch": 3, **other}
    parts = list(generate(guess, asked(world), range(5), look=lambda *seen: shown.append(seen[3]), **how))
    assert [part.numbers for part in parts] == [[0, 1, 2], [3, 4]]
    assert [wrong for state in shown for wrong in strays(world.process, state)] == []
    assert len(shown) == 2 * (how["begin"].steps)
    return tree.join(*(part.x for part in parts))


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_goes_through_every_shared_path(name: str, tmp_path: Path):
    world, run = WORLDS[name], made(tmp_path / "run")
    process = world.process
    previews: list[Tree] = []

    def preview(denoiser: Guess) -> Sheet:
        previews.append(drawn(world, denoiser))
        return Sheet(strays(process, previews[-1]))

    loop.train(world.task(preview=preview), run, HOW)

    # a training step, a held-out loss, a preview
    records = run.records()
    looks = [record for record in records if "held_out" in record]
    assert [look["step"] for look in looks] == [3, 6]
    assert all(math.isfinite(look["held_out"]) and look["held_out"] > 0 for look in looks)
    vectors = isinstance(world.x(), Tensor) and world.x().is_floating_point() and process.states == "vectors"
    assert all(("by_level" in look) == vectors for look in looks)
    assert [path.name for path in sorted(run.samples.iterdir())] == ["step-00000003.txt", "step-00000006.txt"]
    assert [path.read_text() for path in run.samples.iterdir()] == ["", ""]
    assert differ(process, *previews)

    # what a person takes away, and samples of it: as they were in the last preview, and guided
    measured = json.loads(run.walk.read_text())
    assert ("angles" in measured) == vectors
    assert ("residual" in measured) == hasattr(process, "measured")
    denoiser = trained(world, run)
    if process.habits.get("grid") != "auto":
        assert same(drawn(world, denoiser, measured), previews[1])
    assert strays(process, drawn(world, denoiser, measured)) == []
    assert strays(process, drawn(world, guide(denoiser, 1.5), measured)) == []


def trained(world: World, run: Run) -> Denoiser:
    """The denoiser of a run, from its file alone."""
    network = small(world.process, world.x(), seed=9)
    network.load_state_dict(checkpoint.read_tensors(run.model))
    return Denoiser(network.eval().requires_grad_(False), world.process)


def same(a: Tree, b: Tree) -> bool:
    return all(torch.equal(one, other) for one, other in zip(tree.leaves(a), tree.leaves(b), strict=True))


def differ(process: Any, a: Tree, b: Tree) -> bool:
    """Whether two sheets of samples differ; tokens of a network that hardly learned may be the same."""
    moving = [(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True) if x.is_floating_point()]
    return not moving or any(not torch.equal(x, y) for x, y in moving)


# ---- the noise of training is the process's own -----------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
def test_the_noise_of_training_and_of_held_out_losses_is_the_process_s_own(name: str, tmp_path: Path):
    """At t = 1 the rows that were trained on are distributed as the start of a walk is; at t = 0 they are the data."""
    world, process = WORLDS[name], WORLDS[name].process
    rows: dict[bool, list[tuple[Tree, Tree]]] = {True: [], False: []}

    def noted(denoiser: Denoiser, x: Tree, t: Tree, *, z: Tree, **other: Any) -> Tensor:
        rows[torch.is_grad_enabled()].append((x, z))
        return plain(denoiser, x, t, z=z, **other)

    task = world.task(criterion=noted, held_out=world.items())
    loop.train(task, made(tmp_path), options(steps=20, batch=50, previews=1, save_seconds=3600))
    for training, seen in rows.items():
        x, z = (tree.join(*(pair[i] for pair in seen)) for i in (0, 1))
        if not training:  # the same noise at every one of the times
            x, z = (tree.take(value, slice(tree.rows(value) // 8)) for value in (x, z))
        count = tree.rows(x)
        assert count == (1000 if training else 32)
        ends = process.interpolate(x, z, torch.ones(count))
        for there in (ends, process.start(z)):
            assert strays(process, unmasked(there)) == []
            likely = chances(process, there)
            assert min(likely.values()) > 1e-3, likely
        begins = process.interpolate(x, z, torch.full((count,), 1e-9))
        for mine, data in zip(tree.leaves(begins), tree.leaves(x), strict=True):
            if mine.shape == data.shape:  # one-hot vectors are the data in another form
                away = (mine - data).abs().double()
                around = (away - 2 * math.pi).abs()  # of angles
                assert float(torch.minimum(away, around).max()) < 0.1  # Heat begins at a deviation of 0.01


@pytest.mark.parametrize("name", WORLDS)
def test_walks_begin_at_the_noise_of_their_world(name: str):
    world, process = WORLDS[name], WORLDS[name].process
    begun: list[Tree] = []

    def begin(process: Any, z: Tree, query: Any) -> tuple[Tree, Tensor]:
        begun.append(process.start(z))
        return begun[-1], torch.tensor([1.0, 1.0])  # and stays there

    denoiser = Denoiser(small(process, world.x()), process)
    drawn = tree.join(*(part.x for part in generate(denoiser, asked(world, 300), range(300), begin=begin, batch=100)))
    assert same(drawn, tree.join(*begun))
    assert strays(process, unmasked(drawn)) == []
    likely = chances(process, drawn)
    assert min(likely.values()) > 1e-3, likely


def unmasked(x_t: Tree) -> Tree:
    """With a token where masks stand."""
    return tree.each(lambda v: torch.where(v == 5, 0, v) if v.dtype == torch.int64 and v.ndim == 2 else v, x_t)


def test_half_way_half_of_the_tokens_are_masked_in_training(tmp_path: Path):
    world = WORLDS["Masked"]
    hidden: list[Tensor] = []

    def noted(denoiser: Denoiser, x: Tensor, t: Tensor, *, z: Tensor, **other: Any) -> Tensor:
        hidden.append(denoiser.process.interpolate(x, z, torch.full_like(t, 0.5)) == 5)
        return plain(denoiser, x, t, z=z, **other)

    loop.train(world.task(criterion=noted), made(tmp_path), options(steps=20, batch=50, save_seconds=3600))
    found = torch.cat(hidden).double()
    assert abs(float(found.mean()) - 0.5) < 4 * 0.5 / math.sqrt(found.numel())


# ---- conversion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, world in WORLDS.items() if not world.refused])
@pytest.mark.parametrize("kind", KINDS)
def test_a_world_with_a_velocity_is_converted_and_walked_by_its_map(name: str, kind: Any, tmp_path: Path):
    world, run = WORLDS[name], made(tmp_path)
    teacher = Denoiser(small(world.process, world.x(), seed=3).eval().requires_grad_(False), world.process)
    previews: list[Tree] = []

    def preview(flow_map: Guess) -> None:
        previews.append(drawn(world, flow_map, begin=FromNoise(2), solver=Leap()))

    task = world.task(
        criterion=Conversion(teacher, kind), denoiser=FlowMap, times=Uniform(0.0, 1.0), preview=preview, hidden={}
    )
    loop.train(task, run, HOW)
    losses = [record["held_out"] for record in run.records() if "held_out" in record]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    assert strays(world.process, previews[-1]) == []
    assert differ(world.process, *previews)


@pytest.mark.parametrize("name", [name for name, world in WORLDS.items() if world.refused])
def test_a_world_without_a_velocity_is_refused_by_name(name: str):
    world = WORLDS[name]
    with pytest.raises(TypeError, match=rf"^{world.refused} has no paths with a velocity"):
        Conversion(Denoiser(small(world.process, world.x()), world.process))
