"""Layouts: recognised by their sizes, put into the networks' order and back; and asked for where two are as likely."""

from __future__ import annotations

import typing

import numpy as np
import pytest

from sfumato.data import DataError
from sfumato.data.layout import LAYOUTS, canonical, hint, original, recognised, words
from sfumato.fields.images.data import Layout

SIZES = {"D": 5, "L": 6, "T": 7, "C": 3, "H": 8, "W": 9}
IN_ORDER = {"D": "D", "LD": "LD", "DL": "LD", "HW": "CHW", "CHW": "CHW", "HWC": "CHW", "THW": "TCHW", "TCHW": "TCHW",
            "THWC": "TCHW"}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_put_in_order_and_back(layout: str) -> None:
    shape = tuple(SIZES[letter] for letter in layout)
    x = np.arange(4 * np.prod(shape)).reshape(4, *shape)
    ordered = canonical(x, layout)
    wanted = IN_ORDER[layout]
    assert ordered.shape[1:] == tuple(SIZES[letter] if letter in layout else 1 for letter in wanted)
    place = dict.fromkeys("DLTCHW", 1) | {"C": 1 if "C" in layout else 0}
    one = x[(2, *(place[letter] for letter in layout))]  # the same number, addressed by letters in both orders
    assert ordered[(2, *(place[letter] for letter in wanted))] == one
    assert np.array_equal(original(ordered, layout), x)
    assert np.shares_memory(ordered, x)  # a view: arrays of any size stay on disk
    assert words(layout) != words("")


@pytest.mark.parametrize(("shape", "kind", "layout"), [
    ((16, 16, 3), "u1", "HWC"), ((16, 16, 1), "f4", "HWC"), ((28, 20, 4), "u1", "HWC"), ((3, 16, 16), "f4", "CHW"),
    ((1, 9, 16), "u2", "CHW"), ((3, 2, 2), "u1", "CHW"), ((2, 2, 3), "f4", "HWC"), ((1, 4, 4), "f4", "CHW"),
    ((32, 32, 8), "f4", "HWC"), ((8, 32, 32), "f4", "CHW"), ((16, 20, 24), "f4", "CHW"), ((16, 16, 16), "f4", "CHW"),
    ((2, 100, 100), "f8", "CHW"), ((64, 32, 2), "f4", "HWC"),
    ((16, 16), "u1", "HW"), ((28, 28), "f4", "HW"), ((20, 36), "u1", "HW"), ((20, 36), "?", "HW"), ((20, 36), "u2", "HW"),
    ((20, 36), "f4", "LD"), ((3, 4), "f8", "LD"), ((1000, 12), "u1", "LD"), ((6, 6), "u1", "LD"), ((8, 100), "u1", "LD"),
    ((7,), "u1", "D"), ((5, 16, 16, 3), "u1", "THWC"), ((16, 3, 32, 32), "u1", "TCHW"), ((), "f4", ""), ((2,) * 5, "f4", ""),
])  # fmt: skip
def test_sizes_speak_for_a_layout(shape: tuple[int, ...], kind: str, layout: str) -> None:
    assert recognised(shape, np.dtype(kind)) == layout


@pytest.mark.parametrize("shape", [(4, 4, 4), (3, 16, 3), (1, 8, 3), (5, 3, 16, 3)])
def test_what_is_as_likely_either_way_is_asked_for(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"a\.npy: items of shape .* may be T?CHW or T?HWC; say which with --layout"):
        recognised(shape, np.dtype("u1"), name="a.npy")
    for asked in ("CHW", "HWC") if len(shape) == 3 else ("TCHW", "THWC"):
        assert recognised(shape, np.dtype("u1"), asked) == asked


def test_what_is_asked_for_comes_first_and_must_have_as_many_axes() -> None:
    assert recognised((16, 16), np.dtype("u1"), "LD") == "LD"
    assert recognised((16, 16, 3), np.dtype("u1"), "THW") == "THW"
    with pytest.raises(DataError, match=r"items of shape \(16, 16\) have 2 axes, and layout HWC has 3"):
        recognised((16, 16), np.dtype("u1"), "HWC")
    assert hint("LD") == " (pictures? --layout HW)"


def test_the_option_has_these_words() -> None:
    assert typing.get_args(Layout) == ("auto", *LAYOUTS)
