"""Pictures into a smaller space and back: an autoencoder, in whose codes other runs learn (``--latent RUN``)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sfumato.errors import Wrong, check
from sfumato.fields.autoencoder.facts import CoderFacts
from sfumato.fields.autoencoder.method import Reconstruction
from sfumato.fields.autoencoder.options import FACTORS, CoderMeasure, CoderNetwork
from sfumato.jobs.flags import Positional
from sfumato.jobs.making import Making
from sfumato.jobs.recipe import Data, Look, Recipe, Say, usual_batch
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import nn

    from sfumato.diffusion import Clean, Drawn
    from sfumato.diffusion.generate import Queries
    from sfumato.fields.autoencoder.data import RealPictures, Wanted
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.training.objective import Task
    from sfumato.training.run import Run


@dataclass(frozen=True)
class Autoencoder(Recipe):
    """An autoencoder of pictures in a folder, in whose codes runs of other fields learn (--latent)."""

    Facts: ClassVar[type] = CoderFacts
    Measure: ClassVar[type] = CoderMeasure

    data: Positional[Path]
    """Folder of pictures, searched to any depth."""
    side: int | None = None
    """Pictures are cut to squares of this side, in pixels (default: 64, less where they are smaller); coded are then pictures
    of any size."""
    held_out: float = 0.1
    """Share kept out of training, to measure with."""
    broken_budget: float = 0.01
    """Share of broken files at most: more stop the run, fewer are skipped with a warning."""
    network: CoderNetwork = field(default_factory=CoderNetwork)
    """Network."""
    method: Reconstruction = field(default_factory=Reconstruction)
    """What is minimised."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.side is None or self.side >= 16, "side", "at least 16 pixels"),
            (0 < self.held_out < 1, "held_out", "a share between 0 and 1"),
            (0 <= self.broken_budget < 1, "broken_budget", "a share from 0 to below 1"),
        )
        if self.side is not None and self.side % self.network.factor:
            raise Wrong(f"side = {self.side}: is not divisible by network.factor = {self.network.factor}")

    # ---- data --------------------------------------------------------------------------------------------------------

    def wanted(self) -> Wanted:
        """What is to be made of the pictures."""
        from sfumato.fields.autoencoder.data import Wanted

        return Wanted(self.side, self.network.factor, self.held_out, self.broken_budget)

    def prepare(self, run: Run, tell: Say, base: Any = None) -> Autoencoder:
        from sfumato.fields.autoencoder.data import prepare

        found = prepare(run, self.data, self.wanted(), tell)
        return dataclasses.replace(self, side=found.side)

    def open(self, run: Run) -> Data:
        from sfumato.fields.autoencoder.data import opened

        return opened(run, self.facts(run))

    def examine(self) -> Look:
        from sfumato.data import DataError, check_budget
        from sfumato.fields.autoencoder.data import seen

        bold = dataclasses.replace(self, broken_budget=0.999999)
        found = seen(self.data, lambda text: None)
        lines = (f"{len(found.files)} pictures in {self.data}, {len(found.complaints)} broken",)
        try:
            check_budget(found, self.broken_budget)
        except DataError as error:
            return Look((*lines, f"training would stop: {error}"), bold, False)
        return Look(lines, bold)

    # ---- network -----------------------------------------------------------------------------------------------------

    def process(self, facts: CoderFacts) -> Clean:
        """Nothing is noised: a picture stays as it is given."""
        from sfumato.diffusion import Clean

        return Clean()

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        from sfumato.networks.coder import Coder

        return {"coder": Coder}

    def build(self, facts: CoderFacts, device: str) -> nn.Module:
        from sfumato.networks.coder import Coder

        options, (unshuffle, multipliers) = self.network, FACTORS[self.network.factor]
        return Coder(
            latent=options.latent, width=options.width or (48 if device == "cpu" else 128), depth=options.depth,
            multipliers=multipliers, unshuffle=unshuffle, spread=options.spread,
        )  # fmt: skip

    def task(self, data: Data, network: nn.Module) -> Task:
        return dataclasses.replace(super().task(data, network), criterion=self.method.criterion)

    def training(self, data: Data, device: str) -> TrainOptions:
        return TrainOptions(
            batch=usual_batch(len(data.train), 16 if device == "cpu" else 64), optim=OptimOptions(lr=1e-3)
        )

    # ---- samples -----------------------------------------------------------------------------------------------------

    def queries(self, model: Model, ask: Any, n: int | None) -> RealPictures:
        """Held-out pictures, in turn: samples of an autoencoder are what it makes of them."""
        from sfumato.fields.autoencoder.data import RealPictures

        return RealPictures(self.open(model.run).held_out, 16 if n is None else n)

    def draw(self, model: Model, queries: Queries, numbers: Sequence[int]) -> Iterator[Drawn]:
        """The pictures coded and decoded, in one call: there is no walk."""
        import torch

        from sfumato.diffusion import Drawn
        from sfumato.diffusion.generate import bunches

        for some in bunches(queries, numbers, model.walk.batch or 16):
            query = queries.batch(some)
            x: Any = query["x"]
            with torch.no_grad():
                answer = model.denoiser.network(x.to(model.device))["x"]
            yield Drawn(answer.float().cpu(), query, some, {})

    def things(self, model: Model, queries: Queries, drawn: Drawn) -> list[np.ndarray]:
        """Picture bytes (H, 2 W, 3): the real one, and beside it what became of it."""
        import numpy as np

        from sfumato.data.sheet import to_bytes

        x: Any = drawn.x
        pairs = (to_bytes(part.numpy()) for part in (drawn.query["x"].cpu(), x))
        return [np.concatenate(pair, 1) for pair in zip(*pairs, strict=True)]

    def save(self, thing: np.ndarray, path: Path, making: Making) -> Path:
        from PIL import Image as pil

        pil.fromarray(thing).save(path, pnginfo=making.png())
        return path

    def picture(self, model: Model, things: Sequence[np.ndarray], columns: int | None = None) -> Image | None:
        from sfumato.data.sheet import sheet

        return sheet(list(things), columns or max(1, round(math.sqrt(len(things) / 2))), least=512)

    def evaluate(self, model: Model, measure: CoderMeasure, ask: Any) -> Report:
        from sfumato.fields.autoencoder.measure import evaluate

        return evaluate(model, measure)

    def usage(self) -> Iterable[str]:
        return (
            "Learn in its space: `sfumato train PICTURES --latent RUN`, `sfumato train captions PICTURES --latent RUN`.",
        )


RECIPE = Autoencoder
