"""The adapter table: tiny pipelines that diffusers builds at random weights, opened as ours.

    python -m benchmarks.open_models [--seeds 0 1 2]        draws benchmarks/results/open_models.json (needs the extra hf)

Of every pipeline: the largest difference of a call from theirs, over five times; that of samples from the same noise where their
sampler stops, over the spread of samples; and the root mean square error of ten steps, theirs as their settings say and ours as
`OpenModel.sample` takes unless asked otherwise, beside their own sampler with a stop at every step of training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import store
from sfumato.jobs.walk import Walk
from sfumato.open_models import opened
from tests.open_models.test_open_models import noise
from tests.open_models.tiny import EVERY, ROWS, finest, made, theirs


def row(name: str, seed: int, place: Path) -> dict[str, float]:
    """What is measured of one pipeline from one noise."""
    one = made(name, seed)
    model = opened(one.save(place / f"{name}-{seed}"))
    flow = "FlowMatch" in type(one.scheduler).__name__
    call = 0.0
    with torch.no_grad():
        for step in (0, 1, 400, 777, 999):
            x = noise(one.shape, step)
            t = torch.tensor(step / 1000 if flow else (step + 1) / 1000, dtype=torch.float64)
            wanted = one.call(one.network, x, torch.full((ROWS,), float(step)))
            call = max(call, float((model.denoiser.answer(x, t, **one.condition) - wanted).abs().max()))
    z = noise(one.shape, seed)

    def mine(steps: int, their_stops: bool) -> torch.Tensor:
        how = Walk(steps=steps, batch=ROWS)
        return model.sample(ROWS, condition=one.condition, side=8, walk=how, theirs=their_stops, seed=seed)

    ten = theirs(one, z, 10)
    same = float((mine(10, True) - ten).abs().max() / ten.std())
    fine = theirs(one, z, 1000, finest(one))
    apart = [float((found - fine).square().mean().sqrt() / fine.std()) for found in (ten, mine(10, False))]
    return {"call": call, "sample": same, "theirs_10": apart[0], "ours_10": apart[1], "ratio": apart[1] / apart[0]}


def main() -> None:
    """All pipelines in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    began = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        for name in EVERY:
            rows = [row(name, seed, Path(place)) for seed in asked.seeds]
            found[name] = {key: [each[key] for each in rows] for key in rows[0]}
            print(name, {key: f"{max(values):.2g}" for key, values in found[name].items()}, flush=True)
    import diffusers

    store(
        "open_models",
        {"diffusers": diffusers.__version__, "cpu_seconds": time.process_time() - began, "pipelines": found},
    )


if __name__ == "__main__":
    main()
