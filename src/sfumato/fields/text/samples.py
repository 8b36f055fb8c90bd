"""Simple facts about written texts: do they parse, do they differ, are they copied from training. Nothing is ever executed."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PARSED_AT_MOST = 1 << 16


def parses(text: bytes) -> bool:
    """Whether Python's own grammar accepts the text as far as it goes: its last line may be cut off, and the statement of
    the outermost level that it stands in unfinished."""
    try:
        whole = text[:PARSED_AT_MOST].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        whole = text[:PARSED_AT_MOST].decode("utf-8", "ignore")
    lines = whole.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n") and accepted(whole):
        return True
    lines = lines if whole.endswith("\n") else lines[:-1]
    if accepted("".join(lines)):
        return bool("".join(lines).strip())
    starts = [i for i, line in enumerate(lines) if line.strip() and not line[0].isspace()]
    for cut in starts[:0:-1]:  # the unfinished statement begins at one of the last lines that are not indented
        if accepted("".join(lines[:cut])):
            return _unfinished("".join(lines[cut:]))
    return bool(lines) and _unfinished("".join(lines))


def accepted(source: str) -> bool:
    """Whether Python's grammar accepts all of a text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful escapes in strings
            ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _unfinished(source: str) -> bool:
    """Whether the text could be the beginning of a statement: closed by what it leaves open, it parses."""
    body = source.rstrip()
    indented = body + "\n" + " " * (len(body.splitlines()[-1]) - len(body.splitlines()[-1].lstrip()) + 1) + "pass\n"
    if body.endswith(":") and accepted(indented):
        return True
    return any(accepted(body + closing) for closing in _closings(body))


def _closings(source: str) -> list[str]:
    """What would close brackets and strings left open, by the tokenizer's own account."""
    import io
    import tokenize

    pairs = {"(": ")", "[": "]", "{": "}"}
    open_: list[str] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.OP and token.string in pairs:
                open_.append(pairs[token.string])
            elif token.type == tokenize.OP and open_ and token.string == open_[-1]:
                open_.pop()
    except (tokenize.TokenError, IndentationError, SyntaxError):
        pass
    brackets = "".join(reversed(open_))
    out = []
    for string in ("", '"""', "'''"):
        for word in ("", " _", ": _"):
            out += [string + word + brackets, string + word + brackets + ":\n pass"]
    tries, decorated = "\nexcept Exception:\n pass\n", "\ndef _():\n pass\n"
    return [*out, tries, *(closing + decorated for closing in out[::2]), *(closing + tries for closing in out[:2])]


@dataclass(frozen=True)
class Copies:
    """Runs of `length` tokens that stand in the training text: (N,) share of each sample's runs, and the longest stretch of
    each sample, in tokens, that does."""

    share: np.ndarray
    longest: np.ndarray


class Seen:
    """Every run of `length` tokens of the training text (n,), to look others up in."""

    def __init__(self, train: np.ndarray, length: int = 16):
        self.train, self.length = train.astype(np.int64), length
        hashes = _hashes(self.train, length)
        self.order = np.argsort(hashes, kind="stable")
        self.sorted = hashes[self.order]

    def copies(self, samples: Sequence[np.ndarray]) -> Copies:
        """What of each sample, tokens (n,), is copied. A sample shorter than a run has a share of 0."""
        share, longest = np.zeros(len(samples)), np.zeros(len(samples), dtype=np.int64)
        for i, sample in enumerate(samples):
            sample = sample.astype(np.int64)
            hashes = _hashes(sample, self.length)
            if not len(hashes):
                continue
            place = np.searchsorted(self.sorted, hashes).clip(max=max(0, len(self.sorted) - 1))
            hit = self.sorted[place] == hashes if len(self.sorted) else np.zeros(len(hashes), dtype=bool)
            share[i] = hit.mean()
            longest[i] = self._longest(hit)
        return Copies(share, longest)

    def _longest(self, hit: np.ndarray) -> int:
        """The longest run of neighbouring hits, in tokens: consecutive runs that all stand in training. They need not stand
        in one place there, so this is at least the longest common stretch."""
        edges = np.flatnonzero(np.diff(np.concatenate([[0], hit.astype(np.int8), [0]])))
        lengths = edges[1::2] - edges[::2]
        return int(lengths.max()) + self.length - 1 if len(lengths) else 0


def _hashes(tokens: np.ndarray, length: int) -> np.ndarray:
    """A 64-bit number of each run of `length` tokens, (n - length + 1,) uint64: a polynomial with an odd base, mixed."""
    count = max(0, len(tokens) - length + 1)
    number = np.zeros(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(length):
            number = (
                number * np.uint64(0x9E3779B97F4A7C15)
                + tokens[offset : offset + count].astype(np.uint64)
                + np.uint64(1)
            )
            number ^= number >> np.uint64(29)
    return number
