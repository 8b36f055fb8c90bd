"""The network of fields: a U-Net that is shown the noised change, two frames, maps of the place, and the clock."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import typed
from sfumato.networks.unet import UNet

if TYPE_CHECKING:
    from sfumato.training.run import Run

BEGIN = "begin.safetensors"
"""In a run's cache: the weights that it begins with."""


class FieldNetwork(nn.Module):
    """U-Net on a grid of any size, padded inside: by the other side where columns close to a circle, by its edge elsewhere.

    channels    of the change that is answered; shown beside it are the 2 x channels of two frames, and ``maps`` fixed maps
    rows, columns   of the grid
    closes      whether the last column is the neighbour of the first
    width, depth, multipliers, attention_levels, dropout, recompute   as of :class:`UNet`

    What has no value (``there`` 0) is not seen: shown as 0, whatever noise is there.
    """

    options: dict[str, Any]
    there: Tensor
    maps: Tensor

    def __init__(
        self, *, channels: int, maps: int, rows: int, columns: int, closes: bool = False, width: int = 32, depth: int = 1,
        multipliers: tuple[int, ...] | list[int] = (1, 2, 2), attention_levels: int = 1, dropout: float = 0.0,
        recompute: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.options = {
            "kind": "fields", "channels": channels, "maps": maps, "rows": rows, "columns": columns, "closes": closes,
            "width": width, "depth": depth, "multipliers": list(multipliers), "attention_levels": attention_levels,
            "dropout": dropout, "recompute": recompute,
        }  # fmt: skip
        self.closes = closes
        self.body = UNet(
            channels=channels, width=width, depth=depth, multipliers=multipliers, attention_levels=attention_levels, vectors=4,
            beside=2 * channels + maps, dropout=dropout, recompute=recompute,
        )  # fmt: skip
        self.register_buffer("there", torch.ones(channels, rows, columns))
        self.register_buffer("maps", torch.zeros(maps, rows, columns))

    def forward(
        self, x: Tensor, level: Tensor, level_s: Tensor | None = None, *, state: Tensor, clock: Tensor
    ) -> Tensor:
        """x (B, channels, rows, columns), level (B,), level_s (B,), state (B, 2 channels, rows, columns), clock (B, 4) -> shaped
        like x. Raises ValueError for other shapes."""
        if x.shape[1:] != self.there.shape or state.shape[1] != 2 * x.shape[1]:
            raise ValueError(
                f"x has shape {tuple(x.shape)} and state {tuple(state.shape)}, for a grid {tuple(self.there.shape)}"
            )
        maps = self.maps.to(x.dtype).expand(len(x), -1, -1, -1)
        shown = torch.cat((x * self.there.to(x.dtype), state.to(x.dtype), maps), 1)
        rows, columns = x.shape[2:]
        up, left = self._spare(rows, False), self._spare(columns, self.closes)
        shown = F.pad(shown, (0, 0, *up), mode="replicate")
        shown = F.pad(shown, (*left, 0, 0), mode="circular" if self.closes else "replicate")
        answer = self.body(shown[:, : x.shape[1]], level, level_s, vector=clock, beside=shown[:, x.shape[1] :])
        return answer[:, :, up[0] : up[0] + rows, left[0] : left[0] + columns]

    def _spare(self, size: int, around: bool) -> tuple[int, int]:
        """How much to add before and after, so that halving goes on; around a circle enough to see across it."""
        divisor = self.body.divisor
        more = -size % divisor
        if around:  # divisible with what is there; never more than once around
            more += divisor * (min(2 * max(divisor, 4), size - more) // divisor)
        return more // 2, more - more // 2


def maps_of(store: Any) -> tuple[Tensor, Tensor]:
    """Of prepared fields: where there are values (C, rows, columns), and the fixed maps (S, rows, columns): sine and cosine of
    latitude and longitude, maps of the data, and for each channel that has them where its gaps are."""
    import numpy as np

    facts, hidden = store.facts, store.hidden
    lat, lon = np.meshgrid(np.deg2rad(facts.grid.latitude), np.deg2rad(facts.grid.longitude), indexing="ij")
    place = [np.sin(lat), np.cos(lat), np.sin(lon), np.cos(lon)]
    gone = [hidden[c] for c in range(len(hidden)) if hidden[c].any()]
    found = np.stack([*place, *store.maps, *gone]).astype(np.float32)
    return torch.from_numpy(~hidden).float(), torch.from_numpy(found)


def take(source: Path, run: Run) -> None:
    """The averaged weights of a finished run into the cache of another, which begins with them. Raises RunError."""
    from sfumato.training.run import Run, RunError

    weights = Run(source).model
    if not weights.is_file():
        raise RunError(
            f"{source}: is no finished run; `sfumato resume {typed(source)}` first, or give another --weights"
        )
    shutil.copyfile(weights, run.cache / BEGIN)


def begun(weights: Path, network: nn.Module) -> None:
    """Those weights into a network, but for the maps of its own place. Raises CheckpointError."""
    from sfumato.training import checkpoint

    found, _ = checkpoint.read_weights(weights)
    own = network.state_dict()
    found = {**found, **{name: own[name] for name in ("there", "maps") if name in own}}
    checkpoint.fits(found, own, f"--weights ({weights.name})")
    network.load_state_dict(found)
