"""Demonstrations of a point that walks to a goal, what its policy is shown, and policies that answer as they are told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sfumato.diffusion import Denoiser, Gaussian
from sfumato.fields.policy.acting import Policy
from sfumato.fields.policy.data import PolicyFacts
from sfumato.fields.policy.demonstrations.episodes import Demonstrations

QUICK = ["--network.width", "32", "--network.depth", "1", "--batch", "16", "--steps", "6", "--previews", "1",
         "--snapshots", "2", "--held-out", "0.3", "--threads", "1"]  # fmt: skip


def reaching(episodes: int = 12, eye: bool = False, tasks: bool = False) -> Demonstrations:
    """A point walks to a goal; the action is where to be next. The state is the place (2) and the goal (2)."""
    chance, states, actions, ends, told = np.random.default_rng(0), [], [], [], []
    for number in range(episodes):
        place, goal = chance.uniform(0, 100, (2, 2))
        for _ in range(int(chance.integers(9, 16))):
            towards = place + (goal - place) * min(1, 8 / max(1e-9, np.linalg.norm(goal - place)))
            states.append(np.concatenate([place, goal]))
            actions.append(towards)
            told.append(number % 2)
            place = towards
        ends.append(len(states))
    seen: dict[str, Any] = {"state": np.array(states, np.float32), "step": np.arange(len(states))[:, None]}
    if eye:
        dots = np.zeros((len(states), 16, 16, 3), np.uint8)
        for picture, state in zip(dots, states, strict=True):
            picture[int(state[1] * 0.15), int(state[0] * 0.15)] = 255
        seen["eye"] = dots
    named: dict[str, Any] = {"tasks": ("red", "blue"), "task": np.array(told)} if tasks else {}
    return Demonstrations(np.array(actions, np.float32), np.array(ends), seen, fps=10.0, **named)


def policy_of(run: Path, answer: Any = None) -> Policy:
    """A trained policy; with ``answer``, one whose network always answers this chunk as the data."""
    found = Policy.load(run)
    if answer is None:
        return found

    def network(shown: Tensor, *levels: Tensor, **condition: Tensor) -> Tensor:
        return (answer(shown, **condition) if callable(answer) else answer).expand_as(shown)

    denoiser = Denoiser(network, Gaussian(predicts="data"))
    return dataclasses.replace(found, model=dataclasses.replace(found.model, denoiser=denoiser))


def look_of(rows: int, seed: int = 0, facts: PolicyFacts | None = None) -> dict[str, np.ndarray]:
    """Observations of so many rows."""
    chance = np.random.default_rng(seed)
    seen: dict[str, np.ndarray] = {"state": chance.uniform(0, 100, (rows, 4))}
    if facts is not None and facts.pictures:
        seen["eye"] = chance.integers(0, 255, (rows, 16, 16, 3), dtype=np.uint8)
    return seen
