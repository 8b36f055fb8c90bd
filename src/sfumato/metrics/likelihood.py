r"""What a trained denoiser says about the probability of real data: bits per dimension, and the loss by noise level.

Level l = ln(sigma / alpha), r = e^l. Both numbers here are upper bounds on -log p(x) that start from x seen through noise
of a finest level l0, because no network is trained at the level of pure data, and one that answers data is as good as
ignorant below `process.finest`. What is left to say there is priced without the network:

* start: data in bins of width b (bytes): -log P(bin) under the posterior on the bins k b given noise of size r0, next to
  nothing where r0 < b / 4. Data without bins: a normal of size r0 around what is seen.

`Levels.bound`, the evidence lower bound in continuous time (Kingma 2021, Variational diffusion models, arXiv 2107.00630,
eq. 11-17), in nats per dimension, with e(l) = |z_hat - z|^2 / D the noise's squared error per dimension at level l:

    -log p(x) / D  <=  start  +  int_{l0}^{l1} e(l) dl  +  end            end: KL at l1 to the unit normal, next to nothing

It is tight for a perfect denoiser, because the reverse of diffusion with the true score is exact; a network's excess e(l)
is what it loses. It belongs to *ancestral* sampling. The probability flow has a likelihood of its own, `flow_bits`
(Song 2021, arXiv 2011.13456, app. D.2; dequantised by normal noise):

    -log p(x) / D  <=  start  -  log p_flow(x + r0 z) / D  -  log(2 pi e r0^2) / 2

Neither bounds the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion import Gaussian, Streams, key, log_likelihood
from sfumato.diffusion.denoiser import Guess
from sfumato.metrics.distances import MetricError

FINEST = 1e-2  # noise from which data without bins are measured, in units of their spread
HIGHEST = 4.0  # ln(sigma / alpha) from which on data are as good as noise


@dataclass(frozen=True, eq=False)
class Levels:
    """Squared errors of a denoiser on data, by noise level; see `measure_levels`."""

    levels: Tensor  # (K,) middles of K equal bins of ln(sigma / alpha)
    noise_error: Tensor  # (N, K): mean squared error of the noise answer on item i somewhere in bin k
    v_error: Tensor  # (N, K): the same of v, whose variance is 1: "knows nothing" is 1 at every level
    starts: Tensor  # (K,) nats per dimension left to say at the lower edge of bin k
    end: Tensor  # (N,) nats per dimension of the coarsest level
    low: float  # lower edge of bin 0
    width: float  # of a bin

    def bound(self, first: int = 0) -> Tensor:
        """The bound on -log p(x) from bin ``first`` on, in bits per dimension, (N,); of the density where there are no
        bins of data, in units of x."""
        return (self.starts[first] + self.noise_error[:, first:].sum(1) * self.width + self.end) / math.log(2)

    def best(self) -> int:
        """The first bin of the lowest mean bound. Any is valid; choose on data other than those that are measured."""
        return min(range(len(self.levels)), key=lambda first: float(self.bound(first).mean()))

    def noise(self, first: int) -> float:
        """sigma / alpha at the lower edge of bin ``first``."""
        return math.exp(self.low + self.width * first)


def level_range(process: Gaussian, bin_width: float | None) -> tuple[float, float]:
    """The finest and the coarsest level ln(sigma / alpha) looked at: within what the schedule reaches and training saw."""
    wanted = math.log(max(FINEST if bin_width is None else bin_width / 4, process.finest))
    finest, coarsest = (-process.schedule.logsnr(torch.tensor([1e-5, 1.0], dtype=torch.float64)) / 2).tolist()
    return max(wanted, finest), min(HIGHEST, coarsest) if math.isfinite(coarsest) else HIGHEST


def start_nats(noise: float, bin_width: float | None) -> float:
    """Nats per dimension to say x when x + ``noise`` * z is known: closed form without bins, quadrature with them."""
    entropy = math.log(noise) + (1 + math.log(2 * math.pi)) / 2
    if bin_width is None:
        return entropy
    if noise >= bin_width:  # a sum over bins is then the integral, but for a share of 2 exp(-2 pi^2) = 5e-9
        return entropy - math.log(bin_width)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-z * z / 2)
    ratio = bin_width / noise
    away = torch.arange(-math.ceil(16 / ratio) - 1, math.ceil(16 / ratio) + 2, dtype=torch.float64) * ratio
    bits = torch.logsumexp(-((z[:, None] + away) ** 2) / 2, 1) + z * z / 2
    return float((bits * density).sum() / density.sum())


@torch.no_grad()
def measure_levels(
    denoiser: Guess, x: Tensor, bin_width: float | None, bins: int = 16, seed: int = 0, batch: int = 16,
    progress: Callable[[int], None] = lambda done: None, **condition: Any,
) -> Levels:  # fmt: skip
    """Errors of a denoiser on standardised data x (N, ...), each item at one random level in each of ``bins`` bins.

    Args:
        bin_width: of the bins the data lie in, in units of x (for bytes 2 / 255 / spread); None for real numbers.
        batch: items shown to the network at once.
        progress: called with the number of bins done.
        condition: name -> (N, ...).

    N * bins calls of the network. Item i meets the same noise whatever the other items are.
    Raises MetricError for a process that is not Gaussian, or an error that is not finite.
    """
    process = denoiser.process
    if not isinstance(process, Gaussian):
        raise MetricError(f"{type(process).__name__} has no bound made of noise levels: it takes a Gaussian process")
    low, high = level_range(process, bin_width)
    width = (high - low) / bins
    streams = Streams(key("levels", seed), range(len(x)))
    noise_errors, v_errors = [], []
    for k in range(bins):
        level = (low + width * (k + streams.uniform((len(x),), torch.float64))).to(x.device)
        z = streams.normal(x.shape).to(x.device)
        t = process.schedule.time(-2 * level).clamp(0, 1)
        angle = process.schedule.angle(t).reshape(-1, *[1] * (x.ndim - 1))
        found = []
        for own in torch.arange(len(x), device=x.device).split(batch):
            times = t[own].to(x.dtype)
            some = {name: value[own] for name, value in condition.items()}
            guessed = denoiser(process.interpolate(x[own], z[own], times), times, **some)
            wrong = (guessed.z - z[own]).double()
            v_wrong = angle[own].cos() * wrong - angle[own].sin() * (guessed.x - x[own]).double()
            found.append(torch.stack([(e**2).flatten(1).mean(1) for e in (wrong, v_wrong)]))
        noise, v = torch.cat(found, 1)
        noise_errors.append(noise)
        v_errors.append(v)
        progress(k + 1)
    noise_error, v_error = torch.stack(noise_errors, 1).cpu(), torch.stack(v_errors, 1).cpu()
    if not bool(torch.isfinite(noise_error).all()):
        raise MetricError("the network's answer has NaN or infinity at some noise level")
    ratio = math.exp(2 * high)
    left, blur = 1 / (1 + ratio), ratio / (1 + ratio)  # alpha^2 and sigma^2 at unit sum
    end = (blur + left * (x.double() ** 2).flatten(1).mean(1).cpu() - 1 - math.log(blur)) / 2
    edges = low + width * torch.arange(bins, dtype=torch.float64)
    starts = torch.tensor([start_nats(math.exp(edge), bin_width) for edge in edges.tolist()], dtype=torch.float64)
    return Levels(edges + width / 2, noise_error, v_error, starts, end, low, width)


def flow_bits(
    denoiser: Guess, x: Tensor, bin_width: float | None, noise: float, steps: int = 20, seed: int = 0, first: int = 0,
    **condition: Any,
) -> Tensor:  # fmt: skip
    """The bound of the probability flow on -log p(x), in bits per dimension, of standardised data x (N, ...): (N,).

    Args:
        bin_width: as in `measure_levels`.
        noise: sigma / alpha at which the flow is entered.
        steps: Runge-Kutta steps in the angle, four calls of the network each, with a derivative.
        first: number of the first item: item i has the same noise and the same random direction in every batch.
        condition: name -> (N, ...).

    Raises MetricError for a process that is not Gaussian, or where the flow does not stay finite.
    """
    if not isinstance(denoiser.process, Gaussian):
        raise MetricError(
            f"{type(denoiser.process).__name__} has no likelihood by this flow: it takes a Gaussian process"
        )
    streams = Streams(key("bits", seed), range(first, first + len(x)))
    seen = x + noise * streams.normal(x.shape).to(x.device)
    nats = -log_likelihood(denoiser, seen, steps, probes=1, rng=streams, smallest=noise, **condition).double()
    if not bool(torch.isfinite(nats).all()):
        raise MetricError("the probability flow has NaN or infinity on some item")
    return ((nats / x[0].numel() + start_nats(noise, bin_width) - start_nats(noise, None)) / math.log(2)).cpu()
