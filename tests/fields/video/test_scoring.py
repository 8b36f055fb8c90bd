"""Numbers about clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from sfumato.fields.video.scoring import by_frame, changes, features, flicker, similarity, spaces
from sfumato.metrics.distances import MetricError
from sfumato.metrics.similarity import structural_similarity


def clip(seed: int, n: int = 3) -> torch.Tensor:
    return torch.rand(n, 5, 3, 20, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_structural_similarity_is_that_of_its_paper() -> None:
    """By scipy's own Gaussian filter, cut where the window sticks out."""
    a, b = clip(0)[:, 0], (clip(0)[:, 0] * 0.7 + 0.2 * clip(1)[:, 0])
    found = structural_similarity(a, b)
    for row in range(3):
        values = []
        for channel in range(3):
            x, y = a[row, channel].double().numpy(), b[row, channel].double().numpy()

            def blurred(u: np.ndarray) -> np.ndarray:
                return ndimage.gaussian_filter(u, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

            mx, my = blurred(x), blurred(y)
            vx, vy, both = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
            c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
            values.append(((2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
        assert float(found[row]) == pytest.approx(np.mean(values), abs=1e-6)
    assert torch.allclose(structural_similarity(a, a), torch.ones(3, dtype=torch.float64))
    with pytest.raises(MetricError, match="11 pixels"):
        structural_similarity(a[..., :8], b[..., :8])


def test_each_frame_is_compared_with_its_own() -> None:
    real = clip(0)
    fake = real.clone()
    fake[:, 2] += 0.2
    found = by_frame(fake, real)
    assert torch.allclose(found[:, 2], torch.full((3,), 10 * np.log10(4 / 0.04), dtype=torch.float64), atol=1e-4)
    assert bool((found[:, [0, 1, 3, 4]] == 120).all())
    assert similarity(fake, real).argmin(1).tolist() == [2, 2, 2]
    assert bool((changes(real + 0.1, real) > 100).all())  # the same motion at another brightness


def test_flicker_is_one_for_the_truth_less_for_stillness_more_for_unrest() -> None:
    real = clip(0)
    assert flicker(real, real) == pytest.approx(1)
    assert flicker(real.mean(1, keepdim=True).expand_as(real), real) == pytest.approx(0)
    assert flicker(2 * real, real) == pytest.approx(4, rel=1e-5)


def test_features_of_clips_see_frames_and_motion() -> None:
    """A picture that stands still and one that is moved for a frame are much alike frame by frame, and not in what changes."""
    known = clip(2, 30)
    frames, moves = spaces(known)
    still = clip(3)[:, :1].expand(-1, 5, -1, -1, -1).contiguous()
    moved = still.clone()
    moved[:, 2] = still[:, 2].roll(1, -1)
    assert moves is not None
    count = 3 * frames(still[:, 0]).shape[1]
    apart = (features(frames, moves, moved) - features(frames, moves, still)).abs()
    assert apart.shape[1] > count
    assert float(apart[:, count:].mean()) > 5 * float(apart[:, :count].mean())
