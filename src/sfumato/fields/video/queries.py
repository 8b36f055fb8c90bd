"""The clips asked for: prompts in turn, each with its own randomness, as blanks with words and the frames that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.data.errors import shown
from sfumato.data.picture import decode
from sfumato.data.wording import of_prompt, of_prompts
from sfumato.diffusion.tree import Tree
from sfumato.errors import Wrong
from sfumato.fields.video.facts import ClipFacts
from sfumato.fields.video.films import Film, frames, paced, resized
from sfumato.fields.video.matrices import spelt
from sfumato.fields.video.options import HIDE, ClipAsk
from sfumato.fields.video.units import Units, from_bytes
from sfumato.networks.words import Reader

ASPECT = 1.3
"""Times that the proportions of a given picture may differ from those of the run."""


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a film beforehand: standard frames x (T, 3, H, W) of a clip, which of them are known (T,), and which
    pixels (H, W), True where they are; None: all of a known frame."""

    x: Tensor
    frames: Tensor
    pixels: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Clips:
    """``count`` clips in all: number i is of prompt i mod P, the (i div P)-th of it, beginning with the one that ``places`` says.
    A prompt's clips are the same alone, in any list, whatever they are to be led away from, and however long they go on.

    known: what is known, one for all, or one for each number. frames: of a film, made clip by clip where more than of a clip.
    then: what is seen in the clips behind the first, where it is something else. order, context, context_noise: as asked for.
    """

    texts: tuple[str, ...]
    count: int
    words: Reader | None
    facts: ClipFacts
    known: tuple[Known, ...] = ()
    negative: str | None = None
    then: tuple[str, ...] = ()
    places: tuple[int, ...] | None = None
    frames: int = 0
    order: str = "whole"
    context: int = 0
    context_noise: float = 0.03
    ask: ClipAsk = ClipAsk()
    buckets: None = None

    def __len__(self) -> int:
        return self.count

    @property
    def length(self) -> int:
        """Frames of a film."""
        return self.frames or self.facts.frames

    @property
    def kept(self) -> int:
        """Frames that a clip has in common with the one before."""
        return self.context or self.facts.frames // 2

    def prompt(self, number: int) -> str:
        """What a clip is drawn for."""
        return self.texts[number % len(self.texts)]

    def name(self, number: int) -> tuple[str, int]:
        turn, which = divmod(number, len(self.texts))
        return self.texts[which], turn + (self.places[which] if self.places else 0)

    def knows(self, number: int) -> Known | None:
        """What is known of a clip."""
        return self.known[number % len(self.known)] if self.known else None

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        """{"x": blanks (b, T, 3, H, W), "caption", "caption_mask"; "weak": the same of what is not to be seen; "aside": known
        frames and pixels}."""
        found: dict[str, Tree] = {"x": torch.zeros(len(numbers), *self.facts.shape)}
        found |= self.told(numbers)
        beside = aside([self.knows(number) for number in numbers], self.facts.shape)
        found["aside"] = beside | {"how": spelt(self.order, 0.0, len(numbers))}
        return found

    def told(self, numbers: Sequence[int], later: bool = False) -> dict[str, Tree]:
        """Words of clips as the network is told them, and on the weak side of guidance; ``later``: of clips behind the first."""
        if self.words is None:
            return {}
        texts = self.then if later and self.then else self.texts
        found: dict[str, Tree] = encoded(self.words, [texts[number % len(texts)] for number in numbers])
        if self.negative:
            found["weak"] = encoded(self.words, [self.negative] * len(numbers))
        return found


def encoded(words: Reader, texts: Sequence[str]) -> dict[str, Tree]:
    """Words as the network is told them."""
    return {name: torch.from_numpy(value) for name, value in words.encode(texts).items()}


def aside(known: Sequence[Known | None], shape: tuple[int, ...]) -> dict[str, Tree]:
    """What goes beside the network: {"known": (b, T, 3, H, W), "held": (b, T) bool, "pixels": (b, H, W) bool}."""
    none = Known(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.bool))
    every = [each or none for each in known]
    blank = torch.zeros(shape[2:], dtype=torch.bool)
    return {
        "known": torch.stack([each.x for each in every]), "held": torch.stack([each.frames for each in every]),
        "pixels": torch.stack([blank if each.pixels is None else each.pixels for each in every]),
    }  # fmt: skip


def asked(ask: ClipAsk, words: Reader | None, units: Units, facts: ClipFacts, n: int | None) -> Clips:
    """The clips that are asked for: n of each prompt (4 unless given), or n in all (8) of held-out captions in turn. Raises Wrong
    for what this run cannot do, DataError for files that cannot be read."""
    length = facts.frames
    if words is None and (ask.prompt or ask.prompts or ask.negative or ask.then):
        raise Wrong("prompt: this run learned no words; leave it out")
    if ask.context is not None and ask.context >= length:
        raise Wrong(f"context = {ask.context}: must be below the {length} frames of a clip")
    if ask.prompt is not None:
        texts: tuple[str, ...] = (of_prompt(ask.prompt),)
    else:
        texts = of_prompts(ask.prompts) if ask.prompts is not None else facts.examples
    named = ask.prompt is not None or ask.prompts is not None
    count = len(texts) * (4 if n is None else n) if named else 8 if n is None else n
    found = Clips(
        texts, count, words, facts, negative=of_prompt(ask.negative) or None,
        then=(of_prompt(ask.then),) if ask.then is not None else (), frames=ask.frames or length, order=ask.order,
        context=ask.context or max(1, length // 2), context_noise=ask.context_noise, ask=ask,
    )  # fmt: skip
    known = given(ask, facts, units)
    return found if known is None else replace(found, known=(known,))


def given(ask: ClipAsk, facts: ClipFacts, units: Units) -> Known | None:
    """What pictures and films of the asking say is known. Raises Wrong, DataError."""
    length = facts.frames
    x, held = torch.zeros(facts.shape), torch.zeros(length, dtype=torch.bool)
    pixels: Tensor | None = None
    if ask.prefix is not None:
        keep = ask.keep if ask.keep is not None else max(1, length // 2)
        if keep >= length:
            raise Wrong(f"keep = {keep}: must be below the {length} frames of a clip of this run")
        film = _frames(ask.prefix, facts, units)
        if len(film) < keep:
            raise Wrong(f"keep = {keep}: {ask.prefix} has {len(film)} frames")
        x[:keep], held[:keep] = film[-keep:], True
    for name, place in (("first", 0), ("last", length - 1)):
        path = getattr(ask, name)
        if path is not None:
            x[place], held[place] = standard(_fitting(decode(path).pixels, facts, name, path), units), True
    if ask.fill is not None:
        film = _frames(ask.fill, facts, units)
        if len(film) < length:
            raise Wrong(f"fill: {ask.fill} has {len(film)} frames, and a clip of this run {length}; give a longer one")
        x, held = film[:length], torch.ones(length, dtype=torch.bool)
        if ask.hide is not None:
            held[_span(ask.hide, length)] = False
        else:
            assert ask.mask is not None
            white = _fitting(decode(ask.mask).pixels, facts, "mask", ask.mask).mean(2) > 127
            pixels, held = torch.from_numpy(~white), torch.zeros(length, dtype=torch.bool)
    return Known(x, held, pixels) if bool(held.any()) or pixels is not None else None


def _span(text: str, length: int) -> slice:
    match = HIDE.fullmatch(text)
    assert match is not None
    start, stop = int(match[1] or 0), int(match[2] or length)
    if not 0 <= start < stop <= length:
        raise Wrong(f"hide = {text!r}: must name frames from 0 to {length}, such as 3:5")
    return slice(start, stop)


def _frames(path: Path, facts: ClipFacts, units: Units) -> Tensor:
    """A film as standard frames (F, 3, H, W), at the rate and size of the run. Raises DataError, Wrong."""
    timeless = path.is_dir()
    found = [frame.pixels for frame in paced(frames(Film(path)), None if timeless else facts.rate)]
    return torch.stack([standard(_fitting(pixels, facts, "film", path), units) for pixels in found])


def _fitting(pixels: Any, facts: ClipFacts, name: str, path: Path) -> Any:
    """A picture at the size of the run. Raises Wrong for one of quite another shape."""
    height, width = facts.size
    ratio = pixels.shape[0] / pixels.shape[1] * width / height
    if max(ratio, 1 / ratio) > ASPECT:
        raise Wrong(
            f"{name}: {shown(path)} has {pixels.shape[1]}x{pixels.shape[0]} pixels, and the run learned {width}x{height}; cut "
            f"it to the proportions {width}:{height}"
        )
    return resized(pixels, facts.size)


def standard(pixels: Any, units: Units) -> Tensor:
    """Bytes (..., H, W, 3) as standard numbers (..., 3, H, W)."""
    found: Tensor = units.standard(torch.from_numpy(from_bytes(pixels)))
    return found
