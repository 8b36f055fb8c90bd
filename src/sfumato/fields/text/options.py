"""The options of text: of its network, of what is asked for, of what is measured. Needs neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sfumato.errors import check
from sfumato.jobs.flags import arg


@dataclass(frozen=True)
class TextNetwork:
    """The network, a transformer that sees both ways. None means: chosen from the data and the machine."""

    width: int | None = None
    """Channels."""
    depth: int | None = None
    """Blocks."""
    dropout: float = 0.0
    """Share of each block's answer that is dropped in training; for many passes over little text."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.width is None or self.width >= 8, "width", "at least 8"),
            (self.depth is None or self.depth >= 1, "depth", "at least 1"),
            (0 <= self.dropout < 1, "dropout", "a share from 0 to below 1"),
        )


@dataclass(frozen=True)
class TextAsk:
    """What texts are asked for."""

    prompt: str | None = None
    """How a text begins."""
    prompt_file: Path | None = None
    """The same from a file, which ends where the text goes on."""
    around: Path | None = None
    """File with holes, <fill> or <fill:12> for one of 12 tokens; what is around them is kept to the byte."""
    hole: int = 8
    """Tokens of a hole that does not say how long it is."""
    length: int | None = None
    """Tokens of a text, the prompt's among them (default: those of one window); more than a window are written on from the
    last half of it."""
    block: int | None = None
    """Write so many tokens after the other, from left to right, with what is before them in sight, which is read once a block
    (default: all places of a window in any order)."""
    temperature: float = 0.7
    """Below 1 the likely is likelier: fewer blunders, less variety. 1 is the model's own law."""
    stress: float = 1.0
    """How much a prompt is heeded: 1 as the model does, above it more (guidance; twice the time), 0 not at all."""

    def __post_init__(self) -> None:
        starts = [name for name in ("prompt", "prompt_file", "around") if getattr(self, name) is not None]
        check(
            self,
            (len(starts) < 2, starts[-1] if starts else "prompt", f"given without {starts[0] if starts else ''}"),
            (self.hole >= 1, "hole", "at least 1 token"),
            (self.length is None or self.length >= 2, "length", "at least 2 tokens"),
            (self.length is None or self.around is None, "length", "given without around: holes say how long they are"),
            (self.block is None or self.block >= 1, "block", "at least 1 token"),
            (0.001 <= self.temperature <= 10, "temperature", "from 0.001 to 10"),
            (0 <= self.stress <= 100, "stress", "from 0 to 100"),
            (self.stress == 1 or self.around is None, "stress", "1 for holes: it is of prompts"),
        )


@dataclass(frozen=True)
class Measured:
    """How a model of texts is measured."""

    span: int = 32
    """Tokens scored at a time, with what is before them in sight: fewer give a tighter bound and take longer."""
    draws: int = 2
    """Masks drawn for each block."""
    tokens: int = 100_000
    """Held-out tokens scored at most: whole documents, chosen by their names."""
    holes: int = 200
    """Holes of each size that are filled; 0 for none."""
    n: Annotated[int, arg(aliases=["-n"])] = 64
    """Texts that are written and looked at; 0 for none."""

    def __post_init__(self) -> None:
        check(
            self,
            *((getattr(self, name) >= 1, name, "at least 1") for name in ("span", "draws", "tokens")),
            *((getattr(self, name) >= 0, name, "0 or more") for name in ("holes", "n")),
        )
