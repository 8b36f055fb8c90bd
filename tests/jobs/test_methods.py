"""Methods as options: which times are trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sfumato.diffusion import Linear
from sfumato.errors import Wrong
from sfumato.jobs.methods import MethodOptions

PLACES = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000


@pytest.mark.parametrize("times", ["logit_normal", "log_normal"])
def test_training_comes_to_pure_noise_where_samples_begin(times: Any):
    """A share of the times lies at t = 1 and as much is spread evenly; without, the quantiles never come near."""
    covered = MethodOptions(times=times, cover=0.02).distribution()(PLACES, Linear())
    plain = MethodOptions(times=times).distribution()(PLACES, Linear())
    assert float((covered == 1).double().mean()) == pytest.approx(0.02, abs=2e-3)
    assert float((covered > 0.99).double().mean()) == pytest.approx(0.02, abs=2e-3)
    assert not (plain == 1).any()
    low, middle, high = (covered.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)) -
                         plain.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))).abs()  # fmt: skip
    assert max(low, middle, high) < 0.02  # else they are as asked


def test_a_share_that_leaves_nothing_for_the_rest_is_refused():
    with pytest.raises(Wrong, match=r"cover = 0\.5: must be from 0 to below 0\.5"):
        MethodOptions(cover=0.5)
