"""Films for tests, and an exact model of a film that is known in full."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion.paths import Endpoints
from sfumato.diffusion.process import Gaussian
from sfumato.fields.video.facts import ClipFacts
from sfumato.fields.video.recipe import Video
from sfumato.jobs.model import Model
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.run import Run


def squares(count: int, frames: int = 8, side: int = 16, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Films of a square that moves to the right or down, bytes (count, frames, side, side, 3), and what is said of each."""
    rng = np.random.default_rng(seed)
    x = np.zeros((count, frames, side, side, 3), np.uint8)
    texts = []
    colours = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}
    for row in range(count):
        name, way = str(rng.choice(list(colours))), str(rng.choice(["right", "down"]))
        top, left = rng.integers(0, side // 2, 2)
        for k in range(frames):
            down, right = (top + k // 2, left) if way == "down" else (top, left + k // 2)
            x[row, k, down : down + 5, right : right + 5] = colours[name]
        texts.append(f"a {name} square moving {way}")
    return x, texts


def facts_of(frames: int, size: tuple[int, int] = (1, 1), **more: Any) -> ClipFacts:
    """Facts of clips in standard units, without words."""
    known: dict[str, Any] = {
        "mean": 0.0, "spread": 1.0, "size": size, "frames": frames, "rate": 10.0, "count": 10, "held": 4, "films": 10,
        "padded": 0, "patch": 1, "shift": 1.0, "encoder": "none", "vocab": 0, "width": 0, "tokens": 0, "distinct": 0,
        "checksum": "", "how": "none", "examples": ("",), "source": "",
    }  # fmt: skip
    return ClipFacts(**{**known, **more})


@dataclass(frozen=True)
class Exact:
    """The exact denoiser of films whose frames follow each other as x_(k+1) = a x_k + sqrt(1 - a^2) e, each number for itself, of
    mean 0 and variance 1, under a time for each frame: E[x | x_t] = C A (A C A + D^2)^-1 x_t, A = diag(alpha), D = diag(sigma).

    With a = 1 all frames are equal.
    """

    a: float
    process: Gaussian = Gaussian()
    network: Any = field(default_factory=lambda: SimpleNamespace(options={}))

    def covariance(self, frames: int) -> Tensor:
        place = torch.arange(frames, dtype=torch.float64)
        return self.a ** (place[:, None] - place).abs()

    def given(self, **condition: Any) -> dict[str, Any]:
        return {}

    def __call__(self, x_t: Tensor, t: Tensor, s: Any = None, *, given: Any = None, **condition: Any) -> Endpoints:
        rows, frames = x_t.shape[:2]
        times = t.double().expand(rows, frames) if t.ndim < 2 else t.double()
        alpha, sigma = self.process.schedule.alpha(times), self.process.schedule.sigma(times)
        whole = self.covariance(frames)
        kept, which = torch.unique(torch.cat((alpha, sigma), 1), dim=0, return_inverse=True)
        flat = x_t.double().flatten(2)
        x = torch.empty_like(flat)
        for number, both in enumerate(kept):
            own, al, si = which == number, both[:frames], both[frames:]
            shown = al[:, None] * whole * al + torch.diag(si**2 + 1e-12)
            gain = whole * al @ torch.linalg.inv(shown)
            x[own] = torch.einsum("kl,blp->bkp", gain, flat[own])
        found = x.reshape(x_t.shape).to(x_t.dtype)
        return Endpoints(found, self.process.noise_given(found, x_t, t))


def exact_model(a: float, frames: int, steps: int = 24, batch: int = 512, seed: int = 0, solver: str = "ab2") -> Model:
    """The exact denoiser as a model whose films are single numbers a frame."""
    walk = Walk(steps=steps, solver=solver, eta=0.0, grid="cosine", shift=1.0, batch=batch, w=1.0, guide_from=0.0, guide_to=1.0,
                guide_by="plain")  # fmt: skip
    facts = facts_of(frames)
    return Model(Run(Path("nowhere")), Video(Path("none")), facts, Exact(a), walk, Drawing(seed), (), "cpu")
