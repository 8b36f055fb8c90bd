"""Films longer than a clip: clip after clip, each from the end of the one before.

The randomness of a film's j-th clip is a function of (seed, "chunk", j, prompt, place) alone, and frames come as they are done:
so the first 80 frames of a film of 160 are the film of 80, in any batch, and a film that is begun again goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sfumato.fields.video.matrices import ROWS, matrix, spelt
from sfumato.fields.video.queries import Clips, Known, aside

if TYPE_CHECKING:
    from sfumato.diffusion import Drawn
    from sfumato.diffusion.tree import Tree
    from sfumato.jobs.model import Model


def begun(process: Any, z: Tensor, times: Tensor, query: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The first state and the times of each frame: known frames stand still, the others follow in the order asked for."""
    beside = query["aside"]
    held, how = beside["held"], beside["how"][0].tolist()
    steps = len(times) - 1
    lag, still = steps if how[0] == ROWS else min(steps, int(how[0])), float(how[1])
    if lag == 0 and not bool(held.any()):
        return process.start(z), times
    whole = matrix(times, held, lag, still)
    place = torch.full((), still, dtype=times.dtype)
    at = process.interpolate(beside["known"], z, place) if still else beside["known"]
    return torch.where(held[..., None, None, None], at, process.start(z)), whole


@dataclass(frozen=True, eq=False)
class Chunk:
    """The j-th clip of some films, whose last frames were (b, K, 3, H, W), standard: sample i of it is of clip ``numbers[i]``.

    process: of a causal run, whose network is shown these frames once and not again; None: they are a part of the clip.
    """

    clips: Clips
    numbers: Sequence[int]
    last: Tensor
    noise: Tensor
    process: Any = None
    buckets: None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, number: int) -> tuple[str, int]:
        return self.clips.name(self.numbers[number])

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        own, (length, *rest) = list(numbers), self.clips.facts.shape
        kept, found = self.last[own], self.clips.told([self.numbers[i] for i in numbers], later=True)
        count = kept.shape[1]
        if self.process is None:
            x, held = torch.zeros(length, *rest), torch.arange(length) < count
            known = [Known(torch.cat((each, x[count:])), held) for each in kept]
            beside = aside(known, self.clips.facts.shape)
            return {
                **found,
                "x": x.expand(len(own), *x.shape),
                "aside": beside | {"how": spelt(self.clips.order, self.clips.context_noise, len(own))},
            }
        time = torch.full((len(own), count), self.clips.context_noise, dtype=torch.float64)
        shown, level = self.process.precondition(self.process.interpolate(kept, self.noise[own], time), time)
        before = {"before": shown, "before_level": level}
        if "weak" in found:
            found["weak"] = {**found["weak"], **before}
        shape = (length - count, *rest)
        beside = aside([None] * len(own), shape) | {"how": spelt(self.clips.order, 0.0, len(own))}
        return {**found, **before, "x": torch.zeros(len(own), *shape), "aside": beside}


def parts(
    model: Model, clips: Clips, numbers: Sequence[int], done: Tensor | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Films of these numbers as they are made: the number of the first new frame, and the new frames (b, F, 3, H, W), standard.

    Args:
        done: frames (b, F, 3, H, W) of these films that were made before: they go on behind the clip that these end with.
    """
    from sfumato.diffusion.generate import streams

    numbers, made = list(numbers), 0 if done is None else done.shape[1]
    length, kept = clips.facts.frames, clips.kept
    if done is None:
        film = _whole(model, clips, numbers, ("sample",))
        made = min(length, clips.length)
        yield 0, film[:, :made]
    else:
        film = done
    chunk = 1 + max(0, made - length) // (length - kept)
    process = model.process if model.settings.get("causal") else None
    while made < clips.length:
        last = film[:, -kept:]
        noise = torch.zeros_like(last)
        if process is not None:
            noise = process.prior(last, streams(clips, numbers, model.drawing.seed, ("context", chunk)))
        following = Chunk(clips, numbers, last, noise, process)
        found = _whole(model, following, list(range(len(numbers))), ("chunk", chunk))
        new = found[:, kept:] if process is None else found
        film = torch.cat((film, new), 1)[:, -length:]
        new = new[:, : clips.length - made]
        yield made, new
        made, chunk = made + new.shape[1], chunk + 1


def _whole(model: Model, queries: Any, numbers: Sequence[int], stream: tuple[str | int, ...]) -> Tensor:
    """All samples of these numbers in their order, (b, T, 3, H, W)."""
    found: dict[int, Tensor] = {}
    for part in model.draw(queries, numbers, stream=stream):
        assert isinstance(part.x, Tensor)
        found.update(zip(part.numbers, part.x.float().cpu()))
    return torch.stack([found[number] for number in numbers])


def drawn(model: Model, clips: Clips, numbers: Sequence[int]) -> Iterator[Drawn]:
    """Films of these numbers, x (b, F, 3, H, W) in standard units."""
    from sfumato.diffusion import Drawn
    from sfumato.diffusion.generate import bunches

    for own in bunches(clips, numbers, model.walk.batch or 16):
        film = torch.cat([new for _, new in parts(model, clips, own)], 1)
        yield Drawn(film, clips.batch(own), own, {})
