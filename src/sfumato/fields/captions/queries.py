"""The pictures asked for: prompts in turn, each with its own randomness, as blanks with words as conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sfumato.data.wording import of_prompt, of_prompts
from sfumato.diffusion.tree import Tree
from sfumato.errors import Wrong
from sfumato.fields.captions.facts import CaptionFacts
from sfumato.fields.captions.options import SIZE, CaptionAsk
from sfumato.jobs.latents import Latent
from sfumato.networks.words import Reader


@dataclass(frozen=True, eq=False)
class Prompts:
    """``count`` pictures in all: number i is of prompt i mod P, the (i // P)-th of it, beginning with the one that ``places``
    says, (P,); as codes of ``space``, where codes are learned. A prompt's pictures are the same alone, in any list, and whatever
    they are to be led away from."""

    texts: tuple[str, ...]
    count: int
    words: Reader
    size: tuple[int, int]
    negative: str | None = None
    places: tuple[int, ...] | None = None
    space: Latent | None = None
    buckets: None = None

    def __len__(self) -> int:
        return self.count

    def prompt(self, number: int) -> str:
        """What a picture is drawn for."""
        return self.texts[number % len(self.texts)]

    def name(self, number: int) -> tuple[str, int]:
        turn, which = divmod(number, len(self.texts))
        return self.texts[which], turn + (self.places[which] if self.places else 0)

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        """{"x": blanks (b, *shape), "caption", "caption_mask"; "weak": the same of what is not to be seen}."""
        found: dict[str, Tree] = {"x": torch.zeros(len(numbers), *self.shape)}
        found |= self.told([self.prompt(number) for number in numbers])
        if self.negative:
            found["weak"] = self.told([self.negative] * len(numbers))
        return found

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one as the network takes it."""
        return (3, *self.size) if self.space is None else self.space.size(*self.size)

    def told(self, texts: Sequence[str]) -> dict[str, Tree]:
        """Words as the network is told them."""
        return {name: torch.from_numpy(value) for name, value in self.words.encode(texts).items()}

    def ask(self, number: int) -> CaptionAsk:
        """What asks for this picture alone, as its (number // P)-th."""
        height, width = self.size
        return CaptionAsk(prompt=self.prompt(number), negative=self.negative, size=f"{height}x{width}")


def asked(ask: CaptionAsk, words: Reader, facts: CaptionFacts, n: int | None) -> Prompts:
    """The pictures that are asked for: n of each prompt (4 unless given), or n in all (16) of held-out captions in turn.

    Raises Wrong for a size that was not learned, DataError for prompts that cannot be read.
    """
    size = sized(ask.size, facts)
    negative = of_prompt(ask.negative) or None if ask.negative is not None else None
    if ask.prompt is None and ask.prompts is None:
        return Prompts(facts.examples, 16 if n is None else n, words, size, negative, space=facts.space)
    texts = (of_prompt(ask.prompt),) if ask.prompt is not None else of_prompts(Path(str(ask.prompts)))
    return Prompts(texts, len(texts) * (4 if n is None else n), words, size, negative, space=facts.space)


def sized(size: str | None, facts: CaptionFacts) -> tuple[int, int]:
    """(height, width) of what is asked for. Raises Wrong for a size that was not learned."""
    if size is None:
        return facts.sizes[0]
    match = SIZE.fullmatch(size)
    assert match is not None
    found = (int(match[1]), int(match[2]))
    if found not in facts.sizes:
        known = ", ".join(f"{height}x{width}" for height, width in facts.sizes)
        raise Wrong(f"size = {size!r}: this run learned {known}")
    return found


def alone(making: Any, queries: Prompts, number: int) -> Any:
    """The making of one picture, by which it is made again without the list that it was in."""
    from sfumato.jobs.strict import to_plain

    return replace(making.of(queries, number), ask=to_plain(queries.ask(number)), number=queries.name(number)[1])
