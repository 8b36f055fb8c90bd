"""Networks of tables that are right by construction: what a perfectly trained one would answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.diffusion import Denoiser
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.network import BARRED
from sfumato.fields.tables.process import process_of


class JointTable(nn.Module):
    """Two columns of categories with the joint table p (a, b): each column's law given the other, where that is shown."""

    def __init__(self, joint: np.ndarray) -> None:
        super().__init__()
        self.joint = torch.tensor(joint)

    def forward(self, shown: Mapping[str, Tensor], level: Mapping[str, Tensor]) -> dict[str, Tensor]:
        states, most = shown["states"], max(self.joint.shape)
        answers = []
        for column, joint in ((0, self.joint), (1, self.joint.T)):
            other = states[:, 1 - column]
            free = other == most
            law = torch.where(free[:, None], joint.sum(1), joint[:, other.clamp_max(joint.shape[1] - 1)].T)
            logits = torch.full((len(states), most), BARRED)
            logits[:, : joint.shape[0]] = law.log()
            answers.append(logits)
        return {"states": torch.stack(answers, 1)}


class GaussianColumns(nn.Module):
    """Columns of one bin whose values are normal with mean 0 and this covariance (N, N): the best guess of what is noised
    from what is shown, each value at its own level."""

    def __init__(self, covariance: np.ndarray) -> None:
        super().__init__()
        self.covariance = torch.tensor(covariance)

    def forward(self, shown: Mapping[str, Tensor], level: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values, process = shown["values"].double(), process_of([1] * len(self.covariance), len(self.covariance))
        noise = level["values"].double()
        t = (noise[:, None] if noise.ndim == 1 else noise).sigmoid().expand(values.shape)  # of the straight schedule
        x_t = values * torch.hypot(1 - t, t)
        # x_t = (1 - t) x + t z: the mean of x given all of it is S A (A S A + T^2)^-1 x_t
        a, s = torch.diag_embed(1 - t), self.covariance
        noised = a @ s @ a + torch.diag_embed(t.square().clamp_min(1e-12))
        x = (s @ a @ torch.linalg.solve(noised, x_t[..., None]))[..., 0]
        z = (x_t - (1 - t) * x) / t.clamp_min(1e-6)
        answer = process.processes["values"].target(x, z, t)
        return {"states": torch.zeros(*values.shape, 1), "values": answer.float()}


class Frequencies(nn.Module):
    """Every column by itself, as often as its states are in these rows (n, C); values standard normal."""

    def __init__(self, states: np.ndarray, facts: Facts) -> None:
        super().__init__()
        most = max(facts.sizes)
        logits = torch.full((len(facts.sizes), most), BARRED)
        for i, size in enumerate(facts.sizes):
            logits[i, :size] = torch.tensor(np.bincount(states[:, i], minlength=size) / len(states)).log()
        self.logits, self.values = logits, len(facts.valued)

    def forward(self, shown: Mapping[str, Tensor], level: Mapping[str, Tensor]) -> dict[str, Tensor]:
        n = len(shown["states"])
        return {"states": self.logits.expand(n, *self.logits.shape), "values": torch.zeros(n, self.values)}


def denoiser(network: nn.Module, sizes: Sequence[int], values: int) -> Denoiser:
    """The network with the process of tables around it."""
    return Denoiser(network, process_of(sizes, values))
