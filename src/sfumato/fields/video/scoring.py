"""Numbers about clips (N, T, C, H, W) from -1 (black) to 1 (white), most of them against the true clip."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sfumato.metrics.distances import psnr
from sfumato.metrics.similarity import structural_similarity
from sfumato.metrics.spaces import Space, choose


def by_frame(fake: Tensor, real: Tensor) -> Tensor:
    """Peak signal to noise of each frame, (N, T) dB."""
    return psnr(fake.flatten(0, 1), real.flatten(0, 1)).unflatten(0, fake.shape[:2])


def similarity(fake: Tensor, real: Tensor) -> Tensor:
    """Structural similarity of each frame, (N, T)."""
    return structural_similarity(fake.flatten(0, 1), real.flatten(0, 1)).unflatten(0, fake.shape[:2])


def changes(fake: Tensor, real: Tensor) -> Tensor:
    """Peak signal to noise of what changes from frame to frame, x_(k+1) - x_k halved, (N, T - 1) dB."""
    return by_frame(fake.diff(dim=1) / 2, real.diff(dim=1) / 2)


def unrest(x: Tensor) -> Tensor:
    """Mean squared second difference along time, (N,): steady motion has little."""
    return x.double().diff(n=2, dim=1).square().flatten(1).mean(1)


def flicker(fake: Tensor, real: Tensor) -> float:
    """The unrest of made clips over that of real ones: 1 for alike, above 1 for flicker, below for stillness."""
    return float(unrest(fake).mean() / unrest(real).mean().clamp_min(1e-12))


def spots(length: int) -> Sequence[int]:
    """The frames of a clip by which it is known in a set: the first, the middle one, the last."""
    return sorted({0, length // 2, length - 1})


def features(frames: Space, moves: Space | None, x: Tensor) -> Tensor:
    """Features of clips (N, d): of three frames, and of what changes between them."""
    at = spots(x.shape[1])
    found = [frames(x[:, place]) for place in at]
    if moves is not None:
        found += [moves((x[:, b] - x[:, a]) / 2) for a, b in pairwise(at)]
    return torch.cat(found, 1)


def spaces(known: Tensor) -> tuple[Space, Space | None]:
    """Spaces of frames and of changes, fitted on known clips: patches of pictures."""
    at = spots(known.shape[1])
    frames = choose("patches", known[:, at].flatten(0, 1), lambda x: x)
    if len(at) < 2:
        return frames, None
    steps = torch.cat([(known[:, b] - known[:, a]) / 2 for a, b in pairwise(at)])
    return frames, choose("patches", steps, lambda x: x)
