"""Words to pictures with a truth: sprites whose every caption has one exact picture.

    python -m benchmarks.captions --sprites ../shared/data/sprites --seconds 860 --out OUT [--attention joint --seed 1 ...]

Characters are stacked of sheets (body, trousers, top, hair, shoes) in 88 frames each; the combinations with
(body + 2 bottom + 3 top + 5 hair) mod 7 = 0 are never learned from. `sfumato train captions` learns from a table of pictures
and captions on one thread for so many CPU seconds; then pictures are drawn for captions of combinations held out, and each is
compared with its one true picture: PSNR = 10 log10(4 / mean squared error) of pictures in [-1, 1], and for each attribute
whether the true picture nearest to the sample, over all values of that attribute, is the one asked for (truths: always).

OUT gets results.json, written anew after each part, sheet.png (8 captions of combinations held out x 4 seeds, the truth in the
last row) and the run itself. Nothing is chosen by the held-out captions: options are fixed before the run.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import sfumato
from benchmarks.common import within_seconds
from sfumato.fields.captions.options import CaptionNetwork
from sfumato.fields.captions.queries import Prompts
from sfumato.fields.captions.recipe import Captions
from sfumato.fields.captions.shown import Shown, sheet
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.distill import distill
from sfumato.jobs.model import Model, load
from sfumato.jobs.walk import Walk
from sfumato.metrics import distances
from sfumato.metrics.intervals import mean_interval, share_interval
from sfumato.networks.parts import count
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

SIDE = 48
NAMES = {
    "body": ("light", "tanned", "dark elf", "pale elf", "dark", "brown", "orc"),
    "bottom": ("white pants", "golden greaves", "red pants", "metal pants", "teal pants", "green trousers with belt",
               "brown robe skirt"),
    "top": ("maroon longsleeve", "teal longsleeve", "white longsleeve", "plate armour", "leather armour",
            "white shirt with tie", "chain mail"),
    "hair": ("green messy", "blue longknot", "blonde messy", "white bangs", "ruby plain", "purple jewfro", "gray longhawk",
             "redhead plain", "pink messy", "blonde jewfro"),
    "shoes": ("brown shoes", "golden boots", "metal boots"),
}  # fmt: skip
FOLDERS = {"body": "body", "bottom": "bottomwear", "top": "topwear", "hair": "hair", "shoes": "shoes"}
STACK = ("body", "shoes", "bottom", "top", "hair")
ACTIONS = {"casting": (0, 7), "walking": (8, 9), "slashing": (12, 6)}
"""Name -> first row of the sheets, and how many columns."""
VIEWS = ("back", "left", "front", "right")


class Sprite(NamedTuple):
    """One picture: values of the attributes, action, column and view."""

    body: int
    bottom: int
    top: int
    hair: int
    shoes: int
    action: str
    column: int
    view: int

    @property
    def held_out(self) -> bool:
        """Whether its combination is never learned from."""
        return (self.body + 2 * self.bottom + 3 * self.top + 5 * self.hair) % 7 == 0

    @property
    def caption(self) -> str:
        """What it shows, in full."""
        of = {name: NAMES[name][getattr(self, name)] for name in NAMES}
        return (
            f"a {of['body']} figure with {of['hair']} hair, {of['top']}, {of['bottom']} and {of['shoes']}, "
            f"{self.action} {self.column}, seen from the {VIEWS[self.view]}"
        )


@dataclass(frozen=True, eq=False)
class Sheets:
    """The layers as (21 rows, 13 columns, 48, 48, 4) bytes, by attribute and value."""

    layers: dict[str, list[np.ndarray]]

    @classmethod
    def read(cls, folder: Path) -> Sheets:
        """From the folder of sprites."""
        layers = {}
        for name, values in NAMES.items():
            layers[name] = []
            for value in range(len(values)):
                whole = np.asarray(Image.open(folder / FOLDERS[name] / f"{value}.png").convert("RGBA"))
                cells = whole.reshape(21, 64, 13, 64, 4).transpose(0, 2, 1, 3, 4)
                layers[name].append(np.ascontiguousarray(cells[:, :, 14:62, 8:56]))
        return cls(layers)

    def draw(self, sprite: Sprite) -> np.ndarray:
        """The picture on white, (48, 48, 3) bytes."""
        row = ACTIONS[sprite.action][0] + sprite.view
        canvas = np.full((SIDE, SIDE, 3), 255.0)
        for name in STACK:
            cell = self.layers[name][getattr(sprite, name)][row, sprite.column].astype(np.float64)
            alpha = cell[..., 3:] / 255
            canvas = canvas * (1 - alpha) + cell[..., :3] * alpha
        return np.rint(canvas).astype(np.uint8)


def sprites(number: int, seed: int, held_out: bool) -> list[Sprite]:
    """So many different ones at random, of combinations held out or not."""
    rng, found = np.random.default_rng(seed), {}
    frames = [(action, column) for action, (_, columns) in ACTIONS.items() for column in range(columns)]
    while len(found) < number:
        action, column = frames[int(rng.integers(len(frames)))]
        values = (int(rng.integers(len(NAMES[name]))) for name in ("body", "bottom", "top", "hair", "shoes"))
        one = Sprite(*values, action, column, int(rng.integers(4)))
        if one.held_out == held_out:
            found[one] = None
    return list(found)


def table(sheets: Sheets, chosen: Sequence[Sprite], path: Path) -> Path:
    """A .parquet file with pictures and captions inside."""
    import pyarrow
    import pyarrow.parquet

    def packed(one: Sprite) -> dict[str, Any]:
        file = io.BytesIO()
        Image.fromarray(sheets.draw(one)).save(file, "PNG", compress_level=1)
        return {"bytes": file.getvalue(), "path": None}

    rows = {"image": [packed(one) for one in chosen], "text": [one.caption for one in chosen]}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    return path


class Results:
    """What was found so far, in results.json."""

    def __init__(self, out: Path):
        self.out, self.found = out, dict[str, Any]()

    def note(self, **more: Any) -> None:
        """Add and write."""
        self.found |= more
        temporary = self.out / "results.json.part"
        temporary.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.out / "results.json")


def drawn(model: Model, texts: Sequence[str], walk: Walk, place: int = 0) -> Tensor:
    """A picture for each caption, (n, 48, 48, 3) bytes; ``place``: which of a caption's."""
    texts = tuple(texts)
    queries = Prompts(texts, len(texts), model.companions.words, (SIDE, SIDE), places=(place,) * len(texts))
    out = torch.zeros(len(texts), SIDE, SIDE, 3, dtype=torch.uint8)
    for part in model.draw(queries, range(len(texts)), walk=walk):
        things = model.recipe.things(model, queries, part)
        for number, thing in zip(part.numbers, things):
            out[number] = torch.from_numpy(thing.pixels)
    return out


def captions(chosen: Sequence[Sprite]) -> list[str]:
    """What each shows."""
    return [one.caption for one in chosen]


def psnr(fake: Tensor, real: Tensor) -> Tensor:
    """Of each picture, (n,) dB, from bytes."""
    return distances.psnr(fake.double() / 127.5, real.double() / 127.5)


def attributes(sheets: Sheets, fake: Tensor, chosen: Sequence[Sprite]) -> dict[str, float]:
    """For each attribute the share of pictures whose nearest true picture, over its values, is the one asked for."""
    found = {}
    for name, values in NAMES.items():
        hits = 0
        for picture, one in zip(fake, chosen):
            others = np.stack([sheets.draw(one._replace(**{name: value})) for value in range(len(values))])
            errors = (torch.from_numpy(others).double() - picture.double()).square().flatten(1).sum(1)
            hits += int(errors.argmin()) == getattr(one, name)
        found[name] = hits / len(chosen)
    return found


def scored(sheets: Sheets, model: Model, chosen: Sequence[Sprite], w: float, steps: int) -> dict[str, Any]:
    """PSNR with its interval, and the attributes, at a strength of guidance."""
    began = time.process_time()
    walk = dataclasses.replace(model.walk, w=w, steps=steps, batch=32)
    fake = drawn(model, captions(chosen), walk)
    real = torch.stack([torch.from_numpy(sheets.draw(one)) for one in chosen])
    each = psnr(fake, real)
    value, low, high = mean_interval(each)
    of = attributes(sheets, fake, chosen)
    return {
        "w": w, "steps": steps, "captions": len(chosen), "psnr": value, "low": low, "high": high,
        "median": float(each.median()), "attributes": of,
        "intervals": {name: share_interval(rate, len(chosen)) for name, rate in of.items()},
        "cpu_seconds": time.process_time() - began,
    }  # fmt: skip


def bars(sheets: Sheets, chosen: Sequence[Sprite]) -> dict[str, float]:
    """What is had without a model, and with one thing wrong: PSNR."""
    real = torch.stack([torch.from_numpy(sheets.draw(one)) for one in chosen])
    found = {"the mean picture": float(psnr(real.double().mean(0).expand(real.shape), real).mean()),
             "another caption's": float(psnr(real.roll(1, 0), real).mean())}  # fmt: skip
    for name, values in NAMES.items():
        wrong = [one._replace(**{name: (getattr(one, name) + 1) % len(values)}) for one in chosen]
        found[f"only the {name} wrong"] = float(
            psnr(torch.stack([torch.from_numpy(sheets.draw(one)) for one in wrong]), real).mean()
        )
    return found


def shown(sheets: Sheets, model: Model, chosen: Sequence[Sprite], walk: Walk, path: Path, seeds: int = 4) -> None:
    """sheet.png: a caption a column, seeds below each other, the truth in the last row."""
    rows: list[Iterable[Any]] = [drawn(model, captions(chosen), walk, place).numpy() for place in range(seeds)]
    rows.append([sheets.draw(one) for one in chosen])
    things = [Shown(np.asarray(pixels), one.caption) for row in rows for pixels, one in zip(row, chosen)]
    sheet(things, len(chosen), 1200).save(path)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sprites", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "sprites")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=860, help="CPU seconds of training, at most 1200")
    parser.add_argument("--pictures", type=int, default=40_960)
    parser.add_argument("--captions", type=int, default=512)
    parser.add_argument("--attention", choices=("cross", "joint", "none"), default="cross")
    parser.add_argument("--body", choices=("transformer", "unet"), default="transformer")
    parser.add_argument("--encoder", default="own")
    parser.add_argument("--summary", choices=("first", "mean"), default="first")
    parser.add_argument("--optim", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--text-depth", type=int)
    parser.add_argument("--times-mean", type=float)
    parser.add_argument("--decay", type=float, default=0.4)
    parser.add_argument("--strengths", type=float, nargs="*", default=[1.0, 1.5])
    parser.add_argument("--map", type=float, help="make a flow map too, for this share of the training's cost")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Everything, in order of importance."""
    asked = arguments()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    results, sheets = Results(asked.out), Sheets.read(asked.sprites)
    told = {name: str(value) for name, value in vars(asked).items() if name not in ("out", "sprites")}
    results.note(python=platform.python_version(), torch=torch.__version__, asked=told)
    held = sprites(asked.captions, 1, held_out=True)
    results.note(bars=bars(sheets, held), truths=attributes(sheets, torch.stack(
        [torch.from_numpy(sheets.draw(one)) for one in held[:64]]), held[:64]))  # fmt: skip
    known = sprites(asked.pictures, 2, held_out=False)
    small = table(sheets, known[:1024], asked.out / "small.parquet")
    recipe = Captions(small, side=SIDE, held_out=0.02, encoder=asked.encoder,
                      network=CaptionNetwork(asked.attention, patch=8 if asked.body == "unet" else 6,
                                             text_depth=asked.text_depth, body=asked.body, summary=asked.summary))  # fmt: skip
    if asked.times_mean is not None:
        recipe = dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, times_mean=asked.times_mean))
    options = TrainOptions(
        batch=asked.batch, seed=asked.seed, threads=1, previews=4, snapshots=0, save_seconds=600,
        optim=OptimOptions(asked.optim, lr=asked.lr, decay=asked.decay),
    )  # fmt: skip
    options = within_seconds(recipe, options, min(asked.seconds, 1200), asked.out / "probe")
    data = table(sheets, known, asked.out / "sprites.parquet")
    began, wall = time.process_time(), time.monotonic()
    run = sfumato.train(dataclasses.replace(recipe, data=data), options, asked.out / "run")
    model = load(run.path)
    log = run.records()
    results.note(
        parameters=count(model.denoiser.network), network=model.settings, steps=options.steps,
        pictures_seen=(options.steps or 0) * asked.batch, training_cpu_seconds=time.process_time() - began,
        training_wall_seconds=time.monotonic() - wall, facts=model.facts.words() + model.facts.values(),
        held_out_loss={record["step"]: record["held_out"] for record in log if "held_out" in record},
    )  # fmt: skip
    for w in asked.strengths:
        for steps in (20,):
            results.note(**{f"w {w:g}, {steps} steps": scored(sheets, model, held, w, steps)})
    shown(sheets, model, held[:8], dataclasses.replace(model.walk, w=asked.strengths[0]), asked.out / "sheet.png")
    if asked.map is not None:
        few(sheets, model, held, asked, results)


def few(sheets: Sheets, model: Model, held: Sequence[Sprite], asked: argparse.Namespace, results: Results) -> None:
    """The run made a flow map: it in 1, 2 and 4 calls, beside the teacher's 20 and its 50 of Euler's."""
    plain = dataclasses.replace(model, walk=dataclasses.replace(model.walk, solver="euler", eta=0.0))
    results.note(**{"teacher, 50 calls": scored(sheets, plain, held, 1.0, 50)})
    began = time.process_time()
    training = TrainOptions(seed=asked.seed, threads=1, previews=1, snapshots=0, save_seconds=600)
    run = distill(model.run.path, DistillOptions(cost=asked.map), training, asked.out / "map")
    results.note(conversion_cpu_seconds=time.process_time() - began)
    made = load(run.path)
    for steps in (1, 2, 4):
        results.note(**{f"map, {steps} calls": scored(sheets, made, held, 1.0, steps)})
    shown(sheets, made, held[:8], dataclasses.replace(made.walk, w=1.0, steps=4), asked.out / "sheet_map.png")


if __name__ == "__main__":
    main()
