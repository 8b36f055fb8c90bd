"""One thread per test process: results are then the same bit for bit, and two processes do not fight over two cores."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before torch is imported; child processes inherit it

import torch

torch.set_num_threads(1)
