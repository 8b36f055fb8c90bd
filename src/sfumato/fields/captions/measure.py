"""`sfumato evaluate`: do pictures look real, and do they show what was asked for?

Agreement of words and picture is measured by retrieval, in a feature space that nothing was trained or chosen in: a picture
drawn for a held-out caption agrees if the nearest of the real held-out pictures has that caption. Beside it stand chance, and
what is had without a model: the training picture whose caption has most words in common with the one asked for. Where
pictures lie in several folders, these are kinds of them, and agreement in kind stands beside that of the real pictures.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.data.sheet import to_bytes
from sfumato.diffusion import key
from sfumato.errors import Wrong
from sfumato.fields.captions.data import Pairs
from sfumato.fields.captions.options import CaptionAsk, Measured
from sfumato.fields.captions.queries import Prompts
from sfumato.fields.captions.shown import Shown, as_pictures, sheet
from sfumato.jobs.model import Model
from sfumato.jobs.report import Report
from sfumato.jobs.walk import Walk
from sfumato.jobs.watched import watched
from sfumato.metrics.intervals import mean_interval, share_interval
from sfumato.metrics.spaces import Space, choose, of_pictures
from sfumato.metrics.table import Row, compare
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from sfumato.metrics.table import Remember

MOST = 512
"""Held-out captions unless asked otherwise."""
CURVE = 128
KNOWN = 2000
"""Training pictures that samples are compared with."""
LEAST = 12
SHOWN = 12
PROMPTS = 16
"""Captions of which several pictures are drawn, to see how they differ."""


@dataclass(frozen=True, eq=False)
class Held:
    """Held-out pictures (n, 3, H, W) from -1 (black) to 1 (white), brought to one size, with what is said of each, and the folder
    of each."""

    x: Tensor
    captions: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    folders: tuple[str, ...]

    def first(self, count: int) -> Held:
        """So many of them."""
        return Held(self.x[:count], self.captions[:count], self.sizes[:count], self.folders[:count])


def measurable(model: Model, measure: Measured, ask: CaptionAsk) -> None:
    """Whether there is enough to measure with, and what is asked for can be. Raises RunError, MetricError, Wrong."""
    for name in ("prompt", "prompts", "size"):
        if (value := getattr(ask, name)) is not None:
            raise Wrong(
                f"{name} = {str(value)!r}: must be left out, pictures are measured for held-out captions in their sizes"
            )
    if measure.features not in ("auto", "patches", "pca"):
        choose(measure.features, torch.zeros(1, *model.facts.shape), lambda x: x)
    if model.facts.held < LEAST:
        raise RunError(
            f"{model.run.path}: {model.facts.held} held-out pictures are too few to measure with, {LEAST} at least"
        )


def evaluate(model: Model, measure: Measured, ask: CaptionAsk) -> Report:
    """Pictures of held-out captions against the real ones. Raises RunError, DataError, MetricError."""
    from sfumato.metrics.cache import cached

    recipe: Any = model.recipe
    data = recipe.open(model.run)
    held = some(data.held_out, measure.n or MOST, told=True)
    known = some(data.train, KNOWN)
    if len(held.captions) < LEAST:
        raise RunError(
            f"{len(held.captions)} held-out pictures have captions: too few to measure with, {LEAST} at least"
        )
    remember: Remember = partial(cached, model.run.cache / "reference")
    space = watched(of_pictures(measure.features, known.x, remember))
    real, train = (space.remembered(each.x, remember) for each in (held, known))
    drawn = drawn_for(model, held, ask.negative)
    fake = space(drawn)
    rows = [*compare(fake, train, real, remember=remember), *agreement(fake, real, held.captions)]
    rows += agreement_in_kind(fake, real, held.folders)
    rows += diversity(model, held, space, real, measure.seeds, ask.negative)
    nearest = likest(held.captions, known.captions)
    stand_in = agreement(train[nearest], real, held.captions, "of_likest_caption")
    curve = guidance(model, measure.strengths, held, space, train, real, ask.negative)
    chance = Counter(held.captions)
    chance_rate = sum(count * count for count in chance.values()) / len(held.captions) ** 2
    kinds = sum(count * count for count in Counter(held.folders).values()) / len(held.folders) ** 2
    notes = [
        f"features: {space.name}; agreement by chance {chance_rate:.3f}; of_likest_caption: the training picture whose caption "
        "has most words in common",
        *(
            (
                f"agreement_kind: the folder of the nearest real picture; by chance {kinds:.3f}, the floor is real pictures",
            )
            if kinds < 1
            else ()
        ),
        *(
            f"w = {point['w']:g}: agreement {point['agreement']:.3f}, closer than {point['rank']:.1%} of the others, kernel "
            f"distance {point['kernel_distance']:.3f} (of {point['n']})"
            + (f", kind {point['kind']:.3f}" if "kind" in point else "")
            for point in curve
        ),
    ]
    shown = min(SHOWN, len(drawn))
    which = [i * len(drawn) // shown for i in range(shown)]
    distances = torch.cdist(fake[which].double(), train.double())
    strips = (drawn[which], held.x[which], known.x[distances.argmin(1)])
    words = [held.captions[i] for i in which]
    things = [Shown(each, text) for strip in strips for each, text in zip(to_bytes(strip.numpy()), words)]
    return Report(
        (*rows, *stand_in), tuple(notes), {"report.png": sheet(things, shown, 1200)},
        {"features": space.name, "chance": chance_rate, "guidance": curve,
         "report.png": "rows: drawn, the real held-out picture, the training picture nearest to the one drawn"},
    )  # fmt: skip


def some(pairs: Pairs, most: int, told: bool = False) -> Held:
    """At most so many pictures, each with one caption, in an order of their names' hashes; ``told``: only with words."""
    order = sorted(range(len(pairs.of)), key=lambda i: key("measure", pairs.name(i)))
    chosen = [i for i in order if not told or pairs.caption(i)][:most]
    facts = pairs.stock.facts
    kinds = pairs.stock.bucket[pairs.of[chosen]]
    x = torch.empty(len(chosen), *facts.shape)
    for kind in np.unique(kinds):
        places = np.flatnonzero(kinds == kind)
        x[places] = one_size(torch.from_numpy(pairs.pictures(np.asarray(chosen)[places])), facts.sizes[0])
    folders = tuple(str(PurePosixPath(pairs.name(i)).parent) for i in chosen)
    return Held(x, tuple(map(pairs.caption, chosen)), tuple(facts.sizes[kind] for kind in kinds), folders)


def one_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures (n, 3, H, W) at this (height, width)."""
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bicubic", antialias=True).clamp(-1, 1)


def drawn_for(
    model: Model, held: Held, negative: str | None = None, walk: Walk | None = None, name: str = "pictures"
) -> Tensor:
    """A picture for each caption, led away from ``negative``, of the size of its real one, then brought to one size:
    (n, 3, H, W) from -1 to 1."""
    from sfumato.training.progress import Watch

    facts = model.facts
    seen: Counter[str] = Counter()
    places = []
    for text in held.captions:
        places.append(seen[text])
        seen[text] += 1
    out = torch.empty(len(held.captions), *facts.shape)
    with Watch(name, len(out), unit="samples") as watch:
        done = 0
        for size in dict.fromkeys(held.sizes):
            own = [i for i, other in enumerate(held.sizes) if other == size]
            texts, turns = tuple(held.captions[i] for i in own), tuple(places[i] for i in own)
            for part in model.draw(
                Prompts(texts, len(own), model.companions.words, size, places=turns, space=facts.space),
                range(len(own)), walk=walk,
            ):  # fmt: skip
                pixels = as_pictures(model, part.x)
                out[[own[number] for number in part.numbers]] = one_size(pixels, facts.sizes[0])
                done += len(pixels)
                watch.show(done)
    return out


def agreement(fake: Tensor, real: Tensor, captions: Sequence[str], of: str = "") -> list[Row]:
    """Rows: the share of pictures (n, d) whose nearest real one (n, d) has the caption that they were drawn for, and how large a
    share of the real ones of other captions is farther than the nearest of their own."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    kind = torch.tensor([numbers[text] for text in captions])
    same = kind[:, None] == kind
    distance = torch.cdist(fake.double(), real.double())
    hits = same[torch.arange(len(fake)), distance.argmin(1)].double()
    own = torch.where(same, distance, torch.inf).min(1).values
    beaten = ((distance > own[:, None]) & ~same).sum(1) / (~same).sum(1).clamp_min(1)
    n, rate, name = len(fake), float(hits.mean()), f"_{of}" if of else ""
    return [
        Row(f"agreement{name}", rate, *share_interval(rate, n), None, "higher", n, len(real)),
        Row(f"agreement_rank{name}", *mean_interval(beaten.double()), None, "higher", n, len(real)),
    ]


def agreement_in_kind(fake: Tensor, real: Tensor, folders: Sequence[str]) -> list[Row]:
    """A row: the share of pictures (n, d) whose nearest real one (n, d) lies in the folder of the one that they were drawn for;
    its floor is that of the real ones, each without itself. None where all lie in one."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(folders))}
    if len(numbers) < 2:
        return []
    kind = torch.tensor([numbers[name] for name in folders])

    def rate(x: Tensor, alone: bool) -> float:
        distance = torch.cdist(x.double(), real.double())
        if alone:
            distance.fill_diagonal_(torch.inf)
        return float((kind[distance.argmin(1)] == kind).double().mean())

    value, n = rate(fake, False), len(fake)
    return [Row("agreement_kind", value, *share_interval(value, n), rate(real, True), "higher", n, len(real))]


def diversity(
    model: Model, held: Held, space: Space, real: Tensor, seeds: int, negative: str | None = None
) -> list[Row]:
    """Row: how much pictures of one caption differ: the mean distance between ``seeds`` of them, over that between any two of the
    real held-out ones (n, d), with an interval over captions. None where there is one caption, or one seed."""
    texts = tuple(dict.fromkeys(held.captions))[:PROMPTS]
    if seeds < 2 or len(texts) < 2:
        return []
    many = texts * seeds
    asked = Held(held.x[:0], many, (model.facts.sizes[0],) * len(many), ("",) * len(many))
    found = space(drawn_for(model, asked, negative, name="diversity")).double().unflatten(0, (seeds, len(texts)))
    within = torch.stack([torch.pdist(each).mean() for each in found.unbind(1)])
    values = within / torch.pdist(real.double()).mean()
    return [Row("diversity", *mean_interval(values), None, "higher", len(many), len(real))]


def likest(captions: Sequence[str], known: Sequence[str]) -> list[int]:
    """For each caption the number of the known one with most words in common, as a share of the words in either."""
    sets = [frozenset(re.findall(r"\w+", text.lower())) for text in known]

    def nearest(text: str) -> int:
        own = frozenset(re.findall(r"\w+", text.lower()))
        return max(range(len(sets)), key=lambda i: (len(own & sets[i]) / max(1, len(own | sets[i])), -i))

    return [nearest(text) for text in captions]


def guidance(
    model: Model,
    strengths: Sequence[float],
    held: Held,
    space: Space,
    train: Tensor,
    real: Tensor,
    negative: str | None,
) -> list[dict[str, float]]:
    """Agreement and kernel distance over the strength of guidance, on the same captions and noise. Nothing for a flow map,
    whose strengths are those it learned."""
    from sfumato.metrics.distances import kernel_distance

    if not strengths or not all(adaptation.guides() for adaptation in model.adaptations):
        return []
    count = min(CURVE, len(held.captions))
    part = held.first(count)
    found = []
    for w in strengths:
        fake = space(drawn_for(model, part, negative, dataclasses.replace(model.walk, w=w), f"w = {w:g}"))
        hit, rank = agreement(fake, real[:count], part.captions)
        kinds = agreement_in_kind(fake, real[:count], part.folders)
        found.append({
            "w": w, "agreement": hit.value, "agreement_low": hit.low, "agreement_high": hit.high, "rank": rank.value,
            "kernel_distance": float(kernel_distance(fake.double(), train.double())), "n": count,
            **({"kind": kinds[0].value} if kinds else {}),
        })  # fmt: skip
    return found
