"""The measures as a whole, on models whose numbers are known: an oracle, and one that knows nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.diffusion import Denoiser, Masked
from sfumato.fields.text.data import Corpus
from sfumato.fields.text.files import Document
from sfumato.fields.text.measure import bits, choose, facts, holes
from sfumato.fields.text.options import Measured
from sfumato.metrics.distances import MetricError
from sfumato.metrics.table import Row

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]


@cache
def corpus(held_out: float = 0.3) -> Corpus:
    """Documents in which every line is `name = number`, and the number is told by the name."""
    documents = [
        Document(
            f"{i}.py",
            "".join(f"{WORDS[(i * j * j + 3 * j) % 8]}_{i} = {(i * j * j + 3 * j) % 8}\n" for j in range(20)).encode(),
        )
        for i in range(40)
    ]
    return Corpus.of(documents, vocab=320, window=48, held_out=held_out, tell=lambda _: None)


@dataclass(frozen=True)
class Oracle:
    """Knows the held-out stream: looks up what is shown in it, and is sure."""

    of: Corpus

    def __call__(self, x: torch.Tensor, level: torch.Tensor, **condition: Any) -> torch.Tensor:
        end, mask = self.of.facts.end, self.of.facts.mask
        streams = torch.from_numpy(self.of.held_out.astype("int64"))
        rows = streams.unfold(0, x.shape[1], 1)  # (N, L)
        out = torch.zeros(*x.shape, end + 1)
        for i, row in enumerate(x):
            fits = rows[((row == rows) | (row == mask)).all(1)]
            out[i] = torch.nn.functional.one_hot(fits, end + 1).float().mean(0) if len(fits) else 1 / (end + 1)
        return out.clamp_min(1e-9).log()


def nothing(x: torch.Tensor, level: torch.Tensor, **condition: Any) -> torch.Tensor:
    return torch.zeros(*x.shape, corpus().facts.end + 1)


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.metric: row for row in rows}


def test_an_oracle_fills_every_hole_and_ignorance_none() -> None:
    of, asked = corpus(), Measured(holes=40)
    for network, low, high in ((Oracle(of), 0.9, 1.0), (nothing, 0.0, 0.1)):
        told: list[tuple[str, int, int]] = []
        found = by_name(
            holes(of, Denoiser(network, Masked(of.facts.mask)), asked, "cpu", lambda *l, told=told: told.append(l))
        )
        for size in (1, 3, 8):
            assert low <= found[f"holes_of_{size}_right"].value <= high
            assert found[f"holes_of_{size}_right"].low <= found[f"holes_of_{size}_right"].value
        assert told[-1] == ("holes of 8", 40, 40)
    assert 0.1 < found["... of 1 by a trigram"].value < 0.95


@dataclass(frozen=True)
class Halved(Oracle):
    """An oracle that says the next token of the vocabulary at every other place."""

    def __call__(self, x: torch.Tensor, level: torch.Tensor, **condition: Any) -> torch.Tensor:
        out = super().__call__(x, level)
        out[:, ::2] = out[:, ::2].roll(1, -1)
        return out


def test_a_hole_is_right_when_all_of_it_is() -> None:
    of = corpus()
    found = by_name(holes(of, Denoiser(Halved(of), Masked(of.facts.mask)), Measured(holes=40), "cpu", lambda *l: None))
    assert 0.2 < found["holes_of_1_right"].value < 0.8
    assert found["holes_of_3_right"].value == 0.0


def test_ignorance_costs_the_logarithm_of_the_vocabulary() -> None:
    of = corpus()
    found = by_name(bits(of, Denoiser(nothing, Masked(of.facts.mask)), Measured(span=8), "cpu", lambda *l: None))
    held = list(of.texts("held_out"))
    tokens, size = sum(len(ids) + 1 for _, ids in held), of.facts.held_out.bytes
    expected = tokens * torch.tensor(float(of.facts.end + 1)).log2().item() / size
    assert found["bits_per_byte"].value == pytest.approx(expected, rel=1e-4)
    assert found["... of 3-gram of tokens"].value < found["... of 1-gram of tokens"].value < expected
    assert {"... of xz", "... of gzip", "... of xz after the training text"} <= set(found)


def test_whole_documents_are_chosen_and_no_more_than_asked_for() -> None:
    of = corpus()
    sizes = {name: len(ids) for name, ids in of.texts("held_out")}
    every = choose(of, 10**9)
    assert {name for name, _ in every} == set(sizes)
    few = choose(of, 3 * max(sizes.values()))
    assert 2 <= len(few) < len(every)
    assert sum(len(ids) for _, ids in few) <= 3 * max(sizes.values())
    assert [name for name, _ in few] == [name for name, _ in every[: len(few)]]
    with pytest.raises(MetricError, match="0 documents are held out"):
        choose(corpus(0.0), 100)


def test_facts_of_samples() -> None:
    of = corpus()
    learned = [of.vocabulary.decode(ids) for _, ids in of.texts("train")]
    copied = by_name(facts(of, learned[:4] * 2))
    assert copied["parses"].value == copied["parses"].floor == 1
    assert copied["distinct"].value == 0.5
    assert copied["copied"].value == copied["half_is_copied"].value == 1
    assert copied["sound"].value == 0  # each stands there twice, and in training
    assert copied["copied"].floor is not None
    assert copied["copied"].floor < 0.9
    fresh = by_name(facts(of, [b"omega = [1, 2]\n" * 3, b"if omega:\n    print(3)\n", b"else = 4\n"]))
    assert fresh["parses"].value == fresh["sound"].value == 2 / 3
    assert by_name(facts(of, [b"omega = [1, 2]\n" * 3] * 2))["sound"].value == 0  # twice the same
    assert by_name(facts(of, learned[:4]))["sound"].value == 0  # each once, and copied
    wild = by_name(facts(of, [b"= )" * 40 + b"\nx = 1\n", b"([" * 60 + b"%d\n"]))
    assert wild["parses"].value == wild["copied"].value == 0
    assert wild["distinct"].value == 1


@pytest.mark.parametrize("options", [{"span": 0}, {"draws": 0}, {"tokens": 0}, {"holes": -1}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be (at least 1|0 or more)"):
        Measured(**options)
