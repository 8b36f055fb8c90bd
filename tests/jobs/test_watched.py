"""A bar over what a network looks at: the features are those of the space itself."""

from __future__ import annotations

import pytest
import torch

from sfumato.jobs.watched import AT_ONCE, watched
from sfumato.metrics.spaces import Space


def test_a_watched_space_gives_the_same_features_and_says_how_far_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x.flatten(1) * 2

    space, x = Space("mine", network, "mine", slow=True), torch.randn(2 * AT_ONCE + 3, 2, 2)
    assert torch.equal(watched(space)(x), space(x))
    assert seen == [AT_ONCE, AT_ONCE, 3, len(x)]
    out = "".join(capfd.readouterr())
    assert f"mine features {len(x)}/{len(x)}" in out
    assert watched(space).about == space.about  # what was worked out before is found again


def test_what_is_quick_has_no_bar() -> None:
    space = Space("mine", lambda x: x, "mine")
    assert watched(space) is space
