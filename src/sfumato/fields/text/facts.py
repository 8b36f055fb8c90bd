"""What a run knows of its texts, kept in data.json. Needs neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfumato.jobs import facts
from sfumato.training.run import Run, RunError

if TYPE_CHECKING:
    from sfumato.fields.text.files import Document


@dataclass(frozen=True)
class Part:
    """One side of the split: documents, their bytes and tokens."""

    documents: int
    bytes: int
    tokens: int

    @classmethod
    def of(cls, documents: Sequence[Document], tokens: Sized) -> Part:
        """Of the documents that stand in the stream `tokens` (n,), between one end and the next."""
        return cls(len(documents), sum(len(d.text) for d in documents), len(tokens) - len(documents) - 1)


@dataclass(frozen=True)
class Facts(facts.Facts):
    """What a run knows of its texts. `vocab` is the number of pieces V; `window` of tokens in one item; `suffix` that of
    most of the text; `source` a hash of all documents. `gaps`: whether gaps of unknown length are learned; `once`: whether what
    is given is read without what is open."""

    vocab: int
    window: int
    suffix: str
    train: Part
    held_out: Part
    source: str
    gaps: bool = False
    once: bool = False

    @classmethod
    def read(cls, run: Run) -> Facts:
        """From data.json. Raises RunError naming the value that is wrong."""
        stored, file = facts.read_facts(run), run.path / "data.json"

        def whole(of: Any, name: str) -> int:
            value = of.get(name) if isinstance(of, dict) else None
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise RunError(f"{file}: {name} = {value!r}: must be a whole number, 0 or more; train again")
            return value

        def part(name: str) -> Part:
            of = stored.get(name)
            return Part(whole(of, "documents"), whole(of, "bytes"), whole(of, "tokens"))

        if not whole(stored, "window"):
            raise RunError(f"{file}: window = 0: must be a token or more; train again")
        suffix, source = (str(stored.get(name, "")) for name in ("suffix", "source"))
        gaps, once = (stored.get(name) is True for name in ("gaps", "once"))  # of earlier revisions: neither
        return cls(
            whole(stored, "vocab"), whole(stored, "window"), suffix, part("train"), part("held_out"), source, gaps, once
        )  # fmt: skip

    @property
    def end(self) -> int:
        """Token that closes a document."""
        return self.vocab

    @property
    def mask(self) -> int:
        """Token that stands for the unknown."""
        return self.vocab + 1

    @property
    def rules(self) -> dict[str, int]:
        """The tokens of gaps, which come after the mask."""
        names = ("expand", "delete", "nothing", "gap")
        return {name: self.mask + 1 + i for i, name in enumerate(names)}

    @property
    def bytes_per_token(self) -> float:
        """Bytes of training text per token of it."""
        return self.train.bytes / max(1, self.train.tokens)

    def words(self) -> list[str]:
        """The data in a line."""
        return [
            f"{self.train.documents:,} documents ({self.train.bytes / 1e6:,.2f} MB, {self.train.tokens:,} tokens), "
            f"{self.held_out.documents:,} held out ({self.held_out.bytes / 1e6:,.2f} MB)"
        ]

    def values(self) -> list[str]:
        """The tokens in a line."""
        return [
            f"tokens    {self.vocab:,} pieces, {self.bytes_per_token:.2f} bytes a token; windows of {self.window} tokens, "
            f"about {self.window * self.bytes_per_token:,.0f} bytes"
        ]
