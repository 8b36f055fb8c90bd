"""Several networks of one run: each trained by itself, the members of a forecast drawn from them in turn.

Some years of weather do not settle what a network learns of them: another one, from other first weights and in another order of
the days, errs elsewhere. Members of both say so, and their mean errs less than either's (deep ensembles, Lakshminarayanan
et al. 2017, arXiv 1612.01474; FGN has four, Alet et al. 2025, arXiv 2506.10772). A call costs what it did.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.jobs.recipe import Recipe
    from sfumato.training.options import TrainOptions
    from sfumato.training.run import Run

APART = 1_000_003
"""Between the seeds of two networks of a run."""


def place(run: Run, number: int) -> Run:
    """Where the network of this number is trained, 1 and up: a run inside the run."""
    return run.sub(f"network-{number}")


def fit(recipe: Recipe, run: Run, training: TrainOptions, count: int) -> None:
    """Train those after the first, from where each stands on. Raises Stopped."""
    from sfumato.jobs.model import built
    from sfumato.training import loop

    data = recipe.open(run)
    for number in range(1, count):
        inside, seed = place(run, number), training.seed + APART * number
        if inside.model.is_file():
            continue
        inside.create()
        task = recipe.task(data, built(recipe, data.facts, seed))
        loop.train(task, inside, dataclasses.replace(training, seed=seed))


def trained(recipe: Recipe, run: Run, facts: Any, count: int, device: Any) -> tuple[Any, ...]:
    """Denoisers of those after the first that are finished. Raises CheckpointError."""
    from sfumato.diffusion import Denoiser
    from sfumato.jobs.model import built
    from sfumato.training import checkpoint
    from sfumato.training.objective import Precise, bf16_pays

    found = []
    for number in range(1, count):
        if not place(run, number).model.is_file():
            break
        network = built(recipe, facts, 0)
        weights, _ = checkpoint.read_weights(place(run, number).model)
        checkpoint.fits(weights, network.state_dict(), str(place(run, number).path))
        network.load_state_dict(weights)
        network.to(device).eval().requires_grad_(False)
        bf16 = device.type != "cpu" and bf16_pays(device)
        found.append(Denoiser(Precise(network, bf16), recipe.process(facts)))
    return tuple(found)
