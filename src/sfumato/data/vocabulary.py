"""Bytes <-> tokens: a byte-pair vocabulary (Sennrich 2016, arXiv 1508.07909) over bytes, so that nothing is unknown.

    any bytes --encode--> ids --decode--> the same bytes

A piece is a run of bytes; the 256 single bytes are always among them. Two ids follow the V pieces and stand for no
bytes: `end`, which closes every document and stands before the first, and `mask`, which says "unknown". No text can
contain either: the tokenizer does not know them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.errors import DataError, decoding, one_line, shortened, shown

LEAST = 256
MOST = 60_000  # so that ids, end and mask fit into 16 bits
FILE_LIMIT = 16 << 20

# Words with the sign or space before them (".join", " self"), digits by threes, runs of signs, and lines' ends together with
# the indentation of the next line, which code is full of. Measured on Python's library: 3.09 bytes a piece at 2,048 pieces,
# 2.91 where words take no sign along.
PARTS = (
    r"[^\s\p{L}\p{N}]?\p{L}[\p{L}\p{M}]*| \p{L}[\p{L}\p{M}]*|\p{N}{1,3}"
    r"|\s*\r?\n[ \t]*| ?[^\s\p{L}\p{N}]+|[ \t]+|\s+|."
)
_ESCAPED = re.compile("[\udc80-\udcff]+")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A fitted byte-pair vocabulary. `tokenizer` is a `tokenizers.Tokenizer` with the bytes' usual stand-in characters,
    so the file that `save` writes is one that other libraries read."""

    tokenizer: Any

    @classmethod
    def fit(cls, texts: Iterable[bytes], size: int) -> Vocabulary:
        """The `size` pieces (fewer, where the texts hold no more) that byte-pair merging finds in `texts`.

        A function of the texts and their order alone. DataError for a size out of range.
        """
        if not LEAST <= size <= MOST:
            raise DataError(f"vocab = {size}: must be from {LEAST} (the bytes alone) to {MOST}")
        tokenizers = library()
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Split(tokenizers.Regex(PARTS), behavior="isolated"),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=sorted(_CHARACTERS),
            max_token_length=32,  # a licence's line of dashes is no word
            show_progress=False,
        )
        tokenizer.train_from_iterator((text.decode("utf-8", "replace") for text in texts), trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads what `save` wrote. DataError where the file is missing, damaged, or not a vocabulary of bytes."""
        tokenizers = library()
        try:
            if path.stat().st_size > FILE_LIMIT:
                raise DataError(f"{shown(path)}: {path.stat().st_size / 1e6:.0f} MB is no byte-pair vocabulary")
            tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{shown(path)}: file not found; it is written beside the run's data.json") from None
        except DataError:
            raise
        except Exception as error:  # the library raises a bare Exception
            raise DataError(f"{shown(path)}: is no vocabulary that can be read ({one_line(error)})") from None
        vocabulary = cls(tokenizer)
        with decoding(path, "it is written beside the run's data.json"):
            missing = set(range(256)) - {piece[0] for piece in vocabulary.pieces if len(piece) == 1}
        if missing:
            raise DataError(
                f"{shown(path)}: lacks {len(missing)} of the 256 single bytes (the first is {min(missing)}); "
                "expected a byte-level vocabulary as a run writes it"
            )
        return vocabulary

    def save(self, path: Path) -> None:
        """tokenizer.json, as the tokenizers library reads it."""
        path.write_text(json.dumps(json.loads(self.tokenizer.to_str()), ensure_ascii=True), encoding="utf-8")

    def __len__(self) -> int:
        """Number of pieces V."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def end(self) -> int:
        """Id of the end of a document."""
        return len(self)

    @property
    def mask(self) -> int:
        """Id of the unknown: one beyond all that can be written."""
        return len(self) + 1

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of each id, V of them. DataError where an id has no characters of the bytes' alphabet."""
        found = []
        for id_ in range(len(self)):
            piece = self.tokenizer.id_to_token(id_) or ""
            if not piece or not set(piece) <= _BYTE_OF.keys():
                said = shortened(repr(piece), 60)
                raise DataError(f"the vocabulary's entry {id_} is {said}; expected characters that stand for bytes")
            found.append(bytes(_BYTE_OF[c] for c in piece))
        return found

    @cached_property
    def _single(self) -> dict[int, int]:
        return {piece[0]: id_ for id_, piece in enumerate(self.pieces) if len(piece) == 1}

    def encode(self, text: bytes) -> np.ndarray:
        """Ids (n,) int64 of any bytes. Bytes that are no UTF-8 become single-byte pieces."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """`encode` of each, in parallel."""
        cut = [_stretches(text) for text in texts]
        valid = [stretch for stretches in cut for stretch, well in stretches if well]
        ids = iter(self.tokenizer.encode_batch_fast(valid, add_special_tokens=False))
        out = []
        for stretches in cut:
            found: list[int] = []
            for stretch, well in stretches:
                raw = stretch.encode("utf-8", "surrogateescape")
                found += next(ids).ids if well else [self._single[byte] for byte in raw]
            out.append(np.array(found, dtype=np.int64))
        return out

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of the ids; `end` and `mask` are none. ValueError for ids out of range."""
        found = [int(id_) for id_ in ids]
        if found and not 0 <= min(found) <= max(found) <= self.mask:
            raise ValueError(f"ids go from {min(found)} to {max(found)}, the vocabulary from 0 to {self.mask}")
        return b"".join(self.pieces[id_] for id_ in found if id_ < len(self))

    def lengths(self) -> np.ndarray:
        """Bytes of each id, (V + 2,) int64; 0 for `end` and `mask`."""
        return np.array([len(piece) for piece in self.pieces] + [0, 0], dtype=np.int64)


def library() -> Any:
    """The tokenizers library, or a DataError that says how to install it."""
    try:
        import tokenizers
    except ImportError:
        raise DataError("a vocabulary needs the tokenizers library: pip install tokenizers") from None
    return tokenizers


def _stretches(text: bytes) -> list[tuple[str, bool]]:
    """Text cut into stretches that are UTF-8 (True) and such that are not (False, as escaped surrogates)."""
    string = text.decode("utf-8", "surrogateescape")
    out, place = [], 0
    for match in _ESCAPED.finditer(string):
        out += [(string[place : match.start()], True), (match.group(), False)]
        place = match.end()
    out.append((string[place:], True))
    return [(stretch, well) for stretch, well in out if stretch]


def _characters() -> str:
    """The character that stands for each byte in byte-level vocabularies (Radford 2019, GPT-2): printable bytes stand for
    themselves as Latin-1 does, the others, in order, for what follows it."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (chr(256 + i) for i in range(256))
    return "".join(chr(byte) if byte in printable else next(others) for byte in range(256))


_CHARACTERS = _characters()
_BYTE_OF = {character: byte for byte, character in enumerate(_CHARACTERS)}
