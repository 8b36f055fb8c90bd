"""Holes are filled by the exact posterior where the network is exact, and all else of the file stays to the byte."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.errors import DataError, Wrong
from sfumato.fields.text.echo import Echo, Echoing, Source, echoing
from sfumato.fields.text.filling import Draft, fill
from sfumato.fields.text.originals import Hole, Original, marked, of_lines, original, ranges
from sfumato.fields.text.showing import diff, safe
from sfumato.jobs.walk import Drawing, Walk
from tests.fields.text.markov import bytes_alone, chain, ids, told

FAST = Walk(solver="confidence", steps=2)


def of(text: bytes) -> Original:
    return Original(Path("open.txt"), text)


def test_the_law_of_a_filling_is_the_posterior_of_the_chain() -> None:
    """Both sides count: by enumeration of all pairs between b and c, 1,500 draws, chi-square."""
    network, draws = chain(), 1500
    text = b"ab<fill:2>ca"
    model = told(network, walk=Walk(solver="random_order", steps=2, batch=250))
    found = Counter(filled[2:4] for filled in fill(model, of(text), marked(text), draws, temperature=1.0))
    letters, moves = b"abc", network.moves
    law = {
        bytes([letters[i], letters[j]]): moves[1, i] * moves[i, j] * moves[j, 2] for i, j in product(range(3), repeat=2)
    }
    total = sum(law.values())
    assert found.keys() <= law.keys()
    error = sum((found[pair] - draws * p / total) ** 2 / (draws * p / total) for pair, p in law.items())
    assert error < 26.1  # of 8 degrees of freedom, exceeded by one in a thousand
    from_left = {
        pair: moves[1, letters.index(pair[0])] * moves[letters.index(pair[0]), letters.index(pair[1])] for pair in law
    }
    share = sum(from_left.values())
    wrong = sum((found[pair] - draws * p / share) ** 2 / (draws * p / share) for pair, p in from_left.items())
    assert wrong > 60  # what the left side alone would give is told apart


def test_a_temperature_sharpens() -> None:
    text = b"ab<fill:1>ca"
    found = set(fill(told(chain()), of(text), marked(text), 50, temperature=0.001))
    law = {letter: chain().moves[1, i] * chain().moves[i, 2] for i, letter in enumerate(b"abc")}
    assert found == {b"ab" + bytes([max(law, key=lambda letter: law[letter])]) + b"ca"}


def test_later_holes_see_what_was_written_into_earlier_ones() -> None:
    """Two holes too far apart for half a window are two rounds; in the second the first is no mask any more."""
    network, text = chain(), b"abc<fill:1>abcabc<fill:1>ab"
    model = told(network, window=14)
    assert len(Draft.of(text, marked(text), bytes_alone(), 8).rounds(14)) == 2
    texts = fill(model, of(text), marked(text), 6, temperature=1.0)
    assert len({filled[3] for filled in texts}) > 1
    mask = bytes_alone().mask
    for row, filled in zip(network.seen[-1].tolist(), texts):  # each draw sees what it wrote itself
        shown = bytes_alone().decode([token for token in row if token != mask])
        assert row.count(mask) == 1
        assert shown.endswith(filled[3:10] + b"ab")
    near = b"abc<fill:1>a<fill:1>ab"
    assert len(Draft.of(near, marked(near), bytes_alone(), 8).rounds(14)) == 1


def test_a_draw_is_the_same_alone_and_among_others() -> None:
    text = b"a<fill:3>c"
    model = told(chain(), walk=Walk(solver="confidence", steps=8, batch=4))
    every = fill(model, of(text), marked(text), 6)
    assert fill(model, of(text), marked(text), 2) == every[:2]
    assert len(set(every)) > 1


PARTS = st.lists(
    st.one_of(st.text("ab\n\r\t \u00e9\u4e2d\ufeff", max_size=12), st.sampled_from(["\r\n", "\t\tx\r\n", ""])),
    min_size=2,
    max_size=5,
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(parts=PARTS, size=st.integers(1, 3))
def test_all_but_the_holes_is_kept_to_the_byte(parts: list[str], size: int) -> None:
    """Tabs, both ends of lines, marks of byte order, characters of several bytes; holes at the very ends, several in turn."""
    known = [part.encode() for part in parts]
    text = f"<fill:{size}>".encode().join(known)
    filled = fill(told(chain(), walk=FAST), of(text), marked(text), 1)[0]
    assert len(filled) == sum(map(len, known)) + size * (len(known) - 1)
    place = 0
    for part in known:
        assert filled[place : place + len(part)] == part
        assert set(filled[place + len(part) : place + len(part) + size]) <= set(b"abc")
        place += len(part) + size


@pytest.mark.parametrize(
    ("text", "lines", "holes"),
    [
        (b"one\ntwo\nthree\n", ["2"], [b"two"]),
        (b"one\r\ntwo\r\nthree", ["2:3"], [b"two\r\nthree"]),
        (b"one\r\ntwo\r\nthree", ["3", "1"], [b"one", b"three"]),
        (b"\n\nx\n", ["2"], [b""]),
        (b"one", ["1:1"], [b"one"]),
    ],
)
def test_lines_are_holes_without_their_last_end(text: bytes, lines: list[str], holes: list[bytes]) -> None:
    found = of_lines(text, lines)
    assert [text[hole.start : hole.stop] for hole in found] == holes
    draft = Draft.of(text, found, bytes_alone(), None)
    assert [(draft.hole == i).sum() for i in range(len(found))] == [max(1, len(hole)) for hole in holes]
    assert [(Draft.of(text, found, bytes_alone(), 5).hole == 0).sum()] == [5]


@pytest.mark.parametrize("words", ["0", "3:2", "a", "1:", "-1", "1:2:3"])
def test_what_is_no_range_of_lines(words: str) -> None:
    with pytest.raises(Wrong, match=r"must be a line or a range of them, such as 12 or 10:14"):
        ranges([words])


def test_lines_that_are_not_there_or_asked_for_twice() -> None:
    with pytest.raises(DataError, match="line 4 is asked for, the text has 3"):
        of_lines(b"1\n2\n3\n", ["2:4"])
    with pytest.raises(DataError, match="line 2 is asked for twice"):
        of_lines(b"1\n2\n3\n", ["2:3", "1:2"])


@pytest.mark.parametrize(
    ("content", "encoding", "said"),
    [
        (b"", "utf-8", "empty; expected a text"),
        (b"\n \t", "utf-8", "empty; expected a text"),
        (b"ab\0c", "utf-8", r"binary \(a zero byte at 2\); expected a text"),
        (b"caf\xe9", "utf-8", r"not UTF-8 \(byte 0xe9 at 3\); say what it is: --encoding latin-1 or --encoding cp1252"),
        (b"\xef\xbb\xbfcaf\xe9", "utf-8", r"not UTF-8 \(byte 0xe9 at 6\)"),
        (
            b"caf\x81",
            "cp1252",
            r"not CP1252 \(byte 0x81 at 3\); say what it is: --encoding utf-8 or --encoding latin-1",
        ),
        (b"x" * (4 << 20) + b"xx", "utf-8", "more than 4.2 MB; give a shorter file"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, encoding: str, said: str) -> None:
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"bad.txt: {said}"):
        original(file, encoding)


def test_a_file_keeps_its_encoding_and_its_mark(tmp_path: Path) -> None:
    file = tmp_path / "old.txt"
    file.write_bytes(b"\xef\xbb\xbfab<fill:1>a\r\n")
    found = original(file)
    assert found.text == b"ab<fill:1>a\r\n"  # the network does not see the mark
    assert found.spelt(b"abca\r\n") == b"\xef\xbb\xbfabca\r\n"
    file.write_bytes(b"caf\xe9 \x80<fill:1>a")
    found = original(file, "cp1252")
    assert found.text.decode() == "caf\u00e9 \u20ac<fill:1>a"
    (filled,) = fill(told(chain()), found, marked(found.text))
    assert found.spelt(filled) in {b"caf\xe9 \x80" + bytes([letter]) + b"a" for letter in b"abc"}
    assert not found.can("\u4e2d".encode())


class Opinion:
    """A network that believes in these bytes alike, everywhere."""

    def __init__(self, text: bytes) -> None:
        self.answer = torch.full((len(bytes_alone()) + 1,), -700.0, dtype=torch.float64)
        self.answer[ids(text)] = 0.0

    def __call__(self, x: torch.Tensor, level: torch.Tensor, **condition: Any) -> torch.Tensor:
        return self.answer.expand(*x.shape, -1)


def test_half_a_character_is_drawn_again() -> None:
    text = b"a<fill:1>b"
    found = fill(told(Opinion(b"\xc3z")), of(text), marked(text), 20)
    assert found == [b"azb"] * 20
    with pytest.raises(
        DataError, match=r"hole 1: none of 50 draws is text in utf-8; make it longer, or write it as UTF-8"
    ):
        fill(told(Opinion(b"\xc3"), walk=FAST), of(text), marked(text))
    latin = Original(Path("old.txt"), text, "latin-1")
    with pytest.raises(DataError, match="none of 50 draws is text in latin-1"):
        fill(told(Opinion(b"\xc3"), walk=FAST), latin, marked(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            b"none",
            "the text has no hole: mark what is to be written with <fill>, or <fill:12> for 12 tokens, or say --lines",
        ),
        (b"<fill:0>", "hole 1 is 0 tokens long: must be from 1 to 32, the window of this run"),
        (b"<fill>x<fill:33>", "hole 2 is 33 tokens long"),
    ],
)
def test_holes_that_cannot_be_filled(text: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        fill(told(chain()), of(text), marked(text), usual=8)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_shown_while_it_is_written_ends_with_what_is_written(seed: int) -> None:
    """Each time another text, around it always the same; whatever the seed, the last is what was drawn and not a guess."""
    text, shown = b"abc<fill:4>cab", []
    model = replace(told(chain(), walk=Walk(solver="random_order", steps=9)), drawing=Drawing(seed))
    (filled,) = fill(model, of(text), marked(text), temperature=1.0, look=lambda *parts: shown.append(parts))
    assert b"".join(shown[-1]) == filled
    assert all((before, len(here), after) == (b"abc", 4, b"cab") for before, here, after in shown)
    assert all(a != b for a, b in pairwise(shown))
    assert len(shown) <= 5


def test_nothing_shown_steers_a_terminal() -> None:
    assert safe("a\x1b[31m\r\n\tb\r\x07\x9b\x7f") == "a\u241b[31m\n\tb\u240d\u2407\ufffd\u2421"


def test_a_diff_can_be_applied() -> None:
    """Read back by its own rules, line by line; the end of the file too."""
    before, after = b"one\r\ntwo\nthree", b"one\r\n2\nthree\n"
    found = diff(before, after, "open.txt", "written")
    assert diff(before, before, "open.txt", "written") == b""
    body = [line for line in found.split(b"\n")[3:] if line]
    kept = b"\n".join(line[1:] for line in body if line[:1] in b" +")
    gone = b"\n".join(line[1:] for line in body if line[:1] in b" -")
    assert (kept, gone) == (after.rstrip(b"\n"), before)
    assert found.count(b"\\ No newline at end of file\n") == 1


def test_a_hole_covers_what_it_says() -> None:
    text = b"x = <fill> + <fill:12>"
    assert marked(text) == [Hole(4, 10, None), Hole(13, 22, 12)]
    draft = Draft.of(text, marked(text), bytes_alone(), 8)
    assert np.bincount(draft.hole + 1).tolist() == [2 + len(b"x =  + "), 8, 12]


# ---- what the text itself says ---------------------------------------------------------------------------------------


def alike(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """A network to which all tokens are alike."""
    return torch.zeros(*x.shape, bytes_alone().end + 1)


def echoed(text: bytes, **how: Any) -> bytes:
    holes = marked(text)
    model = told(alike, walk=Walk(solver="confidence", steps=32))
    draft = Draft.of(text, holes, bytes_alone(), 1)
    (found,) = fill(echoing(model, draft.tokens), of(text), holes, 1, temperature=0.001, **how)
    return found


def test_a_hole_is_filled_with_what_stands_between_its_neighbours_elsewhere() -> None:
    text = b"(12) and [34]; " * 20
    assert echoed(text[:150] + b"<fill:1>" + text[151:]) == text
    assert echoed(text[:150] + b"<fill:6>" + text[156:]) == text  # from its edges inwards
    broken = text[:150] + b"<fill:1>" + text[151:]
    (alone,) = fill(told(alike), of(broken), marked(broken), 1, temperature=0.001)
    assert alone != text


def test_echoes_leave_a_law_a_law_and_what_is_known_alone() -> None:
    text = np.array(ids(b"abcabcabdabc" * 3))
    guess = Echoing(told(chain()).denoiser, Echo((Source(text),), bytes_alone().end))
    x_t = torch.tensor([ids(b"ab")[:1] + ids(b"b") + [bytes_alone().mask] + ids(b"a")])
    law = guess(x_t, torch.tensor(1.0)).x.double().exp()
    assert torch.allclose(law.sum(-1), torch.ones(1, 4, dtype=torch.float64), atol=1e-6)
    plain = told(chain()).denoiser(x_t, torch.tensor(1.0)).x.double().exp()
    known = [0, 1, 3]
    assert torch.equal(law[:, known], plain[:, known])
    assert law[0, 2, ids(b"c")[0]] > plain[0, 2, ids(b"c")[0]] or law[0, 2, ids(b"d")[0]] > plain[0, 2, ids(b"d")[0]]
