from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA as Oracle

from sfumato.metrics.distances import MetricError, sliced_wasserstein
from sfumato.metrics.features import PCA, Patches, raw


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_raw_flattens_in_float64():
    x = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    assert torch.equal(raw(x), torch.arange(24).double().view(2, 12))
    assert raw(torch.ones(3)).shape == (3, 1)
    with pytest.raises(MetricError, match="NaN"):
        raw(torch.tensor([[1.0], [torch.nan]]))


@pytest.mark.parametrize(("n", "d"), [(200, 12), (30, 50)])  # both Gram matrices
def test_pca_coordinates_are_those_of_an_oracle_on_one_scale(n, d):
    train, fresh = normal(n, d) * torch.linspace(3, 0.1, d) + 5, normal(9, d, seed=1) + 5
    pca, oracle = PCA.fit(train.view(n, d, 1), dims=6), Oracle(6, svd_solver="full").fit(train.numpy())
    scale = oracle.explained_variance_.mean() ** -0.5
    expected = torch.tensor(oracle.transform(fresh.numpy())) * scale
    assert torch.allclose(pca(fresh.view(9, d, 1)).abs(), expected.abs(), atol=1e-9)  # an axis has no sign
    kept = pca(train).var(0)
    assert kept.mean() == pytest.approx(1, abs=1e-9)
    assert kept[0] > 1.2 * kept[5]  # not whitened
    assert pca(train).mean(0).abs().max() < 1e-9


def test_pca_is_deterministic_and_keeps_no_more_than_the_data_spans():
    train = normal(40, 3) @ normal(3, 20, seed=1)
    pca, again = PCA.fit(train), PCA.fit(train.clone())
    assert pca(train).shape == (40, 3)
    assert torch.equal(pca(train), again(train))
    assert PCA.fit(normal(5, 20))(train).shape == (40, 4)
    # All three directions kept: distances are the data's own, times one number.
    assert torch.allclose(torch.pdist(pca(train)), torch.pdist(train) * pca.scale)


def test_pca_of_many_samples_scales_by_all_of_them():
    train = normal(5000, 4) * torch.tensor([3.0, 2.0, 1.0, 0.5])
    pca = PCA.fit(train, dims=2)
    assert pca(train).mean(0).abs().max() < 1e-12
    assert pca(train).var(0).mean() == pytest.approx(1, abs=1e-9)


def test_pca_refusals():
    x = normal(10, 4)
    with pytest.raises(MetricError, match="at least 2"):
        PCA.fit(x[:1])
    with pytest.raises(MetricError, match="does not vary"):
        PCA.fit(torch.full((10, 4), 0.1))
    with pytest.raises(MetricError, match="dims"):
        PCA.fit(x, 0)
    with pytest.raises(MetricError, match="3 numbers each, but PCA was fitted on 4"):
        PCA.fit(x)(x[:, :3])


def smooth(n: int, seed: int) -> torch.Tensor:
    """Pictures with most of their power in slow variation, as natural pictures have."""
    white = normal(n, 3, 16, 16, seed=seed)
    frequency = torch.fft.fftfreq(16)[:, None].square() + torch.fft.rfftfreq(16)[None].square()
    x = torch.fft.irfft2(torch.fft.rfft2(white) / (frequency + 1e-3), s=(16, 16))
    return x / x.std()


def test_patches_see_noise_and_blur_that_pca_does_not():
    train, held, fresh = smooth(400, 0), smooth(150, 1), smooth(150, 2)
    noisy = fresh + 0.1 * normal(*fresh.shape, seed=3)
    blurred = F.avg_pool2d(fresh, 3, 1, 1, count_include_pad=False)
    seen = {}
    for features in (PCA.fit(train), Patches.fit(train)):
        floor = sliced_wasserstein(features(held), features(train), 128)
        for name, x in (("fresh", fresh), ("noisy", noisy), ("blurred", blurred)):
            seen[type(features), name] = sliced_wasserstein(features(x), features(train), 128) / floor
    for name in ("fresh", "noisy", "blurred"):
        assert seen[PCA, name] < 1.4
    assert seen[Patches, "fresh"] < 1.4
    assert seen[Patches, "noisy"] > 2
    assert seen[Patches, "blurred"] > 2


def test_patches_do_not_depend_on_the_batch_and_know_their_size():
    train = smooth(80, 0)
    patches = Patches.fit(train)
    whole = patches(train)
    assert whole.shape == (80, 3 * 2 * 27)  # 16, 8 and 4 pixels; mean and size; 3 x 3 x 3 axes
    assert whole.dtype == torch.float64
    assert whole.mean(0).abs().max() < 1e-9
    assert whole.var(0).mean() == pytest.approx(1)
    assert torch.allclose(torch.cat([patches(train[:3]), patches(train[3:])]), whole, atol=1e-10)
    assert torch.equal(Patches.fit(train)(train), whole)
    assert Patches.fit(train, scales=2)(train).shape == (80, 2 * 2 * 27)
    with pytest.raises(MetricError, match="fitted on"):
        patches(train[..., :8])
    with pytest.raises(MetricError, match="NaN"):
        patches(train / 0)
    with pytest.raises(MetricError, match="N, C, H, W"):
        Patches.fit(train[0])
    with pytest.raises(MetricError, match="at least 2"):
        Patches.fit(train[:1])
    with pytest.raises(MetricError, match="smaller than a patch"):
        Patches.fit(train, size=17)
    with pytest.raises(MetricError, match="vary"):
        Patches.fit(torch.zeros(5, 1, 8, 8))


def test_patch_responses_have_unit_spread_over_training_data():
    train = smooth(100, 0)
    patches_of = Patches.fit(train)
    x, expected = train, []
    for scale, (weights, bias) in enumerate(zip(patches_of.filters, patches_of.biases)):
        x = F.avg_pool2d(x, 2) if scale else x
        patches = x.unfold(2, 3, 1).unfold(3, 3, 1)  # (N, C, rows, columns, 3, 3)
        answer = torch.einsum("nchwij,fcij->nfhw", patches, weights) + bias[:, None, None]
        expected += [answer.mean((2, 3)), answer.abs().mean((2, 3))]
        response = answer.transpose(0, 1).flatten(1)
        assert response.mean(1).abs().max() < 1e-6
        kept = response.square().mean(1) > 0.5  # axes with next to no power are left small
        assert torch.allclose(torch.cov(response[kept], correction=0), torch.eye(int(kept.sum())).double(), atol=1e-4)
        assert kept.sum() >= 20
    values = torch.cat(expected, 1)
    values = (values - values.mean(0)) / values.var(0).mean().sqrt()
    assert torch.allclose(patches_of(train), values, atol=1e-8)
