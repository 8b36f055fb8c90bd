"""Texts -> windows of tokens: split by document, a vocabulary of the training part, documents joined without padding.

    [end] document [end] document [end] ...      cut every `window` tokens

so no token is padding, and `end` stands before every document and after it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from sfumato.data.arrays import kept_array
from sfumato.data.dataset import split
from sfumato.data.errors import DataError, decoding, shown
from sfumato.data.vocabulary import Vocabulary
from sfumato.fields.text.facts import Facts, Part
from sfumato.fields.text.files import Document, Say

TRAIN, HELD_OUT, NAMES, TOKENIZER = "train.npy", "held_out.npy", "names.json", "tokenizer.json"
OVERLAP = 4  # windows in which each token is learned from: each time another part of its surroundings is in sight
AGAIN = "prepare the data again"
FITTED_ON = 256 << 20  # bytes of training text, at most, from which the vocabulary is fitted


@dataclass(frozen=True, eq=False)
class Corpus:
    """Both sides as streams of tokens, with the names of the documents in them, in order. `given`, "train" or "held_out" ->
    the number of tokens of each document that are its prompt: in sight, and not learned; nothing where there are none."""

    facts: Facts
    vocabulary: Vocabulary
    train: np.ndarray
    held_out: np.ndarray
    names: dict[str, list[str]]
    given: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        *,
        vocab: int,
        window: int,
        held_out: float,
        tell: Say,
        vocabulary: Vocabulary | None = None,
    ) -> Corpus:
        """Splits the documents, by their content alone; fits `vocab` pieces on the training part (or takes `vocabulary`, that
        of the run that is fine-tuned), and joins the tokens of each part.

        DataError for a window below 8 tokens.
        """
        if window < 8:
            raise DataError(f"window = {window}: must be at least 8 tokens")
        learned, kept = ([documents[i] for i in part] for part in split([d.key for d in documents], held_out))
        if not kept and held_out:
            tell(
                "there is one document, and no end of line to cut it at: nothing is held out, so nothing can be measured"
            )
        if vocabulary is None:
            vocabulary = Vocabulary.fit(_sample(learned), vocab)
            if len(vocabulary) < vocab:
                tell(f"the texts hold {len(vocabulary):,} pieces, not {vocab:,}: so many are used")
        train, rest = stream(learned, vocabulary), stream(kept, vocabulary)
        given = {"train": prompts(learned, vocabulary), "held_out": prompts(kept, vocabulary)}
        if len(train) < window:
            tell(f"the training text is {len(train)} tokens long: windows have {len(train)} tokens, not {window}")
        facts = Facts(
            vocab=len(vocabulary),
            window=min(window, len(train)),
            suffix=most_common_suffix(documents),
            train=Part.of(learned, train),
            held_out=Part.of(kept, rest),
            source=sha256(b"".join(sorted(d.key for d in documents))).hexdigest()[:16],
        )
        names = {"train": [d.name for d in learned], "held_out": [d.name for d in kept]}
        return cls(facts, vocabulary, train, rest, names, given if any(map(any, given.values())) else {})

    def save(self, cache: Path, run: Path) -> None:
        """Tokens and names into `cache`, the vocabulary into `run`; the facts are the run's own."""
        cache.mkdir(parents=True, exist_ok=True)
        np.save(cache / TRAIN, self.train)
        np.save(cache / HELD_OUT, self.held_out)
        stored = {**self.names, "given": self.given} if self.given else self.names
        (cache / NAMES).write_text(json.dumps(stored), encoding="utf-8")
        self.vocabulary.save(run / TOKENIZER)

    @classmethod
    def load(cls, facts: Facts, cache: Path, run: Path) -> Corpus:
        """What `save` wrote, the tokens memory-mapped. DataError where a file is missing or does not fit the facts."""
        vocabulary = Vocabulary.load(run / TOKENIZER)
        if len(vocabulary) != facts.vocab:
            raise DataError(
                f"{shown(run / TOKENIZER)}: holds {len(vocabulary)} pieces, data.json says {facts.vocab}: one is of another run"
            )
        train, held_out = (_tokens(cache / name, vocabulary) for name in (TRAIN, HELD_OUT))
        with decoding(cache / NAMES, AGAIN):
            names = json.loads((cache / NAMES).read_text(encoding="utf-8"))
            parts = [names[part] for part in ("train", "held_out")]
            if not all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in parts):
                raise DataError("holds something else than names of documents")
            given = dict(names.pop("given", {}))
            if given and not all(
                len(given[part]) == len(names[part]) and all(isinstance(n, int) and n >= 0 for n in given[part])
                for part in ("train", "held_out")
            ):
                raise DataError("holds something else than numbers of tokens")
        return cls(facts, vocabulary, train, held_out, names, given)

    def texts(self, part: str) -> Iterator[tuple[str, np.ndarray]]:
        """(name, tokens without its ends) of each document of "train" or "held_out"."""
        tokens = self.train if part == "train" else self.held_out
        ends = np.flatnonzero(tokens == self.facts.end)
        for name, first, last in zip(self.names[part], ends[:-1], ends[1:]):
            yield name, tokens[first + 1 : last].astype(np.int64)

    def prompts_of(self, names: Sequence[str]) -> list[int]:
        """How many tokens of each of these held-out documents are its prompt."""
        known = dict(zip(self.names["held_out"], self.given.get("held_out", [])))
        return [known.get(name, 0) for name in names]

    def windows(self, part: str) -> Windows:
        """The data set of "train", whose windows overlap, or of "held_out", whose windows do not."""
        tokens = self.train if part == "train" else self.held_out
        given = marks(tokens, self.given[part], self.facts.end) if self.given else None
        if part == "train":
            return Windows(tokens, self.facts.window, part, max(1, self.facts.window // OVERLAP), given)
        return Windows(tokens, self.facts.window, part, None, given)


def _tokens(file: Path, vocabulary: Vocabulary) -> np.ndarray:
    """A stream as it was saved. Raises DataError for anything else."""
    tokens = kept_array(file, AGAIN)
    if tokens.ndim != 1 or tokens.dtype != np.uint16 or not len(tokens) or tokens.max() > vocabulary.end:
        raise DataError(f"{shown(file)}: holds no tokens from 0 to {vocabulary.end}; {AGAIN}")
    return tokens


def stream(documents: Sequence[Document], vocabulary: Vocabulary, batch: int = 256) -> np.ndarray:
    """[end] document [end] document ... [end]: (n,) uint16."""
    parts = [np.array([vocabulary.end], dtype=np.uint16)]
    for start in range(0, len(documents), batch):
        some = documents[start : start + batch]
        before = vocabulary.encode_all([d.text[: d.given] for d in some])
        for prompt, ids in zip(before, vocabulary.encode_all([d.text[d.given :] for d in some])):
            parts += [prompt.astype(np.uint16), ids.astype(np.uint16), parts[0]]
    return np.concatenate(parts)


def prompts(documents: Sequence[Document], vocabulary: Vocabulary) -> list[int]:
    """How many tokens of each document are its prompt."""
    return [len(ids) for ids in vocabulary.encode_all([d.text[: d.given] for d in documents])]


def marks(tokens: np.ndarray, given: Sequence[int], end: int) -> np.ndarray:
    """Which tokens of a stream (n,) are of prompts, the first `given` of each document: bool (n,)."""
    starts = np.flatnonzero(tokens == end)[:-1] + 1
    edges = np.zeros(len(tokens) + 1, dtype=np.int8)
    for start, count in zip(starts.tolist(), given):
        edges[start] += count > 0
        edges[min(start + count, len(tokens))] -= count > 0
    return edges[:-1].cumsum(dtype=np.int8).astype(bool)


def _sample(documents: Sequence[Document]) -> Iterator[bytes]:
    """Every k-th document, such that they are at most FITTED_ON bytes or so."""
    every = max(1, -(-sum(len(d.text) for d in documents) // FITTED_ON))
    return (document.text for document in documents[::every])


def most_common_suffix(documents: Sequence[Document]) -> str:
    """The suffix under which most of the text stands, ".txt" for rows of tables and for files without one."""
    weight: Counter[str] = Counter()
    for document in documents:
        suffix = PurePath(document.name).suffix.lower()
        weight[suffix if suffix[1:].isalnum() else ".txt"] += len(document.text)
    return weight.most_common(1)[0][0]


@dataclass(frozen=True, eq=False)
class Windows:
    """Items of `window` tokens from a stream (n,), one every `stride` tokens (every window, unless said); the last one ends
    with the stream. A stream shorter than a window is one item. Of what is `given` (n,) nothing is learned: items that
    consist of it are left out, and in the others it has weight 0.
    """

    tokens: np.ndarray
    window: int
    part: str = "train"
    stride: int | None = None
    given: np.ndarray | None = None
    buckets: None = None

    @property
    def _length(self) -> int:
        return min(self.window, len(self.tokens))

    @property
    def _stride(self) -> int:
        return min(self.stride or self._length, self._length)

    @cached_property
    def _starts(self) -> np.ndarray | None:
        """Where items begin in which there is something to learn; None: everywhere."""
        if self.given is None:
            return None
        first = np.minimum(np.arange(self._places) * self._stride, len(self.tokens) - self._length)
        learned = np.concatenate([[0], np.cumsum(~self.given)])
        some = first[learned[first + self._length] > learned[first]]
        return some if len(some) else first

    @property
    def _places(self) -> int:
        return 1 + -(-(len(self.tokens) - self._length) // self._stride)

    def __len__(self) -> int:
        return self._places if self._starts is None else len(self._starts)

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """{"x": (B, window) int64}, and where prompts are given "weight" (B, window) float32, 0 there and 1 elsewhere.
        IndexError for an item that is not there."""
        starts = [self.start(index) for index in indices]
        found = {"x": np.stack([self.tokens[s : s + self._length].astype(np.int64) for s in starts])}
        if self.given is not None:
            found["weight"] = np.stack([~self.given[s : s + self._length] for s in starts]).astype(np.float32)
        return found

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: value[0] for name, value in self.batch([index]).items()}

    def start(self, index: int) -> int:
        """Place of an item's first token in the stream."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a data set of {len(self)}")
        if self._starts is not None:
            return int(self._starts[index])
        return min(int(index) * self._stride, len(self.tokens) - self._length)

    def name(self, index: int) -> str:
        """Such as "train[tokens 512 to 768]"."""
        first = self.start(index)
        return f"{self.part}[tokens {first} to {first + self._length}]"
