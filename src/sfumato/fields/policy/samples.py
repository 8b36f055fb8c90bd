"""Samples of a policy: chunks of actions for what was seen in windows held out, and how they are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch

from sfumato.fields.policy.data import Chunks, PolicyFacts
from sfumato.fields.policy.fans import fans

if TYPE_CHECKING:
    from PIL.Image import Image

    from sfumato.diffusion import Drawn
    from sfumato.diffusion.tree import Tree

FAN = 8
"""Samples drawn for one held-out window, before the next one's turn."""


@dataclass(frozen=True, eq=False)
class Seen:
    """``count`` chunks asked for: 0 to 7 for what is seen in the first held-out window, 8 to 15 in the next, and so on; all of
    them of the task of that number, if one is given. Nothing but the number tells their randomness apart."""

    held: Chunks
    count: int
    task: int | None = None
    buckets: None = None

    def __len__(self) -> int:
        return self.count

    def name(self, number: int) -> tuple[str, int]:
        return "", number

    def windows(self, numbers: Sequence[int]) -> np.ndarray:
        """The numbers of the windows that these samples are for, (b,) int64."""
        return np.asarray(numbers, dtype=np.int64) // FAN % len(self.held)

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        found: dict[str, Tree] = {
            name: torch.from_numpy(value) for name, value in self.held.batch(self.windows(numbers)).items()
        }
        demonstrated = found.pop("x")
        assert isinstance(demonstrated, torch.Tensor)
        if self.task is not None:
            found["task"] = torch.full((len(numbers),), self.task)
        # what was demonstrated is for people to look at, and not for the network
        return {"x": torch.zeros_like(demonstrated), "aside": {"demonstrated": demonstrated}, **found}


@dataclass(frozen=True, eq=False)
class Chunk:
    """A sample: `actions` (horizon, dim) in the units of the robot, held within what was demonstrated; `x`, the same in
    standard units; the number of the held-out window it is for, and the chunk `demonstrated` there, in standard units."""

    actions: np.ndarray
    x: np.ndarray
    window: int
    demonstrated: np.ndarray


def chunks(facts: PolicyFacts, queries: Seen, drawn: Drawn) -> list[Chunk]:
    """One for each sample drawn."""
    assert isinstance(drawn.x, torch.Tensor)
    actions, x = facts.actions(drawn.x), drawn.x.float().cpu().numpy()
    aside = drawn.query["aside"]
    assert not isinstance(aside, torch.Tensor)
    known = aside["demonstrated"]
    assert isinstance(known, torch.Tensor)
    windows = queries.windows(drawn.numbers).tolist()
    return [Chunk(*each) for each in zip(actions, x, windows, known.float().cpu().numpy(), strict=True)]


def panels(things: Sequence[Chunk]) -> Image:
    """A panel for each window in a row of chunks, with its chunks over what was demonstrated."""
    groups = [list(group) for _, group in groupby(things, key=lambda thing: thing.window)]
    return fans(
        [np.stack([thing.x for thing in group]) for group in groups], [group[0].demonstrated for group in groups]
    )


def sheet(things: Sequence[Chunk], columns: int) -> Image:
    """A panel for each chunk, row by row."""
    return fans([thing.x[None] for thing in things], columns=columns, side=90)
