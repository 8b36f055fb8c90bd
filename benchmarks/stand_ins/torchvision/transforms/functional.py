"""Imported by k-diffusion's utils, for pictures only."""

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor


def to_tensor(picture: Image) -> Tensor:
    """A picture as float32 (C, H, W) in [0, 1]."""
    array = np.asarray(picture)
    array = array[:, :, None] if array.ndim == 2 else array
    return torch.from_numpy(array.transpose(2, 0, 1).copy()).float() / 255
