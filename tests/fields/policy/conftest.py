"""A world that all tests of policies share."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.fields.policy.demonstrations.replay import save_episodes
from tests.fields.policy.reach import QUICK, reaching
from tests.jobs.small import sfumato


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations on disk, and a policy trained for a moment on each."""
    folder = tmp_path_factory.mktemp("world")
    save_episodes(reaching(), folder / "reach.npz")
    save_episodes(reaching(eye=True, tasks=True), folder / "look.npz")
    assert sfumato("train", "policy", folder / "reach.npz", *QUICK, "--out", folder / "run") == 0
    words = ["--observations", "eye", "state", "--levels", "each", "--horizon", "8", "--acted", "4",
             "--angles", "state.1"]  # fmt: skip
    assert sfumato("train", "policy", folder / "look.npz", *words, *QUICK, "--out", folder / "look") == 0
    return folder
