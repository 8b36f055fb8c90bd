"""Facts about samples: what parses, as far as it goes, and what was copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfumato.fields.text.samples import Seen, parses

WHOLE = b"""import os


def area(r, *, unit="m"):
    'Of a circle.'
    if r < 0:
        raise ValueError(r)
    return 3 * r
"""


def test_a_file_cut_off_anywhere_in_a_line_s_middle_or_at_its_end_parses() -> None:
    cuts = [i for i in range(10, len(WHOLE) + 1) if WHOLE[i - 1 : i] in (b"\n", b":", b"(", b"r", b"s")]
    assert len(cuts) > 20
    refused = [WHOLE[:cut][-12:] for cut in cuts if not parses(WHOLE[:cut])]
    assert refused == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n",
        b"x = = 1\ny = 2\n",
        b"def f(:\n    pass\nx = 1\n",
        b"x = (1]\ny = 2\n",
        b"  indented\nx = 1\n",
        b"def f():\nreturn 1\n\nx = 1\n",
        b"x = 'open\ny = 2\n",
        b"x = 1\xff\ny = 2\n",
        b"x = 1\0\ny = 2\n",
        b"(" * 50_000 + b"\n",
    ],
)
def test_what_is_no_python_does_not_parse(text: bytes) -> None:
    assert not parses(text)


def test_real_files_parse_wherever_they_are_cut() -> None:
    """All but a few per cent: what the share of samples is to be read against."""
    text = Path(__file__).read_bytes()
    cuts = range(200, len(text), 97)
    assert np.mean([parses(text[:cut]) for cut in cuts]) > 0.8
    assert not any(parses(b"x = = 1\n" + text[:cut]) for cut in cuts)


def test_nothing_is_executed(tmp_path: Path) -> None:
    target = tmp_path / "made"
    assert parses(f"open({str(target)!r}, 'w').write('x')\n".encode())
    assert not target.exists()


def test_copies_are_found_and_what_is_new_is_not() -> None:
    rng = np.random.default_rng(0)
    train, new = rng.integers(0, 50, 5000), rng.integers(0, 50, 200)
    half = np.concatenate([train[1000:1060], new[:60]])
    found = Seen(train, 8).copies([train[300:400], new, half, new[:3]])
    assert found.share[0] == 1
    assert found.longest.tolist() == [100, 0, 60, 0]
    assert found.share[1] == found.share[3] == 0
    assert found.share[2] == pytest.approx(53 / 113)


def test_equal_runs_alone_have_equal_numbers() -> None:
    """Every run of the training text finds itself; a run with one token changed finds nothing."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 4, 3000)
    seen = Seen(train, 16)
    changed = train.copy()
    changed[::16] = changed[::16] + 4
    assert seen.copies([train]).share[0] == 1
    assert seen.copies([changed]).share[0] == 0
    assert Seen(train[:5], 16).copies([train]).share[0] == 0
