from __future__ import annotations

import pytest
import torch

from sfumato.metrics import spaces
from sfumato.metrics.distances import MetricError
from sfumato.metrics.features import PCA, Patches
from sfumato.metrics.spaces import choose

from .test_table import Memory


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def same(x: torch.Tensor) -> torch.Tensor:
    return x


def test_auto_is_patches_for_pictures_and_axes_for_the_rest():
    assert choose("auto", pictures(20), same).name == "patches"
    assert choose("auto", pictures(20)[:, :2], same).name == "pca"
    assert choose("auto", torch.randn(30, 5), same).name == "pca"
    assert spaces.is_textured((1, 6, 9))
    assert not spaces.is_textured((1, 5, 9))


@pytest.mark.parametrize(("name", "fitted"), [("patches", Patches), ("pca", PCA)])
def test_a_space_is_the_features_fitted_on_training_data_and_fitted_once(name, fitted):
    train, x = pictures(40), pictures(6, 1)
    remember = Memory()
    space = choose(name, train, same, remember)
    right = Patches.fit(train) if fitted is Patches else PCA.fit(train, 39)
    assert torch.equal(space(x), right(x).float())
    assert torch.equal(space.remembered(x, remember), space(x))
    times = remember.times
    again = choose(name, train.clone(), same, remember)
    assert torch.equal(again.remembered(x.clone(), remember), space(x))
    assert remember.times == times
    other = choose(name, train + 0.1 * pictures(40, 2), same, remember)
    assert not torch.equal(other.remembered(x, remember), space(x))


def test_refusals():
    with pytest.raises(MetricError, match="must be one of auto, patches, pca, raw, waves, imagenet, or"):
        choose("none", pictures(20), same)
    for name in ("patches", "imagenet"):
        with pytest.raises(MetricError, match=r"pictures of 6 pixels a side or more, not items of shape \(5,\)"):
            choose(name, torch.randn(30, 5), same)
