"""One thread per test process: results are then the same bit for bit, and two processes do not fight over two cores.
No example of hypothesis is timed: a busy machine is no fault.

TEST_THREADS=N lets torch have N threads in the tests' own process. TEST_SEED=N moves every seed that is given to
`torch.manual_seed` by N: networks start elsewhere and see other draws, and what is asked of them must hold all the same.
`make levels` uses both.
"""

import os

import pytest
import torch
from hypothesis import settings

from sfumato.training import telling

settings.register_profile("house", deadline=None)
settings.load_profile("house")
torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # for the processes that tests start
    os.environ[name] = "1"

if moved := int(os.environ.get("TEST_SEED", "0")):
    seed = torch.manual_seed
    torch.manual_seed = lambda number: seed(number + moved)


@pytest.fixture(autouse=True)
def whole_lines(monkeypatch: pytest.MonkeyPatch):
    """Messages are not folded where no terminal is, so that words can be looked for in them; what folds has tests of its own."""
    monkeypatch.setattr(telling, "WIDEST", 1_000_000)
