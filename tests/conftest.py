"""One thread per test process: results are then the same bit for bit, and two processes do not fight over two cores. And no
example of hypothesis is timed: a busy machine is no fault."""

import os

import torch
from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.load_profile("house")
torch.set_num_threads(1)
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # for the processes that tests start
    os.environ[name] = "1"
