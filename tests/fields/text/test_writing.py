"""What is known stays to the byte; holes are found, sized and refused by name; training sees prompts and holes."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.data.errors import DataError
from sfumato.data.vocabulary import Vocabulary
from sfumato.diffusion import (
    Confidence,
    Denoiser,
    EntropyBound,
    Masked,
    Streams,
    blocks,
    infill,
    key,
    loss,
    sample,
    uniform,
)
from sfumato.diffusion.times import stratified
from sfumato.fields.text.contexts import Contexts
from sfumato.fields.text.writing import Sharpened, filled, prompted

TEXT = b"def area(r):\n    return 3.14 * r * r\n\n\ndef length(r):\n\treturn 6.28 * r\r\n" * 4


@cache
def vocabulary() -> Vocabulary:
    return Vocabulary.fit([TEXT], 300)


def guess(seed: int = 0) -> Denoiser:
    """A network of random opinions, whatever it sees."""
    words = vocabulary()

    def network(x: torch.Tensor, level: torch.Tensor, **condition: Any) -> torch.Tensor:
        return 3 * torch.randn(*x.shape, len(words) + 1, generator=torch.Generator().manual_seed(seed))

    return Denoiser(network, Masked(words.mask))


def write(layout: Any, times: torch.Tensor, solver: Any) -> bytes:
    x = torch.from_numpy(layout.tokens)[None]
    known = infill(guess(), x, torch.from_numpy(layout.known)[None])
    rng = Streams(key("sample"), range(1))
    drawn = sample(known, known.process.prior(torch.zeros_like(x), rng), times, solver, rng)
    return layout.written(drawn[0].numpy(), vocabulary())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    parts=st.lists(
        st.one_of(st.binary(max_size=20), st.sampled_from([TEXT[:40], TEXT[40:77]])), min_size=2, max_size=4
    ),
    hole=st.integers(1, 6),
    entropy=st.booleans(),
)
def test_infill_keeps_what_is_known_to_the_byte(parts: list[bytes], hole: int, entropy: bool) -> None:
    """Whatever the network thinks, in any order of revealing."""
    parts = [part.replace(b"<", b"(") for part in parts]
    layout = filled(b"<fill>".join(parts), vocabulary(), 64, hole)
    text = write(layout, uniform(None, 4), EntropyBound(1.0) if entropy else Confidence())  # type: ignore[arg-type]
    assert text.startswith(parts[0])
    assert text.endswith(parts[-1])
    place = 0
    for part in parts:
        place = text.index(part, place) + len(part)
    assert vocabulary().mask not in vocabulary().encode(text)


def test_a_hole_has_the_length_it_says() -> None:
    layout = filled(b"a <fill:3> b <fill> c", vocabulary(), 64, 5)
    assert (~layout.known).sum() == 8
    edges = np.flatnonzero(np.diff(layout.known.astype(int)))
    assert np.diff(edges)[[0, 2]].tolist() == [3, 5]
    assert layout.tokens[0] == layout.tokens[-1] == vocabulary().end


def test_what_a_window_cannot_hold_is_put_back_untouched() -> None:
    text = TEXT + b"x = <fill:4>\n" + TEXT
    layout = filled(text, vocabulary(), 48, 8)
    assert len(layout.tokens) == 48
    assert (~layout.known).sum() == 4
    drawn = np.full(48, vocabulary().encode(b"q")[0])
    assert layout.written(drawn, vocabulary()) == text.replace(b"<fill:4>", b"qqqq")
    holes = np.flatnonzero(~layout.known)
    assert 15 < holes[0] < 30  # something of both sides is in sight


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"no hole", "the text has no hole: mark what is to be written with <fill>"),
        (b"<fill:0>", "hole 1 is 0 tokens long: must be from 1 to 64, the window of this run"),
        (b"<fill> <fill:65>", "hole 2 is 65 tokens long"),
        (b"<fill>" + TEXT + b"<fill>", "from the first hole to the end of the last there are"),
    ],
)
def test_holes_that_cannot_be_filled(text: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        filled(text, vocabulary(), 64, 8)


@pytest.mark.parametrize("times", [uniform(None, 3), blocks(48, 16, 2)])  # type: ignore[arg-type]
def test_a_prompt_is_gone_on_from(times: torch.Tensor) -> None:
    for prompt in (b"", b"def length(", TEXT):
        layout = prompted(prompt, vocabulary(), 48)
        assert len(layout.tokens) == 48
        assert (~layout.known).sum() >= 24
        assert write(layout, times, Confidence()).startswith(prompt)


def test_a_text_ends_with_its_end() -> None:
    words = vocabulary()
    layout = prompted(b"r", words, 8)
    body = np.concatenate([layout.tokens[:2], words.encode(b"*"), [words.end], words.encode(b"r r")])[:8]
    drawn = np.pad(body, (0, 8 - len(body)), constant_values=words.end)
    assert layout.written(drawn, words) == b"r*"
    with pytest.raises(DataError, match="length = 1: must be at least 2"):
        prompted(b"", words, 1)


def test_sharpening_is_a_temperature() -> None:
    """Log-odds are divided by it; what is seen stays certain; the end is barred where it is barred."""
    base, words = guess(), vocabulary()
    x = torch.full((2, 3), words.mask)
    x[:, 0] = 7
    t = torch.tensor(0.5)
    plain, sharp = base(x, t).x, Sharpened(base, 0.5, words.end, torch.tensor([True, False]))(x, t).x
    odds = plain[..., 5] - plain[..., 9]
    assert torch.allclose((sharp[..., 5] - sharp[..., 9])[:, 1:], odds[:, 1:] / 0.5, rtol=1e-4)
    p = torch.softmax(sharp.double(), -1)
    assert p[:, 0, 7].tolist() == [1, 1]
    assert (p[0, 1:, words.end] == 0).all()
    assert (p[1, 1:, words.end] > 0).all()


def test_training_sees_prompts_holes_and_plain_text() -> None:
    """In the declared shares; a given token has t = 0, and changes neither by noise nor in the loss."""
    rows, length = 4000, 12
    rng, x = Streams(key("test"), range(rows)), torch.full((rows, length), 5)
    u = stratified(rng, torch.arange(rows), rows)
    t = Contexts(prefix=0.3, hole=0.2, low=0.01).draw(u, rng, Masked(300), {"x": x})
    given = t == 0
    open_ = ~given
    assert open_.any(1).all()
    level = t.max(1, keepdim=True).values
    assert torch.equal(t, torch.where(open_, level, 0.0))  # one time for all that is open
    assert 0.01 <= float(t[open_].min()) < 0.02
    assert float(t.max()) <= 1
    edges = open_.int().diff(dim=1)
    assert (edges.abs().sum(1) <= 2).all()  # one run
    # a run begins at each of the L places alike, and ends at each of those after it alike
    to_the_end = [1 / (length - first) / length for first in range(length)]
    for share, what in (
        (0.5 + 0.3 / length + 0.2 * to_the_end[0], open_.all(1)),
        (0.3 * (1 - 1 / length) + 0.2 * sum(to_the_end[1:]), given[:, 0] & open_[:, -1]),
        (0.2 * (1 - sum(to_the_end)), given[:, -1]),
    ):
        assert float(what.double().mean()) == pytest.approx(share, abs=4 * math.sqrt(share / rows))
    process = Masked(300)
    assert torch.equal(process.interpolate(x, process.prior(x, rng), t)[given], x[given])


def test_given_tokens_add_nothing_to_the_loss() -> None:
    """A denoiser that is right wherever something is open, and wrong about all that is given."""
    x = torch.randint(20, (64, 10), generator=torch.Generator().manual_seed(0))
    rng = Streams(key("test"), range(64))
    t = Contexts(prefix=0.5, hole=0.5).draw(stratified(rng, torch.arange(64), 64), rng, Masked(20), {"x": x})
    right = 200.0 * torch.nn.functional.one_hot(torch.where(t > 0, x, 0), 20)
    assert float(loss(Denoiser(lambda shown, level: right, Masked(20)), x, t, rng).abs().max()) < 1e-6


@pytest.mark.parametrize("options", [{"prefix": -0.1}, {"prefix": 0.8, "hole": 0.3}, {"low": 0.0}])
def test_shares_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Contexts(**options)
