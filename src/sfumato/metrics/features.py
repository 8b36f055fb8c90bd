"""Feature maps: what a distance looks at. Any function from a batch (N, ...) to float64 vectors (N, d) will do.

Nothing here needs downloaded weights; a pretrained network is one more function of the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.metrics.distances import MetricError, checked

Features = Callable[[Tensor], Tensor]  # (N, ...) -> (N, d) float64

_FIT_ROWS = 2048  # axes are found from at most this many samples: the eigenproblem then takes seconds at any data size


def raw(x: Tensor) -> Tensor:
    """Each sample as one vector: (N, ...) -> (N, d) float64. MetricError for NaN, infinity or an empty sample."""
    if not isinstance(x, Tensor) or x.dim() == 0:
        raise MetricError("features need a tensor of shape (N, ...), one entry per sample")
    return checked(x.flatten(1) if x.dim() > 1 else x[:, None], "input")


def _some(n: int, most: int) -> Tensor:
    """Indexes of at most `most` of `n` samples: random, so that a sorted data set does no harm, yet always the same."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:most].sort().values


@dataclass(frozen=True, eq=False)
class PCA:
    """Coordinates on the training data's main axes, all divided by one number: (N, ...) -> (N, k) float64.

    The number is such that the kept coordinates have variance 1 on average over the training data, so distances read
    alike for pictures in [0, 1] or [0, 255] and suit the polynomial kernel. It is one number for all axes: whitening,
    a number per axis, would give the faintest kept direction the same say as the strongest, and the distance would
    mostly compare what nobody can see.

    Blind to whatever leaves the kept axes alone: in pictures the strongest axes are smooth, so fine noise and blur go
    unseen. `Patches` sees them.
    """

    mean: Tensor  # (D,)
    axes: Tensor  # (D, k), orthonormal columns, strongest first
    scale: float  # feature units per data unit

    @classmethod
    def fit(cls, train: Tensor, dims: int = 64) -> PCA:
        """Fit on `train` (N, ...), keeping at most `dims` axes, and never more than the data spans.

        Mean and scale come from all samples, axes from at most 2048 of them. Deterministic.
        Raises MetricError for fewer than 2 samples, NaN or infinity, data that does not vary, or `dims` below 1.
        """
        if dims < 1:
            raise MetricError(f"dims must be at least 1, not {dims}")
        if len(train) < 2:
            raise MetricError(f"train has {len(train)} sample(s), but PCA needs at least 2")
        parts = train.split(_FIT_ROWS)
        mean = torch.stack([raw(part).sum(0) for part in parts]).sum(0) / len(train)
        rows = raw(train[_some(len(train), _FIT_ROWS).to(train.device)])
        rows = rows - rows.mean(0)
        # The smaller of the two Gram matrices has the same non-zero eigenvalues.
        wide = rows.shape[1] > len(rows)
        values, vectors = torch.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
        values, vectors = values.flip(0), vectors.flip(1)
        # Gram eigenvalues carry rounding near 1e-16 of the largest; axes below 1e-12 of it would be rounding.
        kept = min(dims, int((values > 1e-12 * values[0]).sum()))
        if not float(values[0]) > 1e-24 * max(1.0, float(mean.square().sum())) * len(rows):
            raise MetricError("train does not vary: all samples are the same")
        axes = vectors[:, :kept]
        if wide:
            axes = torch.linalg.qr(rows.T @ (axes / values[:kept].sqrt())).Q
        # An eigenvector's sign is arbitrary: make its largest entry positive.
        largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
        axes = axes * torch.where(largest < 0, -1.0, 1.0)
        total = sum(float(((raw(part) - mean) @ axes).square().sum()) for part in parts)
        return cls(mean, axes, (total / (len(train) - 1) / kept) ** -0.5)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, for a file."""
        return {"mean": self.mean, "axes": self.axes, "scale": torch.tensor(self.scale, dtype=torch.float64)}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> PCA:
        """The map that `tensors` describe."""
        return cls(tensors["mean"], tensors["axes"], float(tensors["scale"]))

    def __call__(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, k). MetricError for NaN, infinity or samples of another size than those fitted."""
        out = []
        for part in x.split(_FIT_ROWS) if len(x) else (x,):
            flat = raw(part)
            if flat.shape[1] != len(self.mean):
                raise MetricError(f"samples have {flat.shape[1]} numbers each, but PCA was fitted on {len(self.mean)}")
            out.append((flat - self.mean.to(flat.device)) @ self.axes.to(flat.device) * self.scale)
        return torch.cat(out)


@dataclass(frozen=True, eq=False)
class Patches:
    """Texture statistics of pictures at several scales: (N, C, H, W) -> (N, k) float64.

    At each scale (the picture, then its halvings) every patch is written on the training patches' own main axes, each
    axis divided by its spread over the training data. A picture's features are the mean and the mean size of each
    response; k is twice the number of axes, summed over scales. One common scale makes their variance 1 on average.

    Dividing by the spread is wanted here though not in `PCA`: natural pictures have little power in fine detail, yet
    noise and blur live there and the eye sees both. There is no reduction to main axes afterwards: a direction in which
    training pictures agree is exactly where a fault of the samples would show.
    """

    shape: tuple[int, ...]  # (C, H, W)
    filters: tuple[Tensor, ...]  # a scale each: (f, C, size, size)
    biases: tuple[Tensor, ...]  # a scale each: (f,)
    mean: Tensor  # (k,)
    scale: float

    @classmethod
    def fit(cls, train: Tensor, size: int = 3, scales: int = 3) -> Patches:
        """Fit on pictures `train` (N, C, H, W), with patches of `size` pixels a side.

        `scales` counts the picture itself and its halvings, at most as many as leave room for a patch. Coarser scales
        add layout, but their strong variation makes faults of detail a smaller part of a distance. Deterministic.
        Raises MetricError for another shape, fewer than 2 pictures, pictures smaller than a patch, NaN or infinity, or
        pictures that do not vary.
        """
        if not isinstance(train, Tensor) or train.dim() != 4:
            raise MetricError("Patches needs pictures of shape (N, C, H, W)")
        if len(train) < 2:
            raise MetricError(f"train has {len(train)} picture(s), but Patches needs at least 2")
        if min(size, scales) < 1:
            raise MetricError("size and scales must be at least 1")
        if min(train.shape[2:]) < size:
            raise MetricError(
                f"pictures of {train.shape[2]}x{train.shape[3]} are smaller than a patch of {size}x{size}"
            )
        some = train[_some(len(train), 512).to(train.device)]
        x = raw(some).view(some.shape)
        filters, biases = [], []
        while True:
            patches = F.unfold(x, size).transpose(1, 2).flatten(0, 1)
            middle = patches.mean(0)
            values, vectors = torch.linalg.eigh((patches - middle).T @ (patches - middle) / len(patches))
            # Axes that hardly occur (pictures enlarged from smaller ones have some) would be magnified rounding.
            weights = (vectors / values.clamp(min=1e-6 * float(values[-1]) + 1e-24).sqrt()).T
            filters.append(weights.reshape(-1, x.shape[1], size, size))
            biases.append(-weights @ middle)
            if len(filters) == scales or min(x.shape[2:]) < 2 * size:
                break
            x = F.avg_pool2d(x, 2)
        responses = _responses(train, filters, biases)
        mean, spread = responses.mean(0), float(responses.var(0).mean())
        if not spread > 1e-12:
            raise MetricError("train does not vary: all pictures have the same patches")
        return cls(tuple(train.shape[1:]), tuple(filters), tuple(biases), mean, spread**-0.5)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, for a file."""
        scales = {f"filters.{i}": f for i, f in enumerate(self.filters)} | {
            f"biases.{i}": b for i, b in enumerate(self.biases)
        }
        shape, scale = torch.tensor(self.shape), torch.tensor(self.scale, dtype=torch.float64)
        return {**scales, "shape": shape, "mean": self.mean, "scale": scale}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> Patches:
        """The map that `tensors` describe."""
        scales = range(sum(name.startswith("filters.") for name in tensors))
        filters, biases = (tuple(tensors[f"{name}.{i}"] for i in scales) for name in ("filters", "biases"))
        return cls(tuple(tensors["shape"].tolist()), filters, biases, tensors["mean"], float(tensors["scale"]))

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, k). MetricError for pictures of another size than those fitted, NaN or infinity."""
        if tuple(x.shape[1:]) != self.shape:
            raise MetricError(f"pictures have shape {tuple(x.shape[1:])}, but Patches was fitted on {self.shape}")
        responses = _responses(x, self.filters, self.biases)
        return (responses - self.mean.to(responses.device)) * self.scale


@dataclass(frozen=True, eq=False)
class Waves:
    """Random waves: (N, ...) -> (N, k) float64, cosines of random directions of the standardised data, each with a phase.

    Distances between means of these are those of a normal kernel (Rahimi & Recht 2007, Random Features for Large-Scale Kernel
    Machines, algorithm 1), which sees any difference between two laws, bent ones too. The kernel is as wide as items of the
    training data are usually apart (the median). Nothing is learned, so no model was ever chosen by it.
    """

    mean: Tensor  # (D,)
    axes: Tensor  # (D, k)
    phase: Tensor  # (k,)

    @classmethod
    def fit(cls, train: Tensor, count: int = 128, seed: int = 0) -> Waves:
        """Fit on `train` (N, ...): its columns' means and spreads, and how far its items are apart. Deterministic.

        Raises MetricError for fewer than 2 samples, NaN or infinity, or data that does not vary.
        """
        if len(train) < 2:
            raise MetricError(f"train has {len(train)} sample(s), but Waves needs at least 2")
        rows = raw(train[_some(len(train), _FIT_ROWS).to(train.device)]).cpu()
        mean, spread = rows.mean(0), rows.std(0)
        if not float(spread.max()) > 0:
            raise MetricError("train does not vary: all samples are the same")
        spread = torch.where(
            spread > 1e-12 * spread.max(), spread, torch.inf
        )  # a column that stands still says nothing
        standard = (rows[:512] - mean) / spread
        apart = float(torch.pdist(standard).median()) or 1.0
        rng = torch.Generator().manual_seed(seed)
        axes = torch.randn(len(mean), count, generator=rng, dtype=torch.float64) / spread[:, None] / apart
        return cls(mean, axes, torch.rand(count, generator=rng, dtype=torch.float64) * 2 * torch.pi)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, for a file."""
        return {"mean": self.mean, "axes": self.axes, "phase": self.phase}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> Waves:
        """The map that `tensors` describe."""
        return cls(tensors["mean"], tensors["axes"], tensors["phase"])

    def __call__(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, k). MetricError for NaN, infinity or samples of another size than those fitted."""
        out = []
        for part in x.split(_FIT_ROWS) if len(x) else (x,):
            flat = raw(part)
            if flat.shape[1] != len(self.mean):
                raise MetricError(
                    f"samples have {flat.shape[1]} numbers each, but Waves was fitted on {len(self.mean)}"
                )
            out.append(
                2**0.5
                * ((flat - self.mean.to(flat.device)) @ self.axes.to(flat.device) + self.phase.to(flat.device)).cos()
            )
        return torch.cat(out)


def _responses(x: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Mean response and mean size of response, per scale and filter: (N, C, H, W) -> (N, k)."""
    out = []
    for part in x.split(64) if len(x) else (x,):
        y, found = raw(part).view(part.shape), []
        for scale, (weights, bias) in enumerate(zip(filters, biases)):
            y = F.avg_pool2d(y, 2) if scale else y
            response = F.conv2d(y, weights.to(y.device), bias.to(y.device))
            found += [response.mean((2, 3)), response.abs().mean((2, 3))]
        out.append(torch.cat(found, 1))
    return torch.cat(out)
