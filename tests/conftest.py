"""One thread per test process: results are then the same bit for bit, and two processes do not fight over two cores. And no
example of hypothesis is timed: a busy machine is no fault."""

import os

import pytest
import torch
from hypothesis import settings

from sfumato.training import telling

settings.register_profile("house", deadline=None)
settings.load_profile("house")
torch.set_num_threads(1)
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # for the processes that tests start
    os.environ[name] = "1"


@pytest.fixture(autouse=True)
def whole_lines(monkeypatch: pytest.MonkeyPatch):
    """Messages are not folded where no terminal is, so that words can be looked for in them; what folds has tests of its own."""
    monkeypatch.setattr(telling, "WIDEST", 1_000_000)
