"""Ranking: how good each sample is thought to be, learned from the run's own samples of chains that it has not seen.

    sample -> tokens of the last call, agreement with the other samples, what one more denoising would move -> lDDT of each
    residue (50 bins), RMSD of the third loop (of all, where there are no regions)

It never learns from samples of the run's own training chains: those are better than any other will be. The held-out chains
are whole clusters of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.diffusion import key
from sfumato.errors import Wrong
from sfumato.fields.protein.choosing import MOST, Judged, medoid
from sfumato.fields.protein.data import Store, condition, padded
from sfumato.fields.protein.geometry import CA
from sfumato.fields.protein.measure import Case, cases
from sfumato.metrics.superpose import fit, lddt

if TYPE_CHECKING:
    from sfumato.fields.protein.sequences import Asked
    from sfumato.jobs.model import Model

BINS = 50
"""Of lDDT, as AlphaFold has them."""
LEVELS = (0.03, 0.15)
"""sigma, in units of the data's spread, at which the network is asked about a sample once more."""
OWN = 2 + 2 * len(LEVELS) + 2
"""Numbers of a residue beside its tokens."""
FILE = "ranker.safetensors"


class RankingHead(nn.Module):
    """Tokens (n, L, width) and numbers (n, L, OWN) of samples -> logits of lDDT (n, L, 50), and ln of the RMSD of a part
    (n,)."""

    def __init__(self, width: int, inside: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Linear(width, inside)
        self.numbers = nn.Linear(OWN, inside)
        self.mix = nn.Linear(2 * inside, inside)
        self.bins = nn.Linear(inside, BINS)
        self.whole = nn.Sequential(nn.Linear(inside + OWN + 2, inside), nn.SiLU(), nn.Linear(inside, 1))

    def forward(self, tokens: Tensor, numbers: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        """part (L,) bool: the third loop, or all."""
        shown = F.dropout(F.layer_norm(tokens, tokens.shape[-1:]), 0.3, self.training)
        h = F.silu(self.mix(torch.cat((F.silu(self.tokens(shown)), F.silu(self.numbers(numbers))), -1)))
        size = part.sum().float()
        about = torch.stack((size.log(), size / len(part))).expand(len(h), -1)
        pooled = torch.cat((h[:, part].mean(1), numbers[:, part].mean(1), about), -1)
        return self.bins(h), self.whole(pooled)[:, 0]


def seen(model: Model, one: Asked, backbones: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (n, L, width) and numbers (n, L, OWN) of samples (n, L, 4, 3) in Angstrom of one sequence: lDDT against the
    others and distance from their mean place, and at each level how far one more denoising moves a residue, and in what share
    of its neighbours; the logarithms of both distances."""
    length, size = len(one), padded(len(one))
    told = {name: torch.from_numpy(value)[None] for name, value in condition(one.codes, one.cdr, size).items()}
    x = F.pad(backbones.float().flatten(2) / model.facts.scale, (0, 0, 0, size - length)).to(model.device)
    denoiser, network = model.denoiser, _bare(model.denoiser.network)
    tokens, moved = [], []
    with torch.no_grad():
        given = denoiser.given(**{name: value.to(model.device) for name, value in told.items()})
        for own in x.split(model.walk.batch or 16):
            known = {name: value.expand(len(own), *value.shape[1:]) for name, value in given.items()}
            shifts = []
            for sigma in LEVELS:
                t = model.process.schedule.at_angle(torch.atan(torch.tensor(sigma, dtype=torch.float64)))
                shown, level = model.process.precondition(own, t)
                h, _ = network.tokens(shown, level, None, previous=own, **known)
                ends = denoiser(own, t.to(own.dtype), given=known, previous=own)
                apart = ((ends.x - own)[..., 3:6] * model.facts.scale).norm(dim=-1)[:, :length]
                shifts += [apart, _smooth(apart)]
                if sigma == LEVELS[0]:
                    tokens.append(h[:, :length].float().cpu())
            moved.append(torch.stack(shifts, -1).float().cpu())
    return torch.cat(tokens), torch.cat((_agreement(backbones, one.cdr), torch.log(torch.cat(moved) + 0.01)), -1)


def _bare(network: Any) -> Any:
    while not hasattr(network, "tokens"):
        network = network.network
    return network


def _smooth(values: Tensor) -> Tensor:
    """The mean over five residues, (n, L)."""
    return F.avg_pool1d(values[:, None], 5, 1, 2, count_include_pad=False)[:, 0]


def _agreement(backbones: Tensor, cdr: np.ndarray | None) -> Tensor:
    """lDDT against the other samples, ln of the distance from their mean, and these two averaged over five residues: (n, L,
    4). Zeros for one sample alone."""
    ca = backbones[:, :, CA].double()
    if len(ca) < 2:
        return torch.zeros(*ca.shape[:2], 4)
    frame = torch.ones(ca.shape[1], dtype=torch.bool) if cdr is None else torch.from_numpy(cdr == 0)
    laid = fit(ca[:, frame], ca[:1, frame].expand(len(ca), -1, -1))(ca)
    far = torch.log((laid - laid[:MOST].mean(0)).norm(dim=-1) + 0.1)
    alike = torch.stack([lddt(each.expand(min(len(ca), MOST), -1, -1), ca[:MOST]).mean(0) for each in ca])
    values = [alike.float(), far.float()]
    return torch.stack([*values, *map(_smooth, values)], -1)


# ---- learning ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Lesson:
    """The samples of one chain: tokens, numbers, part as of :class:`RankingHead`, bins of lDDT (n, L), RMSD of the part
    (n,)."""

    tokens: Tensor
    numbers: Tensor
    part: Tensor
    bins: Tensor
    error: Tensor


def lesson(model: Model, one: Case) -> Lesson:
    """What is learned of a chain."""
    asked = one.folds[0].asked
    backbones = torch.stack([torch.from_numpy(fold.coords) for fold in one.folds])
    tokens, numbers = seen(model, asked, backbones)
    assert asked.truth is not None
    truth = torch.from_numpy(asked.truth)[:, CA]
    local = torch.stack([lddt(each[:, CA], truth) for each in backbones])
    return Lesson(
        tokens, numbers, _part(asked.cdr, len(asked)), (local * BINS).long().clamp(0, BINS - 1),
        torch.tensor([sample.get("H3", sample.get("RMSD", 0.0)) for sample in one.samples]),
    )  # fmt: skip


def _part(cdr: np.ndarray | None, length: int) -> Tensor:
    return torch.ones(length, dtype=torch.bool) if cdr is None else torch.from_numpy(cdr == 3)


def loss_of(head: RankingHead, one: Lesson) -> Tensor:
    """Cross-entropy of lDDT, and the Huber loss of ln RMSD, and of its differences within the chain, which is what choosing
    is."""
    logits, error = head(one.tokens, one.numbers, one.part)
    true = torch.log(one.error.float() + 0.2)
    within = F.smooth_l1_loss(error - error.mean(), true - true.mean(), beta=0.2)
    return (
        F.cross_entropy(logits.flatten(0, 1), one.bins.flatten())
        + 2 * F.smooth_l1_loss(error, true, beta=0.2)
        + 4 * within
    )


def learned(lessons: Sequence[Lesson], width: int, steps: int, seed: int = 0) -> RankingHead:
    """A head that was taught: one chain a step, in turn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("ranker", seed))
        head = RankingHead(width)
        optimizer = torch.optim.AdamW(head.parameters(), 2e-3, weight_decay=0.05)
        decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        head.train()
        for step in range(steps):
            optimizer.zero_grad()
            loss_of(head, lessons[step % len(lessons)]).backward()
            optimizer.step()
            decay.step()
    return head.eval()


def correlation(heads: Sequence[tuple[RankingHead, Sequence[Lesson]]]) -> float:
    """Of predicted and true ln RMSD over samples of chains that the heads have not seen."""
    pairs = []
    with torch.no_grad():
        for head, lessons in heads:
            pairs += [(head(one.tokens, one.numbers, one.part)[1], one.error.log()) for one in lessons]
    predicted, true = (torch.cat(each).double().numpy() for each in zip(*pairs))
    return float(np.corrcoef(predicted, true)[0, 1])


# ---- use ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ranker:
    """A head that was learned, of a network of this width."""

    head: RankingHead

    def judged(self, model: Model, one: Asked, backbones: Tensor) -> Judged:
        """What is thought of samples (n, L, 4, 3): score is the RMSD that is expected of the third loop (or of all), plus a
        thousandth of the distance from the other samples, which decides between equals."""
        tokens, numbers = seen(model, one, backbones)
        part = _part(one.cdr, len(one))
        with torch.no_grad():
            logits, error = self.head(tokens, numbers, part)
        places = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS
        confidence = 100 * (logits.double().softmax(-1) @ places)
        score = error.double().exp() - 0.2 + 1e-3 * medoid(backbones, one.cdr)
        return Judged(score, confidence, confidence[:, part].mean(1))

    @classmethod
    def of(cls, path: Path) -> Ranker | None:
        """From a run's folder; None where there is none. Raises CheckpointError for a damaged one."""
        from sfumato.training import checkpoint

        if not path.is_file():
            return None
        weights, about = checkpoint.read_weights(path)
        head = RankingHead(int(json.loads(about["ranker"])["width"]))
        checkpoint.fits(weights, head.state_dict(), str(path))
        head.load_state_dict(weights)
        return cls(head.eval())


def taught(model: Model, n: int, chains: int | None, updates: int) -> str:
    """A ranking head for a run, learned and kept in it; how well it did on a fifth of the chains that it had not seen, in
    words. Raises Wrong where too few chains are held out."""
    from sfumato.training import checkpoint

    store: Store = model.companions.store
    own = store.part("val").chains
    own = np.array([i for i in own if store.there[store.rows(int(i))].all()], dtype=np.int64)[:chains]
    if len(own) < 4:
        raise Wrong(f"{model.run.path}: {len(own)} whole chain(s) are held out; 4 are needed to learn ranking from")
    lessons = [lesson(model, one) for one in cases(model, own, n)]
    kin = np.unique(store.cluster[own], return_inverse=True)[1]  # no cluster lies on two sides here either
    count = min(5, int(kin.max()) + 1)
    folds = [np.flatnonzero(kin % count == k) for k in range(count)] if count > 1 else [np.arange(len(own))]
    width = model.settings["width"]
    tried = []
    for held in folds:
        rest = [each for i, each in enumerate(lessons) if i not in set(held.tolist())] or lessons
        tried.append((learned(rest, width, updates), [lessons[i] for i in held]))
    head = learned(lessons, width, updates)
    settings = {"ranker": json.dumps({"width": width, "chains": len(lessons), "samples": n})}
    checkpoint.save_weights(model.run.path / FILE, head.state_dict(), settings)
    return (
        f"learned from {len(lessons)} chains, {n} samples each; in {len(folds)}-fold cross-fitting predicted and true errors "
        f"correlate by {correlation(tried):.2f}"
    )
