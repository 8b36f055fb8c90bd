"""Clips with a truth: sprites that walk, slash and cast, from words, from frames, and on; next frames of real film.

    python -m benchmarks.video train --out OUT            # the central run, on one thread; resumable
    python -m benchmarks.video words first orders rollout --out OUT
    python -m benchmarks.video attention few film --out OUT
    python -m benchmarks.video store --out OUT            # benchmarks/results/video.json

A clip is 8 frames of a character (body, trousers, top, hair, shoes) in an action and a view. "walking" begins at the first
column of the sheet; "walking on" anywhere in the cycle, so that films can go on. The combinations with (body + 2 bottom + 3 top +
5 hair) mod 7 = 0 are never learned from and measured; those with 1 and the first body are neither: settings are tried on them.

Each part writes OUT/results.json anew when it is done, with its CPU seconds. Films: `vtest_96x72`, frames 0-599 learned from,
600-794 measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import sfumato
from benchmarks.captions import NAMES, SIDE, Sheets, Sprite
from benchmarks.common import RESULTS, within_seconds
from sfumato.fields.video.films import Film, frames
from sfumato.fields.video.measure import Held, drawn_for
from sfumato.fields.video.options import ClipAsk, ClipMethod, ClipNetwork
from sfumato.fields.video.queries import Clips, Known
from sfumato.fields.video.recipe import Video
from sfumato.fields.video.rollout import parts
from sfumato.fields.video.scoring import by_frame, changes, flicker, similarity
from sfumato.fields.video.shown import Shown, sheet
from sfumato.fields.video.units import from_bytes, to_bytes
from sfumato.jobs import distill
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.model import Model, load
from sfumato.jobs.walk import Drawing, Walk
from sfumato.metrics.forecast import crps
from sfumato.metrics.intervals import bootstrap, mean_interval, share_interval
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

SHARED = Path(__file__).parents[2] / "shared" / "data"
FRAMES = 8
COLUMNS = {"walking": range(1, 9), "casting": (*range(7), 0), "slashing": (*range(6), 5, 5)}
VIEWS = ("back", "left", "front", "right")
ON = "walking on"


class Act(NamedTuple):
    """A character that does something: values of the attributes, action, view, and at which step of a walk it begins."""

    body: int
    bottom: int
    top: int
    hair: int
    shoes: int
    action: str
    view: int
    step: int = 0
    on: bool = False

    @property
    def part(self) -> int:
        """0: learned from; 1: held out; 2: for choosing settings."""
        rest = (self.body + 2 * self.bottom + 3 * self.top + 5 * self.hair) % 7
        return 1 if rest == 0 else 2 if rest == 1 and self.body == 0 else 0

    @property
    def caption(self) -> str:
        """What it shows."""
        of = {name: NAMES[name][getattr(self, name)] for name in NAMES}
        doing = ON if self.on else self.action
        return (
            f"a {of['body']} figure with {of['hair']} hair, {of['top']}, {of['bottom']} and {of['shoes']}, {doing}, "
            f"seen from the {VIEWS[self.view]}"
        )

    def frames(self, sheets: Sheets, count: int = FRAMES) -> np.ndarray:
        """(count, 48, 48, 3) bytes; the cycle begins again where it ends."""
        columns = COLUMNS[self.action]
        return np.stack([
            sheets.draw(Sprite(*self[:5], self.action, columns[(self.step + k) % len(columns)], self.view)) for k in range(count)
        ])  # fmt: skip


def acts(number: int, seed: int, part: int, action: str | None = None, on: float = 0.0) -> list[Act]:
    """So many different ones at random; ``on``: the share of walks that begin anywhere."""
    rng, found = np.random.default_rng(seed), {}
    while len(found) < number:
        doing = action or list(COLUMNS)[int(rng.integers(3))]
        values = [int(rng.integers(len(NAMES[name]))) for name in NAMES]
        anywhere = doing == "walking" and rng.uniform() < on
        one = Act(*values, doing, int(rng.integers(4)), int(rng.integers(8)) if anywhere else 0, bool(anywhere))
        if one.part == part:
            found[one] = None
    return list(found)


def packed(sheets: Sheets, chosen: Sequence[Act], path: Path) -> Path:
    """As an array of films with their captions."""
    x = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.uint8, (len(chosen), FRAMES, SIDE, SIDE, 3))
    for row, one in enumerate(chosen):
        x[row] = one.frames(sheets)
    np.savez(path, x=x, labels=np.array([one.caption for one in chosen]))
    path.with_suffix(".npy").unlink()
    return path


def clips(sheets: Sheets, chosen: Sequence[Act], count: int = FRAMES) -> Tensor:
    """True clips (n, F, 3, 48, 48) from -1 to 1."""
    x = np.stack([one.frames(sheets, count) for one in chosen])
    return torch.from_numpy(x).movedim(-1, 2).float() / 127.5 - 1


def held(sheets: Sheets, chosen: Sequence[Act], count: int = FRAMES) -> Held:
    """With their captions."""
    return Held(clips(sheets, chosen, count), tuple(one.caption for one in chosen))


class Results:
    """What was found so far, in results.json."""

    def __init__(self, out: Path):
        self.path = out / "results.json"
        self.found: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def note(self, part: str, **more: Any) -> None:
        """Add and write."""
        self.found.setdefault(part, {}).update(more)
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)
        print(part, json.dumps(more)[:400], flush=True)


def summed(values: Tensor) -> dict[str, Any]:
    """The mean over clips (n,), with a 90 % interval."""
    mean, low, high = mean_interval(values)
    return {"value": mean, "low": low, "high": high, "n": len(values)}


def nearest(sheets: Sheets, fake: Tensor, chosen: Sequence[Act]) -> dict[str, Any]:
    """Shares of clips whose nearest true clip, over all actions and views, or over the values of an attribute (by frame), is the
    one asked for."""
    hits: dict[str, list[Any]] = {"action": [], "view": [], **{name: [] for name in NAMES}}
    for clip, one in zip(fake, chosen):
        others = [one._replace(action=action, view=view) for action in COLUMNS for view in range(4)]
        best = others[int((clips(sheets, others) - clip).square().flatten(1).sum(1).argmin())]
        hits["action"].append(best.action == one.action)
        hits["view"].append(best.view == one.view)
        for name, values in NAMES.items():
            other = clips(sheets, [one._replace(**{name: value}) for value in range(len(values))])
            errors = (other - clip).square().flatten(2).sum(2)  # (values, frames)
            hits[name].append((errors.argmin(0) == getattr(one, name)).double().tolist())
    found: dict[str, Any] = {}
    for name, rows in hits.items():
        rate = float(np.mean(rows))
        found[name] = {"value": rate, "interval": share_interval(rate, len(rows))}
        if name in NAMES:
            found[name]["by_frame"] = np.mean(rows, 0).tolist()
    return found


def walked(model: Model, steps: int, **more: Any) -> Model:
    """The model, drawn in so many steps."""
    return dataclasses.replace(model, walk=dataclasses.replace(model.walk, steps=steps, tol=None, **more))


def opened(run: Path, steps: int = 20) -> Model:
    """A run, in bfloat16 where that is faster: what is measured here are decibels."""
    return walked(load(run, Walk(batch=16), Drawing(precision="bf16")), steps)


def scored(fake: Tensor, real: Tensor, free: Sequence[int] = tuple(range(FRAMES))) -> dict[str, Any]:
    """Nearness of clips to the true ones at the frames ``free``."""
    places, each = list(free), by_frame(fake, real)
    return {
        "psnr": summed(each[:, places].mean(1)), "psnr_by_frame": each.mean(0).tolist(),
        "ssim": summed(similarity(fake[:, places], real[:, places]).mean(1)),
        "psnr_of_changes": summed(changes(fake, real).mean(1)), "flicker": flicker(fake, real),
    }  # fmt: skip


# ---- parts -----------------------------------------------------------------------------------------------------------


def recipe_of(asked: argparse.Namespace, data: Path, **network: Any) -> Video:
    """The recipe of every run on sprites here."""
    return Video(
        data, side=SIDE, fps=10.0, held_out=0.02, network=ClipNetwork(patch=asked.patch, **network),
        method=ClipMethod(times_mean=asked.times_mean),
    )  # fmt: skip


def options_of(asked: argparse.Namespace, previews: int = 0) -> TrainOptions:
    """How every run here is trained."""
    return TrainOptions(
        batch=asked.batch, seed=asked.seed, threads=1, previews=previews, snapshots=0, save_seconds=120,
        optim=OptimOptions(lr=asked.lr, decay=0.5),
    )  # fmt: skip


def trained(
    asked: argparse.Namespace, sheets: Sheets, name: str, seconds: float, count: int, **network: Any
) -> tuple[Path, dict[str, Any]]:
    """A run on sprites of so many CPU seconds, in OUT/NAME; where it is there already, as it is, gone on with if unfinished."""
    run, options = asked.out / name, options_of(asked, 2 if name == "run" else 0)
    if not (run / "config.yaml").is_file():
        small = packed(sheets, acts(256, 3, 0, on=0.4), asked.out / "small.npz")
        probe = asked.out / f"probe-{name}"
        options = within_seconds(recipe_of(asked, small, **network), options, seconds, probe)
        data = packed(sheets, acts(count, 2, 0, on=0.4), asked.out / f"{name}.npz")
        began = time.process_time()
        sfumato.train(recipe_of(asked, data, **network), options, run)
        data.unlink()
    elif not (run / "model.safetensors").is_file():
        began = time.process_time()
        sfumato.resume(run)
    else:
        began = time.process_time()
    model = load(run)
    steps = max(record["step"] for record in model.run.records() if "step" in record)
    return run, {
        "steps": steps, "clips_seen": steps * asked.batch, "training_cpu_seconds": time.process_time() - began,
        "network": model.settings,
        "parameters": sum(p.numel() for p in model.denoiser.network.parameters()),
    }  # fmt: skip


def train(asked: argparse.Namespace, sheets: Sheets, results: Results) -> None:
    """The central run."""
    run, facts = trained(asked, sheets, "run", asked.seconds, asked.clips)
    results.note("train", run=run.name, **facts)


def words(asked: argparse.Namespace, sheets: Sheets, results: Results) -> None:
    """From words: nearness to the one true clip, what of the words is seen, the sheet; and what is had without a model."""
    chosen = acts(asked.n, 11, 1)
    told = held(sheets, chosen)
    model = opened(asked.out / "run")
    fake = drawn_for(model, told)
    results.note("words", calls=20, **scored(fake, told.x), nearest=nearest(sheets, fake, chosen))
    real = told.x
    moves = by_frame(real[:, :-1], real[:, 1:])
    results.note(
        "bars", mean_clip=float(by_frame(real.mean(0).expand_as(real), real).mean()),
        first_held=float(by_frame(real[:, :1].expand_as(real)[:, 1:], real[:, 1:]).mean()),
        last_frame={
            action: float((values := moves[[i for i, one in enumerate(chosen) if one.action == action]])[values < 100].mean())
            for action in COLUMNS
        },
        another_action=float(by_frame(clips(sheets, [
            one._replace(action=list(COLUMNS)[(list(COLUMNS).index(one.action) + 1) % 3]) for one in chosen]), real).mean()),
    )  # fmt: skip
    show(asked.out / "words.png", chosen[:8], {"from words": fake[:8]}, real[:8])


def show(path: Path, chosen: Sequence[Act], made: dict[str, Tensor], real: Tensor) -> None:
    """A sheet: each true clip, and what was made for it."""
    things = []
    for row, one in enumerate(chosen):
        things.append(Shown(to_bytes(real[row]), 10, f"true: {one.caption}"))
        things += [Shown(to_bytes(x[row]), 10, name) for name, x in made.items()]
    sheet(things, 800).save(path)


def first(asked: argparse.Namespace, sheets: Sheets, results: Results) -> None:
    """From the first frame; from the first and the last; from four; filled in; with the words and without them."""
    chosen = acts(asked.few, 11, 1)
    told, model = held(sheets, chosen), opened(asked.out / "run", asked.calls)
    silent = dataclasses.replace(told, captions=("",) * len(chosen))
    made = {}
    for name, known, of in (
        ("first", (0,), told), ("first_without_words", (0,), silent), ("between", (0, FRAMES - 1), told),
        ("prefix_of_4", (0, 1, 2, 3), told), ("every_other", (0, 2, 4, 6), told),
    ):  # fmt: skip
        fake = made[name] = drawn_for(model, of, known)
        results.note("frames", **{name: scored(fake, told.x, [k for k in range(FRAMES) if k not in known])})
    show(asked.out / "first.png", chosen[:4], {name: x[:4] for name, x in made.items()}, told.x[:4])


def orders(asked: argparse.Namespace, sheets: Sheets, results: Results) -> None:
    """The frames made all at once, one behind the other, one after the other: in as many calls of the network."""
    chosen = acts(asked.few, 11, 1)
    told, base = held(sheets, chosen), asked.out / "run"
    for order, steps in (("whole", 24), ("pyramid:1", 17), ("pyramid:2", 10), ("rows", 3)):
        lag = {"whole": 0, "rows": steps}.get(order, int(order[-1]) if order[-1].isdigit() else 0)
        fake = drawn_for(opened(base, steps), told, (), ClipAsk(order=order))
        results.note("orders", **{order: {"calls": steps + lag * (FRAMES - 1), **scored(fake, told.x)}})


def film_of(
    model: Model, chosen: Sequence[Act], sheets: Sheets, frames: int, context: int, noise: float
) -> tuple[Tensor, Any]:
    """Films of walks from words, going on: (n, F, 3, 48, 48) from -1 to 1; CPU seconds and seconds to the first frames."""
    then = tuple(one._replace(on=True).caption for one in chosen)
    texts = tuple(one.caption for one in chosen)
    queries = Clips(
        texts,
        len(texts),
        model.companions.words,
        model.facts,
        then=then,
        frames=frames,
        context=context,
        context_noise=noise,
    )
    began, found, delay = time.process_time(), [], None
    for _, new in parts(model, queries, range(len(chosen))):
        found.append(new)
        delay = delay if delay is not None else time.process_time() - began
    film = model.companions.units.raw(torch.cat(found, 1)).clamp(-1, 1)
    return film, {"cpu_seconds": time.process_time() - began, "cpu_seconds_to_first": delay}


def rollout(asked: argparse.Namespace, sheets: Sheets, results: Results, validate: bool = False) -> None:
    """Walks of ten times the training length, and the naive way: the last frame alone, clean."""
    chosen = acts(8 if validate else asked.films, 12, 2 if validate else 1, "walking")
    length = FRAMES * (4 if validate else 10)
    real, model = clips(sheets, chosen, length), opened(asked.out / "run", asked.calls)
    made = {}
    ways = {
        "kept 4, noise 0": (4, 0.0),
        "kept 4, noise 0.01": (4, 0.01),
        "kept 4, noise 0.03": (4, 0.03),
        "kept 4, noise 0.1": (4, 0.1),
    }
    if not validate:
        best = results.found.get("rollout_chosen", {}).get("noise", 0.03)
        ways = {f"kept 4, noise {best:g}": (4, best), "naive: kept 1, clean": (1, 0.0), "kept 4, clean": (4, 0.0)}
    for name, (context, noise) in ways.items():
        film, cost = film_of(model, chosen, sheets, length, context, noise)
        each = by_frame(film, real).unflatten(1, (-1, FRAMES)).mean(2)  # by clip lengths
        loss = each[:, 0] - each[:, -1]
        late = film[:, -FRAMES:]
        part = "rollout_chosen" if validate else "rollout"
        results.note(part, **{name: {
            "psnr_by_length": each.mean(0).tolist(), "lost": summed(loss), "lost_interval_95": bootstrap(loss.tolist()),
            "flicker_first": flicker(film[:, :FRAMES], real[:, :FRAMES]), "flicker_last": flicker(late, real[:, -FRAMES:]),
            "calls_a_clip": asked.calls, "frames": length, "films": len(chosen), **cost,
        }})  # fmt: skip
        made[name] = film
    if validate:
        found = results.found["rollout_chosen"]
        best = max(ways, key=lambda name: found[name]["psnr_by_length"][-1])
        results.note("rollout_chosen", noise=ways[best][1])
        return
    rows = [Shown(to_bytes(real[0]), 10, f"true: {chosen[0].caption}")]
    sheet(rows + [Shown(to_bytes(x[i]), 10, name) for i in range(2) for name, x in made.items()], 1600).save(
        asked.out / "rollout.png"
    )


def attention(asked: argparse.Namespace, sheets: Sheets, results: Results) -> None:
    """Full against factored, causal against full, carrying or not: as many CPU seconds of training each, of a small network."""
    chosen = acts(asked.few, 11, 1)
    told = held(sheets, chosen)
    every: dict[str, dict[str, Any]] = {
        "full": {}, "factored": {"attention": "factored"}, "full, causal": {"causal": True}, "full, no carry": {"carry": False},
    }  # fmt: skip
    for name, network in every.items():
        if name in results.found.get("attention", {}):
            continue
        run, facts = trained(
            asked,
            sheets,
            name.replace(", ", "-").replace(" ", "-"),
            asked.compared,
            4096,
            width=128,
            depth=4,
            **network,
        )
        model = opened(run, 10)
        found = {"words": scored(drawn_for(model, told), told.x)["psnr"],
                 "first": scored(drawn_for(model, told, (0,)), told.x, range(1, FRAMES))["psnr"]}  # fmt: skip
        log = model.run.records()
        losses = [record["held_out"] for record in log if "held_out" in record]
        results.note("attention", **{name: {**facts, **found, "held_out_loss": losses[-1:], "seconds": asked.compared}})


def few(asked: argparse.Namespace, sheets: Sheets, results: Results) -> None:
    """A flow map in 1, 2 and 4 calls against its teacher in 20 and 30; frames a second of each."""
    chosen = acts(asked.few, 11, 1)
    told, source = held(sheets, chosen), asked.out / "run"
    made = asked.out / "map"
    if not (made / "model.safetensors").is_file():
        began = time.process_time()
        training = TrainOptions(
            seed=asked.seed, threads=1, previews=0, snapshots=0, save_seconds=300, steps=asked.map_steps
        )
        distill.look = lambda run: None  # its pictures would cost as much as what is measured
        distill.distill(source, DistillOptions(), training, made)
        results.note("few", conversion_cpu_seconds=time.process_time() - began)
    for name, run, steps in (
        ("teacher", source, 30),
        ("teacher", source, 4),
        ("map", made, 4),
        ("map", made, 2),
        ("map", made, 1),
    ):
        model = opened(run, steps)
        began = time.process_time()
        fake = drawn_for(model, told)
        seconds = time.process_time() - began
        results.note("few", **{f"{name}, {steps} calls": {
            **scored(fake, told.x), "frames_a_cpu_second": len(chosen) * FRAMES / seconds}})  # fmt: skip
    model = opened(made, 4)
    fake = drawn_for(model, told, (0,))
    results.note("few", **{"map from the first frame, 4 calls": scored(fake, told.x, range(1, FRAMES))})


# ---- real film -------------------------------------------------------------------------------------------------------

LEARNED, AHEAD, KEPT = 600, 4, 2
"""Frames of the film that are learned from; frames ahead that are made; frames that are seen."""


def patches(two: Tensor) -> Tensor:
    """Squares of 7 pixels around each pixel of two frames (2, C, H, W), and 1: (C H W, 99)."""
    wide = torch.nn.functional.pad(two, (3, 3, 3, 3), mode="replicate")
    seen = wide.unfold(2, 7, 1).unfold(3, 7, 1)  # (2, C, H, W, 7, 7)
    rows = seen.permute(1, 2, 3, 0, 4, 5).reshape(-1, 98)
    return torch.cat((rows, torch.ones(len(rows), 1)), 1)


def ridge(x: Tensor, penalty: float = 1e-3, every: int = 8) -> Tensor:
    """Weights (99,) of the best linear guess of a pixel from the squares around it in the two frames before; x (F, C, H, W), of
    which one in so many is guessed."""
    left, right = torch.zeros(99, 99, dtype=torch.float64), torch.zeros(99, dtype=torch.float64)
    for at in range(2, len(x), every):
        rows = patches(x[at - 2 : at])
        left += (rows.T @ rows).double()
        right += (rows.T @ x[at].reshape(-1)).double()
    return torch.linalg.solve(
        left + penalty * left.diagonal().mean() * torch.eye(99, dtype=torch.float64), right
    ).float()


def film(asked: argparse.Namespace, sheets: Sheets, results: Results) -> None:
    """Frames of a street from the two before, by how far ahead, against what is had without a network."""
    every = torch.from_numpy(np.stack([
        from_bytes(frame.pixels) for frame in frames(Film(asked.shared / "video" / "vtest_96x72.webm"))
    ]))  # fmt: skip
    run = asked.out / "film"
    if not (run / "config.yaml").is_file():
        data = asked.out / "film.npy"
        np.save(data, np.stack([to_bytes(each) for each in every[:LEARNED]]))
        recipe = Video(
            data, side=83, frames=4, stride=1, still=True, held_out=0.05, network=ClipNetwork(patch=8, depth=4),
            method=ClipMethod(times_mean=asked.times_mean, own=0.0, prefix=0.8, some=0.0, soft=0.25),
        )  # fmt: skip
        options = within_seconds(
            recipe, dataclasses.replace(options_of(asked), batch=8), asked.film, asked.out / "probe-film"
        )
        began = time.process_time()
        sfumato.train(recipe, options, run)
        results.note("film", training_cpu_seconds=time.process_time() - began, steps=options.steps, batch=8)
    elif not (run / "model.safetensors").is_file():
        sfumato.resume(run)
    model, test = load(run, Walk(batch=16), Drawing(precision="bf16")), every[LEARNED:]
    units = model.companions.units
    background = every[:LEARNED].mean(0)
    weights = ridge(every[:LEARNED] - background)
    starts = np.linspace(KEPT, len(test) - AHEAD - 1, asked.starts).round().astype(int)
    real = torch.stack([test[at : at + AHEAD] for at in starts])
    seen = torch.stack([test[at - KEPT : at] for at in starts])
    plain = {"copy of the last": seen[:, -1:].expand_as(real), "mean of the last two": seen.mean(1, keepdim=True).expand_as(real),
             "background": background.expand_as(real)}  # fmt: skip
    guess = []
    for two in seen - background:
        own = list(two)
        for _ in range(AHEAD):
            own.append((patches(torch.stack(own[-2:])) @ weights).reshape(own[0].shape))
        guess.append(torch.stack(own[KEPT:]) + background)
    plain["ridge of 7x7 pixels of two frames"] = torch.stack(guess).clamp(-1, 1)
    for name, x in plain.items():
        results.note("film", **{name: ahead(x, real, seen[:, -1])})
    held = torch.arange(4) < KEPT
    known = tuple(Known(units.standard(torch.cat((two, two))), held) for two in seen)
    began = time.process_time()
    for name, members, steps in (
        ("one call, the mean of what may come", 1, 1),
        ("members", asked.members, asked.calls),
    ):
        queries = Clips(
            ("",),
            len(starts) * members,
            None,
            model.facts,
            known=known,
            frames=KEPT + AHEAD,
            context=KEPT,
            context_noise=0.0,
        )
        own, found = walked(model, steps), torch.zeros(len(starts) * members, AHEAD, *real.shape[2:])
        for part in own.recipe.draw(own, queries, range(len(queries))):
            found[list(part.numbers)] = units.raw(part.x[:, KEPT:].float()).clamp(-1, 1)
        x = found.unflatten(0, (members, len(starts)))
        more: dict[str, Any] = {}
        if members > 1:
            each = torch.stack([by_frame(one, real) for one in x])
            more = {
                "of_one_member": each[0].mean(0).tolist(), "best_of": each.max(0).values.mean(0).tolist(),
                "crps": crps(x, real).mean((0, 2, 3, 4)).tolist(),
                "crps_of_copy": (plain["copy of the last"] - real).abs().mean((0, 2, 3, 4)).tolist(),
                "crps_of_ridge": (plain["ridge of 7x7 pixels of two frames"] - real).abs().mean((0, 2, 3, 4)).tolist(),
            }  # fmt: skip
        results.note("film", **{name: {**ahead(x.mean(0), real, seen[:, -1]), "members": members, "calls": steps, **more,
                                       "cpu_seconds": time.process_time() - began}})  # fmt: skip
    things = []
    for i in (0, len(starts) // 2):
        made = {"what came": real[i], "a member": x[0, i], "another": x[-1, i], "mean of the members": x[:, i].mean(0)}
        things += [
            Shown(to_bytes(torch.cat((seen[i], clip))), 10, f"two seen, then {name}") for name, clip in made.items()
        ]
    sheet(things, 1000).save(asked.out / "film.png")


def ahead(x: Tensor, real: Tensor, last: Tensor) -> dict[str, Any]:
    """Nearness (n, F, ...) by how far ahead, with the interval at the first; and of pixels that move, alone."""
    each = by_frame(x, real)
    moves = (real - last[:, None]).abs() > 0.1
    error = (x - real).square().double()
    moving = 10 * torch.log10(4 / (error * moves).sum((0, 2, 3, 4)) * moves.sum((0, 2, 3, 4)))
    return {"psnr_by_frame": each.mean(0).tolist(), "first": summed(each[:, 0]), "moving_pixels": moving.tolist()}


PARTS: dict[str, Callable[[argparse.Namespace, Sheets, Results], None]] = {
    "train": train, "words": words, "first": first, "orders": orders, "rollout": rollout, "attention": attention,
    "few": few, "film": film,
    "noise": lambda *given: rollout(*given, validate=True),
}  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="+", choices=(*PARTS, "store"))
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1400, help="CPU seconds of the central training, at most 2400")
    parser.add_argument("--compared", type=float, default=100, help="CPU seconds of each training that is compared")
    parser.add_argument("--map-steps", type=int, default=150, help="steps of the conversion")
    parser.add_argument("--film", type=float, default=300, help="CPU seconds of the training on film")
    parser.add_argument("--starts", type=int, default=48, help="places in the film that frames are made from")
    parser.add_argument("--members", type=int, default=8, help="films from each of them")
    parser.add_argument("--clips", type=int, default=10_240, help="clips learned from")
    parser.add_argument("-n", type=int, default=256, help="held-out clips from words")
    parser.add_argument("--few", type=int, default=64, help="held-out clips of the other parts")
    parser.add_argument("--films", type=int, default=16, help="long films")
    parser.add_argument("--calls", type=int, default=10, help="of the network for a clip of a long film")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--times-mean", type=float, default=1.1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """The parts that are asked for, in this order."""
    asked = arguments()
    asked.seconds = min(asked.seconds, 2400)
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    results, sheets = Results(asked.out), Sheets.read(asked.shared / "sprites")
    for part in asked.parts:
        if part == "store":
            (RESULTS / "video.json").write_text(json.dumps(results.found, indent=1) + "\n", encoding="utf-8")
            continue
        began = time.process_time()
        PARTS[part](asked, sheets, results)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        results.note(part, cpu_seconds_of_part=time.process_time() - began, peak_memory_gb=usage.ru_maxrss / 1e6)


if __name__ == "__main__":
    main()
