"""`sfumato evaluate` of an autoencoder: how like its pictures are to those that it was shown."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from sfumato.data.sheet import sheet, to_bytes
from sfumato.jobs.evaluate import MOST, spread_out, stacked
from sfumato.jobs.report import Report
from sfumato.jobs.watched import watched
from sfumato.metrics.distances import psnr
from sfumato.metrics.intervals import mean_interval
from sfumato.metrics.spaces import of_pictures
from sfumato.metrics.table import Row, compare
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from sfumato.fields.autoencoder.options import CoderMeasure
    from sfumato.jobs.model import Model
    from sfumato.metrics.table import Remember

LEAST = 12
SHOWN = 12


def evaluate(model: Model, measure: CoderMeasure) -> Report:
    """Held-out pictures coded and decoded, against what they were. Raises RunError, DataError, MetricError.

    The floor of the distances is that of the held-out pictures as they are: what is above it no model that learns in this
    space can win back.
    """
    from sfumato.metrics.cache import cached
    from sfumato.training.progress import Watch

    recipe: Any = model.recipe
    data = recipe.open(model.run)
    real, known = spread_out(data.held_out, measure.n or MOST)["x"], stacked(data.train, MOST)
    if len(real) < LEAST:
        raise RunError(f"{len(real)} held-out pictures are too few to measure with, {LEAST} at least")
    remember: Remember = partial(cached, model.run.cache / "reference")
    space = watched(of_pictures(measure.features, known, remember))
    made, codes = [], []
    with Watch("code and decode", len(real), unit="pictures") as watch, torch.no_grad():
        for x in real.split(32):
            answer = model.denoiser.network(x.to(model.device))
            made.append(answer["x"].float().cpu().clamp(-1, 1))
            codes.append(answer["code"].float().cpu())
            watch.show(sum(map(len, made)))
    fake, code = torch.cat(made), torch.cat(codes)
    held, train = (space.remembered(x, remember) for x in (real, known))
    n = len(real)
    rows = [
        Row("psnr", *mean_interval(psnr(fake, real)), None, "higher", n, n),
        Row("mean_error", *mean_interval((fake - real).abs().flatten(1).mean(1).double()), None, "lower", n, n),
        *compare(space(fake), train, held, remember=remember),
    ]
    some = [i * n // SHOWN for i in range(SHOWN)]
    strips = [each for strip in (real[some], fake[some]) for each in to_bytes(strip.numpy())]
    spreads = code.std(dim=(0, 2, 3))
    numbers = code[0].numel()
    notes = (
        f"features: {space.name}",
        f"a picture of {real[0].numel():,} numbers is coded by {numbers:,}, {real[0].numel() / numbers:.3g} times fewer; "
        f"spreads of their channels {float(spreads.min()):.2g} to {float(spreads.max()):.2g}",
        "psnr in dB, of pictures from black to white; the floors are those of the held-out pictures as they are",
    )
    return Report(tuple(rows), notes, {"report.png": sheet(strips, SHOWN, least=900)}, {
        "features": space.name, "code": list(code.shape[1:]), "spreads": spreads.tolist(),
        "report.png": "rows: held-out pictures, and what was made of them",
    })  # fmt: skip
