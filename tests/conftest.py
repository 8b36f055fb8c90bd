"""One thread per test process: results are then the same bit for bit, and two processes do not fight over two cores."""

import os

import torch

torch.set_num_threads(1)
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # for the processes that tests start
    os.environ[name] = "1"
