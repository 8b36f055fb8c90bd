"""Pictures from a folder (or an array file): the main job."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sfumato.errors import Wrong, check
from sfumato.fields.images import measure
from sfumato.fields.images.data import ARRAYS, Layout, Reading, Scale, asked_vectors, coded, opened, prepared
from sfumato.fields.images.facts import PictureFacts
from sfumato.jobs.flags import Positional
from sfumato.jobs.making import Making
from sfumato.jobs.methods import MethodOptions
from sfumato.jobs.recipe import Data, Look, Recipe, Say
from sfumato.networks.options import NetworkOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from PIL.Image import Image
    from torch import nn

    from sfumato.data import Scan
    from sfumato.diffusion import Blanks, Drawn, Equilibrium, Gaussian
    from sfumato.diffusion.generate import Queries
    from sfumato.jobs.latents import Decoder
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.training.run import Run


COVER = 0.02
"""Share of the training times at pure noise, of items that are no pictures."""


@dataclass(frozen=True)
class PictureAsk:
    """What pictures are asked for."""

    label: str | None = None
    """Class to draw from (default: all in turn)."""
    vector: tuple[float, ...] | None = None
    """Numbers to draw for, in the units of --vectors (default: those of held-out items in turn)."""


@dataclass(frozen=True)
class Images(Recipe):
    """Pictures from a folder, or an array of pictures or vectors in a .npy or .npz file."""

    Facts: ClassVar[type] = PictureFacts
    Ask: ClassVar[type] = PictureAsk
    Measure: ClassVar[type] = measure.Measure
    guided: ClassVar[tuple[str, ...]] = ("label", "vector", "vector_known")
    formats: ClassVar[tuple[str, ...]] = (".png", ".npy")
    tunable: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("coder.safetensors",)

    data: Positional[Path]
    """Folder (searched to any depth), .npy or .npz."""
    side: int | None = None
    """Pictures are cut to squares of this side, in pixels (default: 32 on a CPU, 64 on a GPU, less where they are smaller)."""
    labels: bool = False
    """Learn sub-folders, or the labels of a .npz, as classes."""
    vectors: Path | None = None
    """Learn numbers beside each item as its condition: a .csv whose first column names the picture's file, or a .npy (or the
    array "vectors" of a .npz) with a row for each item of an array file."""
    latent: Path | None = None
    """Run of an autoencoder: learn in its smaller space (sfumato train autoencoder PICTURES makes one)."""
    held_out: float = 0.1
    """Share kept out of training, to measure with."""
    layout: Layout = "auto"
    """Which axis of an array's items is which: channels C, height H, width W, frames T, steps L, numbers D."""
    scale: Scale = "auto"
    """Columns or channels of an array standardised: each by itself or all alike (auto: alike for pictures)."""
    black_white: tuple[float, float] | None = None
    """Numbers of an array that are drawn black and white (default: found in the data)."""
    broken_budget: float = 0.01
    """Share of broken files at most: more stop the run, fewer are skipped with a warning."""
    drop: float = 0.1
    """Share trained without class and numbers (for guidance)."""
    network: NetworkOptions = field(default_factory=NetworkOptions)
    """Network."""
    method: MethodOptions = field(default_factory=MethodOptions)
    """Diffusion method."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.side is None or self.side >= 4, "side", "at least 4 pixels"),
            (0 < self.held_out < 1, "held_out", "a share between 0 and 1"),
            (0 <= self.broken_budget < 1, "broken_budget", "a share from 0 to below 1"),
            (0 <= self.drop < 1, "drop", "a share from 0 to below 1"),
            (
                self.black_white is None
                or (all(map(math.isfinite, self.black_white)) and self.black_white[0] != self.black_white[1]),
                "black_white",
                "two different finite numbers",
            ),
        )

    # ---- data --------------------------------------------------------------------------------------------------------

    def scan(self, say: Say) -> Scan:
        """Decode every picture once and see what is there. Raises DataError beyond the budget of broken files."""
        from sfumato.data import check_budget, scan
        from sfumato.training.progress import Watch

        with Watch("look at pictures", 1, unit="pictures") as watch:

            def progress(done: int, total: int) -> None:
                watch.total = total
                watch.bar.update(watch.task, total=total)
                watch.show(done)

            found = scan(self.data, labels=self.labels, workers=os.cpu_count() or 1, progress=progress)
        if found.complaints:
            share = len(found.complaints) / (len(found.files) + len(found.complaints))
            say(f"{len(found.complaints)} broken file(s) skipped ({share:.1%}):")
            for complaint in found.complaints[:10]:
                say(f"  {complaint}")
        check_budget(found, self.broken_budget)
        return found

    def chosen_side(self, scan: Scan) -> int:
        """The side asked for, or: 32 on a CPU, 64 on a GPU, less if the pictures are smaller."""
        from sfumato.training.parallel import pick_device

        if self.side is not None:
            return self.side
        wanted = 32 if pick_device().type == "cpu" else 64
        smallest = max(8, scan.median_side)
        return min(wanted, smallest - smallest % 4)

    def prepare(self, run: Run, tell: Say, base: Any = None) -> Images:
        reading = Reading(self.labels, self.layout, self.scale, self.black_white)
        if base is not None and (base.latent is not None or base.vector_names):
            raise Wrong(
                f"{run.path}: a run of codes or with numbers beside its items cannot learn further yet; train anew"
            )
        if self.data.suffix.lower() in ARRAYS:
            prepared(run, self.data, None, reading, self.held_out, self.vectors, base)
            return self.coded(run).covered(self.facts(run))
        if (self.layout, self.black_white) != ("auto", None):
            raise Wrong(
                f"layout and black_white: are for arrays; those of pictures in files, as in {self.data}, are known"
            )
        scan = self.scan(tell)
        recipe = dataclasses.replace(self, side=self.chosen_side(scan))
        assert recipe.side is not None
        prepared(run, self.data, (scan, recipe.side), reading, self.held_out, self.vectors, base)
        return recipe.coded(run)

    def coded(self, run: Run) -> Images:
        """The recipe, once codes are worked out where they are to be learned."""
        if self.latent is not None:
            coded(run, self.data, self.latent)
        return self

    def covered(self, facts: PictureFacts) -> Images:
        """The recipe with pure noise trained too where the items are no pictures: what a network answers there is chance else,
        and far more of it where its answer goes through no patches."""
        if facts.pictures or self.method.cover is not None:
            return self
        return dataclasses.replace(self, method=dataclasses.replace(self.method, cover=COVER))

    def open(self, run: Run) -> Data:
        facts = self.facts(run)
        return Data(facts, *opened(run, self.data, facts))

    def seen(self, run: Run) -> Data:
        """The data as they are seen, where codes of them are learned."""
        facts = self.facts(run)
        return Data(facts, *opened(run, self.data, facts, seen=True))

    def companions(self, run: Run, device: Any) -> Decoder | None:
        """What decodes samples, where codes are learned."""
        from sfumato.jobs import latents

        space = self.facts(run).space
        return None if space is None else latents.decoder(run, space, device)

    def decoded(self, model: Model, x: Any) -> Any:
        facts: PictureFacts = model.facts
        return x if facts.space is None else (model.companions.decode(x) - facts.mean) / facts.spread

    def examine(self) -> Look:
        from sfumato.data import DataError, check_budget

        bold = dataclasses.replace(self, broken_budget=0.999999)
        if self.data.suffix.lower() in ARRAYS:
            return Look((), bold)
        scan = bold.scan(lambda text: None)
        lines = scan_lines(scan, self.data) + (["classes   " + ", ".join(scan.classes)] if self.labels else [])
        try:
            check_budget(scan, self.broken_budget)
        except DataError as error:
            return Look((*lines, f"training would stop: {error}"), bold, False)
        return Look(tuple(lines), bold)

    def glimpse(self, data: Data) -> Image | None:
        """Pictures of the training part, as they are learned."""
        from sfumato.data.sheet import sheet
        from sfumato.training.loader import fetch

        if not data.facts.pictures or data.facts.space is not None:
            return None
        count = min(64, len(data.train))
        some = fetch(data.train, [i * len(data.train) // count for i in range(count)]).x
        return sheet(data.facts.seen(data.facts.items(some.numpy())), least=900)

    # ---- network -----------------------------------------------------------------------------------------------------

    def process(self, facts: PictureFacts) -> Gaussian | Equilibrium:
        return self.method.build()

    def build(self, facts: PictureFacts, device: str) -> nn.Module:
        from sfumato import networks

        return networks.choose(
            facts.learned,
            count=facts.count,
            classes=len(facts.classes),
            vectors=len(facts.vector_names),
            device=device,
            **dataclasses.asdict(self.network),
        )

    # ---- samples -----------------------------------------------------------------------------------------------------

    def queries(self, model: Model, ask: PictureAsk, n: int | None) -> Blanks:
        import torch

        from sfumato.diffusion import Blanks

        classes, label = model.facts.classes, ask.label
        if label is not None and label not in classes:
            known = (
                f"must be one of {', '.join(classes)}" if classes else f"{model.run.path} was trained without classes"
            )
            raise Wrong(f"label = {label!r}: {known}" + ("" if classes else " (use --labels)"))
        turns = torch.arange(len(classes)) if label is None else torch.tensor([classes.index(label)])
        condition = {"label": turns} if classes else {}
        vectors = asked_vectors(model.run, model.facts, ask.vector)
        if vectors is not None:
            rows = torch.from_numpy(vectors)
            condition |= {"vector": rows, "vector_known": torch.ones(len(rows), dtype=torch.bool)}
        return Blanks(torch.zeros(model.facts.learned), 16 if n is None else n, condition)

    def choices(self, model: Model) -> Mapping[str, Sequence[str]]:
        return {"label": model.facts.classes, **({} if model.facts.vector_names else {"vector": ()})}

    def things(self, model: Model, queries: Queries, drawn: Drawn) -> list[np.ndarray]:
        """Items in the units, type and layout of the data: of a folder picture bytes (H, W, 3)."""
        items: list[np.ndarray] = model.facts.items(self.decoded(model, drawn.x).float().cpu().numpy())
        return items

    def write(
        self, model: Model, queries: Queries, things: Iterable[tuple[int, np.ndarray]], out: Path, making: Making
    ) -> Iterator[Path]:
        """A picture of each item that can be looked at, and its numbers (.npy) beside where the picture does not hold them."""
        facts = model.facts
        for number, thing in things:
            path, own = out / f"{number:04d}", making.of(queries, number)
            drawn = facts.pictures and making.suffix != ".npy"
            if not drawn or not facts.exact:
                yield self.save(thing, path.with_suffix(".npy"), own)
            if drawn:
                yield self.save(facts.seen([thing])[0], path.with_suffix(".png"), own)

    def save(self, thing: np.ndarray, path: Path, making: Making) -> Path:
        import numpy as np

        if path.suffix.lower() == ".npy":
            np.save(path, thing)
            return path
        from PIL import Image as pil

        pil.fromarray(thing).save(path, pnginfo=making.png())
        return path

    def picture(self, model: Model, things: Sequence[np.ndarray], columns: int | None = None) -> Image | None:
        from sfumato.data.sheet import sheet

        if not model.facts.pictures:
            return None
        return sheet(model.facts.seen(list(things)), columns, least=512 if columns is None else 900)

    def measurable(self, model: Model, measure: measure.Measure, ask: PictureAsk) -> None:
        from sfumato.fields.images.measure import measurable

        measurable(model, measure)

    def evaluate(self, model: Model, measure: measure.Measure, ask: PictureAsk) -> Report:
        from sfumato.fields.images.measure import evaluate

        return evaluate(model, measure, ask)


def scan_lines(scan: Scan, data: Path) -> list[str]:
    """What was found in a folder, and what is broken in it."""
    lines = [f"{len(scan.files)} pictures in {data}, {len(scan.complaints)} broken"]
    lines += [f"  broken: {complaint}" for complaint in scan.complaints]
    lines += ["sizes     " + ", ".join(f"{w}x{h} ({n})" for (w, h), n in scan.sizes.most_common(5))
              + (f" and {len(scan.sizes) - 5} more" if len(scan.sizes) > 5 else "")]  # fmt: skip
    lines += ["modes     " + ", ".join(f"{mode} ({n})" for mode, n in scan.modes.most_common())]
    if scan.handled:
        lines += ["handled   " + ", ".join(f"{what} ({n})" for what, n in scan.handled.most_common())]
    if scan.ignored:
        named = (f"{suffix or 'no suffix'} ({n})" for suffix, n in scan.ignored.most_common())
        lines += ["ignored   " + ", ".join(named)]
    if scan.duplicates:
        lines += [f"duplicates {sum(map(len, scan.duplicates)) - len(scan.duplicates)} pictures appear more than once"]
        lines += ["  same: " + ", ".join(str(path) for path in group[:4]) for group in scan.duplicates[:5]]
    return lines


RECIPE = Images
