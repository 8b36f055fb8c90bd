"""`sfumato evaluate` of backbones: errors by region and local geometry of the samples, the chosen one and the best, beside
the nearest known chain, copied.

Figures are those of antibody modelling: FR, H1, H2, H3 are RMSDs of CA after one fit on the framework, H3_own after a fit on
the third loop alone, lDDT of CA with a radius of 15 A and the mean over residues. Without regions: RMSD after the best fit of
all, and lDDT. Intervals are of chains drawn anew (bootstrap); in the test every chain is of a cluster of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.fields.protein.choosing import medoid
from sfumato.fields.protein.data import Store
from sfumato.fields.protein.geometry import CA, peptide_share, quality, tidied
from sfumato.fields.protein.pictures import Errors, Traces
from sfumato.fields.protein.queries import Sequences, drawn, folds
from sfumato.fields.protein.sequences import of_run
from sfumato.fields.protein.template import template
from sfumato.jobs.report import Report
from sfumato.metrics.superpose import fit, fitted_rmsd, lddt, rmsd
from sfumato.metrics.table import Row
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from sfumato.fields.protein.options import ProteinMeasure
    from sfumato.fields.protein.queries import Fold
    from sfumato.jobs.model import Model

DRAWS = 2000
HIGHER = ("lddt", "peptide", "bonds", "angles")
LOCAL = ("bonds", "angles", "cis", "phi_left", "left_run", "clashes")
"""Figures of a backbone alone."""


def errors(model: Tensor, truth: Tensor, cdr: np.ndarray | None) -> dict[str, float]:
    """The figures of one backbone (L, 4, 3) against the truth, in Angstrom and shares."""
    model, truth = model.double(), truth.double()
    a, b = model[:, CA], truth[:, CA]
    found = {}
    if cdr is None:
        found["RMSD"] = float(fitted_rmsd(a, b))
    else:
        frame = torch.from_numpy(cdr == 0)
        moved = fit(a[frame], b[frame])(a)
        found["FR"] = float(rmsd(moved[frame], b[frame]))
        for loop in (1, 2, 3):
            own = torch.from_numpy(cdr == loop)
            found[f"H{loop}"] = float(rmsd(moved[own], b[own]))
        third = torch.from_numpy(cdr == 3)
        found["H3_own"] = float(fitted_rmsd(a[third], b[third]))
    return {**found, "lddt": float(lddt(a, b).mean()), "peptide": float(peptide_share(model))}


@dataclass(frozen=True, eq=False)
class Case:
    """One chain: the figures of its samples, in the order of their numbers; which of them is chosen, and which the medoid;
    those of the chosen one with bonds and angles relaxed;
    those of the template, where there is one. confidence and residue lDDT (n, L) x 100; third (n,)."""

    name: str
    samples: Sequence[Mapping[str, float]]
    chosen: int
    middle: int
    tidied: Mapping[str, float]
    template: Mapping[str, float] | None
    confidence: np.ndarray
    local: np.ndarray
    third: np.ndarray
    folds: Sequence[Fold]

    def of(self, which: str, name: str) -> float:
        """A figure of: mean, chosen, medoid, best (the least error of the third loop, or of all), template."""
        if which == "tidied":
            return self.tidied[name]
        if which == "template":
            return float("nan") if self.template is None else self.template.get(name, float("nan"))
        values = [sample[name] for sample in self.samples]
        if which == "mean":
            return float(np.mean(values))
        key = "H3" if "H3" in self.samples[0] else "RMSD"
        best = int(np.argmin([sample[key] for sample in self.samples]))
        return float(values[{"chosen": self.chosen, "medoid": self.middle, "best": best}[which]])


def chains(model: Model, measure: ProteinMeasure) -> np.ndarray:
    """The chains to measure on, whose truth is whole. Raises RunError for none."""
    store: Store = model.companions.store
    own = store.part(measure.on).chains
    own = np.array([i for i in own if store.there[store.rows(int(i))].all()], dtype=np.int64)
    if not len(own):
        raise RunError(
            f"{model.run.path}: no chain of '{measure.on}' is there to measure on; give --on val, or train with --test"
        )
    return own if measure.chains is None else own[: measure.chains]


def cases(model: Model, own: np.ndarray, n: int) -> list[Case]:
    """Samples of chains, measured."""
    from sfumato.training.progress import Watch

    store: Store = model.companions.store
    learned = store.part("train").chains
    queries = Sequences([of_run(store, int(i)) for i in own], n)
    found: dict[int, Case] = {}
    with Watch("fold", len(queries), unit="samples") as watch:
        for part in drawn(model, queries, range(len(queries))):
            at = int(part.numbers[0]) // n
            known = template(store, int(own[at]), learned) if store.facts.regions else None
            made = [fold for fold in folds(model, queries, part) if not fold.error]
            if made:
                found[at] = case(store, int(own[at]), made, known)
            watch.show(sum(len(each.samples) for each in found.values()))
    return [found[at] for at in sorted(found)]


def case(store: Store, chain: int, made: Sequence[Fold], known: Any) -> Case:
    """One chain's samples against the truth, on the residues that its template has."""
    asked = made[0].asked
    assert asked.truth is not None
    common = len(asked) if known is None else known.common
    truth = torch.from_numpy(asked.truth).double()[-common:]
    cdr = None if asked.cdr is None else asked.cdr[-common:]
    backbones = [torch.from_numpy(fold.coords).double()[-common:] for fold in made]
    codes = torch.from_numpy(asked.codes[-common:])
    figures = [{**errors(each, truth, cdr), **quality(each, codes)} for each in backbones]
    copied = None
    if known is not None:
        other = torch.from_numpy(store.coords[store.rows(known.chain)][-common:])
        copied = {**errors(other, truth, cdr), **quality(other, codes)}
    ranks = [fold.rank for fold in made]
    distance = medoid(torch.stack(backbones), cdr)
    sure = np.stack([fold.confidence[-common:] if len(fold.confidence) else np.full(common, np.nan) for fold in made])
    chosen = int(np.argmin(ranks))
    relaxed = tidied(torch.from_numpy(made[chosen].coords))[-common:]
    local = torch.stack([lddt(each[:, CA], truth[:, CA]) for each in backbones]).numpy()
    return Case(
        asked.name, figures, chosen, int(distance.argmin()),
        {**errors(relaxed, truth, cdr), **quality(relaxed, codes)}, copied, sure, 100 * local,
        np.array([fold.third for fold in made]), made,
    )  # fmt: skip


# ---- a table with intervals --------------------------------------------------------------------------------------------------


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of chains, and 90% of the means of chains drawn anew."""
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    weight = np.random.default_rng(0).multinomial(len(values), np.full(len(values), 1 / len(values)), size=DRAWS)
    low, high = np.quantile(weight @ values / len(values), [0.05, 0.95])
    return float(values.mean()), float(low), float(high)


def kept_order(found: Sequence[Case], n: int) -> dict[int, dict[str, float]]:
    """The third loop (or the whole) of the mean, the chosen and the best of N samples, N = 1, 2, 5, ... up to n: the first N
    of each chain, the chosen one by the confidence that it had among all."""
    key = "H3" if "H3" in found[0].samples[0] else "RMSD"
    curve = {}
    for count in [each for each in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if each < n] + [n]:
        rows = []
        for one in found:
            values = [sample[key] for sample in one.samples[:count]]
            ranks = [fold.rank for fold in one.folds[:count]]
            rows.append([float(np.mean(values)), values[int(np.argmin(ranks))], min(values)])
        mean, chosen, best = np.array(rows).mean(0)
        curve[count] = {"mean": float(mean), "chosen": float(chosen), "best": float(best)}
    return curve


def calibration(found: Sequence[Case]) -> tuple[float, list[tuple[float, float, int]]]:
    """The mean distance of confidence and lDDT over ten bins of equally many residues, weighted by their counts (x 100), and
    the bins: mean confidence, mean lDDT, residues. NaN and none where nothing is known."""
    sure = np.concatenate([one.confidence[one.chosen] for one in found])
    local = np.concatenate([one.local[one.chosen] for one in found])
    there = ~np.isnan(sure)
    if there.sum() < 10:
        return float("nan"), []
    order = np.argsort(sure[there], kind="stable")
    bins = [
        (float(sure[there][own].mean()), float(local[there][own].mean()), len(own)) for own in np.array_split(order, 10)
    ]
    return float(sum(abs(a - b) * n for a, b, n in bins) / there.sum()), bins


def evaluate(model: Model, measure: ProteinMeasure, ask: Any) -> Report:
    """Samples of chains that were kept apart, measured. Raises RunError, DataError, MetricError."""
    own = chains(model, measure)
    found = cases(model, own, measure.n)
    if not found:
        raise RunError(f"{model.run.path}: no sample of {len(own)} chains was finite; train longer")
    regions = model.facts.regions
    names = ("FR", "H1", "H2", "H3", "H3_own", "lddt", "peptide") if regions else ("RMSD", "lddt", "peptide")
    kinds = ("mean", "chosen", "tidied", "medoid", "best", *(("template",) if regions else ()))
    rows: list[Row] = []
    blocks = []
    groups = {"with a template": [one for one in found if one.template is not None],
              "without": [one for one in found if one.template is None], "all": found} if regions else {"all": found}  # fmt: skip
    for group, those in groups.items():
        if not those:
            continue
        lines = []
        for kind in kinds:
            if kind == "template" and group != "with a template":
                continue
            cells = [interval(np.array([one.of(kind, name) for one in those])) for name in (*names, *LOCAL)]
            lines.append((kind, *(f"{value[0]:.3f}" for value in cells)))
            for name, (value, low, high) in zip((*names, *LOCAL), cells):
                label = f"{name}_{kind}" + ("" if group == "all" else f"_{group.replace(' ', '_')}")
                better: Any = "higher" if name in HIGHER else "lower"
                rows.append(Row(label, value, low, high, None, better, len(those), 0))
        blocks.append(_block(f"{group} ({len(those)} chains)", (*names, *LOCAL), lines))
    curve = kept_order(found, measure.n)
    off, bins = calibration(found)
    key = "H3" if regions else "RMSD"
    notes = [
        f"{len(found)} chains of '{measure.on}', {measure.n} samples each; mean: of all samples, chosen: ranked first, tidied: "
        f"it with bonds and angles relaxed, best: the least {key}; bonds and angles within 3 spreads of crystals, clashes per "
        "1,000 residues, left_run: residues in a row with phi above 0",
        *(
            f"of {count}: mean {row['mean']:.2f}, chosen {row['chosen']:.2f}, best {row['best']:.2f} A {key}"
            for count, row in curve.items()
        ),
    ]
    ranked = (
        "the ranking head"
        if model.companions.ranker is not None
        else "agreement of the samples (no ranking head: sfumato protein rank)"
    )
    gap = curve[measure.n]["mean"] - curve[measure.n]["best"]
    if measure.n > 1 and gap > 0:
        share = (curve[measure.n]["mean"] - curve[measure.n]["chosen"]) / gap
        notes.append(f"chosen by {ranked}: {100 * share:.0f} % of what the best one gains over the mean")
        third = np.concatenate([one.third for one in found])
        true = np.concatenate([[sample[key] for sample in one.samples] for one in found])
        there = ~np.isnan(third)
        if there.sum() > 2:
            notes.append(
                f"correlation of confidence with {key}: {-np.corrcoef(third[there], true[there])[0, 1]:.2f} (1 is right)"
            )
        notes.append(f"calibration: confidence and lDDT of residues differ by {off:.1f} of 100 on average")
    about = {
        "curve": {str(count): row for count, row in curve.items()}, "calibration": bins,
        "chains": [{"name": one.name, "chosen": one.chosen, "template": one.template is not None,
                    "samples": [dict(sample) for sample in one.samples]} for one in found],
    }  # fmt: skip
    return Report(tuple(rows), tuple(notes), _pictures(found, key, bins, curve), about, "\n\n".join(blocks))


def _block(title: str, names: Sequence[str], lines: Sequence[tuple[str, ...]]) -> str:
    table = [(title, *names), *lines]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table)


def _pictures(found: Sequence[Case], key: str, bins: Any, curve: Any) -> dict[str, Any]:
    from sfumato.jobs.plots import available

    if not available():
        return {}
    order = sorted(found, key=lambda one: one.of("chosen", key))
    shown = [order[0], order[len(order) // 2], order[-1]] if len(order) > 2 else order
    titles = [
        f"{name}: {one.name}, {key} {one.of('chosen', key):.2f} A"
        for name, one in zip(("best", "median", "worst"), shown)
    ]
    pictures: dict[str, Any] = {"traces.png": Traces([one.folds for one in shown], titles)}
    third = np.concatenate([one.third for one in found])
    true = np.concatenate([[sample[key] for sample in one.samples] for one in found])
    if bins:
        pictures["errors.png"] = Errors(third, true, bins, curve)
    return pictures
