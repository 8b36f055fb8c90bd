"""Several networks of one run: each trained by itself, the members of a forecast drawn from them in turn.

Some years of weather do not settle what a network learns of them: another one, from other first weights and in another order of
the days, errs elsewhere. Members of both say so, and their mean errs less than either's (deep ensembles, Lakshminarayanan
et al. 2017, arXiv 1612.01474; FGN has four, Alet et al. 2025, arXiv 2506.10772). A call costs what it did. Networks that were
taught otherwise err elsewhere most of all: beside one that learns what a regression leaves, every second learns the whole change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.training.options import TrainOptions
    from sfumato.training.run import Run

APART = 1_000_003
"""Between the seeds of two networks of a run."""


@dataclass(frozen=True)
class Other:
    """One after the first: its denoiser, and whether it draws the whole change where the first draws what a regression leaves."""

    denoiser: Any
    whole: bool


def place(run: Run, number: int) -> Run:
    """Where the network of this number is trained, 1 and up: a run inside the run."""
    return run.sub(f"network-{number}")


def taught(recipe: Any, number: int) -> Any:
    """The recipe by which it learns."""
    if recipe.mean == "none" or number % 2 == 0:
        return recipe
    return replace(recipe, mean="none")


def fit(recipe: Any, run: Run, training: TrainOptions) -> None:
    """Train those after the first, from where each stands on. Raises Stopped."""
    from sfumato.jobs.model import built
    from sfumato.training import loop

    for number in range(1, recipe.networks):
        inside, seed, own = place(run, number), training.seed + APART * number, taught(recipe, number)
        if inside.model.is_file():
            continue
        inside.create()
        data = recipe.open(run)
        if own.mean != recipe.mean:
            data = replace(data, train=_whole(data.train), held_out=_whole(data.held_out))
        task = own.task(data, built(own, data.facts, seed))
        loop.train(task, inside, replace(training, seed=seed))


def _whole(windows: Any) -> Any:
    """Steps whose whole change is learned."""
    return replace(windows, store=replace(windows.store, mean=None))


def trained(recipe: Any, run: Run, facts: Any, device: Any) -> tuple[Other, ...]:
    """Those after the first that are finished. Raises CheckpointError."""
    from sfumato.diffusion import Denoiser
    from sfumato.jobs.model import built
    from sfumato.training import checkpoint
    from sfumato.training.objective import Precise, bf16_pays

    found: list[Other] = []
    for number in range(1, recipe.networks):
        if not place(run, number).model.is_file():
            break
        own = taught(recipe, number)
        network = built(own, facts, 0)
        weights, _ = checkpoint.read_weights(place(run, number).model)
        checkpoint.fits(weights, network.state_dict(), str(place(run, number).path))
        network.load_state_dict(weights)
        network.to(device).eval().requires_grad_(False)
        bf16 = device.type != "cpu" and bf16_pays(device)
        found.append(Other(Denoiser(Precise(network, bf16), recipe.process(facts)), own.mean != recipe.mean))
    return tuple(found)
