"""A new subject from thirty pictures, with a truth: a body that a run of sprites has never seen.

    python -m benchmarks.finetune --run RUN --out OUT [--sprites FOLDER --bodies FOLDER --seed 1 --steps 300]

RUN is what `benchmarks.captions` trained (its folder `run`). Thirty pictures of a skeleton in three outfits and ten frames, with
captions that call it so, are what it learns further from, in every way of WAYS; then it is asked for the skeleton in outfits and
frames that are not among the thirty, and for the figures that it knew, of combinations never learned from. Each picture is
compared with its one true picture: PSNR = 10 log10(4 / mean squared error) of pictures in [-1, 1].

OUT gets results.json, written anew after each way, and a sheet of each: the skeleton in eight unseen outfits and frames before,
after, and the truth. Nothing is chosen by these captions: options are fixed before the run.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.captions import ACTIONS, NAMES, VIEWS, Results, Sheets, Sprite, captions, drawn, psnr, sprites
from sfumato.fields.captions.shown import Shown, sheet
from sfumato.jobs.finetune import finetune
from sfumato.jobs.model import Model, load
from sfumato.jobs.tune import FinetuneOptions
from sfumato.metrics.intervals import mean_interval
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

NEW, NAME = len(NAMES["body"]), "skeleton"
OUTFITS, FRAMES, COUNT = 3, 10, 128
WAYS = {
    "low rank 8, with samples of before": FinetuneOptions(lora=8),
    "all weights, with samples of before": FinetuneOptions(),
    "low rank 8 alone": FinetuneOptions(lora=8, prior=0.0),
    "all weights alone": FinetuneOptions(prior=0.0),
}


def called(one: Sprite) -> str:
    """Its caption, with the new body's name."""
    return one._replace(body=0).caption.replace(f"a {NAMES['body'][0]} figure", f"a {NAME} figure")


def chosen(seed: int) -> tuple[list[Sprite], list[Sprite]]:
    """Thirty to learn from, and others to ask for, no outfit and no frame of which is among the thirty."""
    rng = np.random.default_rng(seed)
    every = [(action, column, view) for action, (_, columns) in ACTIONS.items() for column in range(columns) for view in
             range(len(VIEWS))]  # fmt: skip
    frames = [every[i] for i in rng.permutation(len(every))]

    def outfit() -> tuple[int, ...]:
        return tuple(int(rng.integers(len(NAMES[name]))) for name in ("bottom", "top", "hair", "shoes"))

    worn = [outfit() for _ in range(OUTFITS)]
    known = [Sprite(NEW, *clothes, *frame) for clothes in worn for frame in frames[:FRAMES]]
    asked: list[Sprite] = []
    while len(asked) < COUNT:
        clothes, frame = outfit(), frames[FRAMES + int(rng.integers(len(frames) - FRAMES))]
        if clothes not in worn:
            asked.append(Sprite(NEW, *clothes, *frame))
    return known, asked


def pictures(sheets: Sheets, which: Sequence[Sprite]) -> Tensor:
    """The true ones, (n, 48, 48, 3) bytes."""
    return torch.stack([torch.from_numpy(sheets.draw(one)) for one in which])


def nearest_known(sheets: Sheets, asked: Sequence[Sprite]) -> dict[str, float]:
    """PSNR with each known body put in the new one's place."""
    real = pictures(sheets, asked)
    found = {}
    for body, name in enumerate(NAMES["body"]):
        found[name] = float(psnr(pictures(sheets, [one._replace(body=body) for one in asked]), real).mean())
    return found


def scored(model: Model, sheets: Sheets, texts: Sequence[str], truth: Tensor, known: Tensor) -> dict[str, float]:
    """PSNR to the truth with its 90 % interval; how far the nearest of the thirty is, beside the truth: above 1 the truth is
    nearer."""
    fake = drawn(model, texts, dataclasses.replace(model.walk, w=1.0, batch=32))
    value, low, high = mean_interval(psnr(fake, truth))
    apart = torch.cdist(fake.double().flatten(1), known.double().flatten(1)).min(1).values
    own = (fake.double() - truth.double()).flatten(1).norm(dim=1)
    return {"psnr": value, "low": low, "high": high, "nearest_of_thirty_over_truth": float((apart / own).median())}


def strips(model: Model, base: Model, sheets: Sheets, asked: Sequence[Sprite], path: Path) -> None:
    """The first eight asked for: before, after, the truth."""
    some = asked[:8]
    texts = [called(one) for one in some]
    rows = [drawn(each, texts, dataclasses.replace(each.walk, w=1.0)).numpy() for each in (base, model)]
    rows.append(pictures(sheets, some).numpy())
    sheet([Shown(pixels, text) for row in rows for pixels, text in zip(row, texts)], len(some), 1200).save(path)


def arguments() -> argparse.Namespace:
    """The command line."""
    data = Path(__file__).parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sprites", type=Path, default=data / "sprites")
    parser.add_argument("--bodies", type=Path, default=data / "sprites_new_bodies")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--ways", type=int, nargs="*", default=list(range(len(WAYS))))
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Every way in turn."""
    asked = arguments()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    results, sheets = Results(asked.out), Sheets.read(asked.sprites)
    whole = np.asarray(Image.open(asked.bodies / f"{NAME}.png").convert("RGBA"))
    cells = whole.reshape(21, 64, 13, 64, 4).transpose(0, 2, 1, 3, 4)
    sheets.layers["body"].append(np.ascontiguousarray(cells[:, :, 14:62, 8:56]))
    known, wanted = chosen(asked.seed)
    old = sprites(COUNT, 1, held_out=True)
    data = asked.out / "thirty"
    data.mkdir(exist_ok=True)
    for i, one in enumerate(known):
        Image.fromarray(sheets.draw(one)).save(data / f"{i:02d}.png")
        (data / f"{i:02d}.txt").write_text(called(one) + "\n", encoding="utf-8")
    base = load(asked.run)
    thirty, truth, former = pictures(sheets, known), pictures(sheets, wanted), pictures(sheets, old)
    told = {name: str(value) for name, value in vars(asked).items() if name not in ("out", "sprites", "bodies", "run")}
    results.note(
        python=platform.python_version(), torch=torch.__version__, asked=told,
        known_bodies_in_its_place=nearest_known(sheets, wanted),
        before={"new": scored(base, sheets, [called(one) for one in wanted], truth, thirty),
                "old": scored(base, sheets, captions(old), former, thirty)},
    )  # fmt: skip
    for number in asked.ways:
        name, options = list(WAYS.items())[number]
        began, out = time.process_time(), asked.out / f"way{number}"
        training = TrainOptions(
            steps=asked.steps, batch=asked.batch, threads=1, seed=asked.seed, previews=4, save_seconds=600,
            optim=OptimOptions(lr=asked.lr),
        )  # fmt: skip
        run = finetune(asked.run, data, options, training, out)
        spent, model = time.process_time() - began, load(run.path)
        found: dict[str, Any] = {"cpu_seconds": spent}
        found["new"] = scored(model, sheets, [called(one) for one in wanted], truth, thirty)
        found["old"] = scored(model, sheets, captions(old), former, thirty)
        results.note(**{name: found})
        strips(model, base, sheets, wanted, asked.out / f"way{number}.png")


if __name__ == "__main__":
    main()
