"""What is given is read once: a network that keeps what it knows of it, however often it is asked about what is open.

Where given tokens do not see open ones (networks with `once`), nothing about them changes from step to step. So a call costs
what the open tokens cost, and the answer is the same, to rounding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato.fields.text.network import GIVEN, TokenTransformer
from sfumato.networks.attention import rotary_angles
from sfumato.training.objective import Precise


class Reader:
    """A network that reads what is given again only where it is not what it was. Of rows that are given at different places,
    and of gaps, it asks the network itself."""

    def __init__(self, network: TokenTransformer):
        self.network = network
        self.given: Tensor | None = None
        self.text: Tensor | None = None
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.reads = 0

    def __call__(self, x: Tensor, level: Tensor, level_s: Tensor | None = None) -> Tensor:
        """As the network's own: x (B, L) -> (B, L, answers); of given tokens 0."""
        net = self.network
        given = (level <= GIVEN).expand(x.shape) if level.ndim == 2 else torch.zeros_like(x, dtype=torch.bool)
        if not self._suits(x, given):
            return net(x, level, level_s)
        angles = rotary_angles((x.shape[1],), net.head_width, x.device)
        here = given[0]
        text = x[:, here]
        known = self.given is not None and torch.equal(self.given, here)
        if not known or self.text is None or not torch.equal(self.text, text):
            self.kept, self.given, self.text = net.read(text, angles[here]), here, text
            self.reads += 1
        said = net.told(x[:, ~here], angles[~here], self.kept)
        answer = torch.zeros(*x.shape, said.shape[-1], dtype=said.dtype, device=x.device)
        answer[:, ~here] = said
        return answer

    def _suits(self, x: Tensor, given: Tensor) -> bool:
        some = bool(given[0].any()) and not bool(given[0].all())
        if not some or not bool((given == given[:1]).all()):
            return False
        return not self.network.gaps or not bool((x >= self.network.plain).any())


def reader(denoiser: Any) -> Any:
    """The denoiser with a network that reads what is given once, where its network can."""
    precise: Any = getattr(denoiser, "network", None)
    network = getattr(precise, "network", None)
    if not getattr(network, "once", False):
        return denoiser
    return replace(denoiser, network=Precise(Reader(network), precise.bf16))  # type: ignore[arg-type]
