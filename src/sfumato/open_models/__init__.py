"""Models of other people in the layout of diffusers, as denoisers of ours: solvers, grids, guidance, steering and LoRA apply.

model = sfumato.open_models.opened("stable-diffusion")             # a folder on this disk; weights in safetensors alone
x = model.sample(4, condition={"context": states}, steps=10)       # by our solver and grid, in the model's own space
pictures = model.decoded(x)
"""

from sfumato.open_models.exporting import exported
from sfumato.open_models.model import OpenModel, opened
from sfumato.open_models.stops import their_times

__all__ = ["OpenModel", "exported", "opened", "their_times"]
