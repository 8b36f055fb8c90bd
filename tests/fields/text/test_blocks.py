"""Texts of any length, block after block: the law stays the chain's, what stands is read once, and a prompt can be stressed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from sfumato.cli import main
from sfumato.errors import Wrong
from sfumato.fields.text.options import TextAsk
from sfumato.fields.text.queries import asked, by_blocks
from sfumato.jobs.model import Model, load
from sfumato.jobs.walk import Walk
from tests.fields.text.markov import bytes_alone, chain, told
from tests.fields.text.test_job import TRAIN, folder


def texts(model: Model, ask: TextAsk, count: int) -> list[bytes]:
    queries = asked(ask, bytes_alone(), model.facts, count)
    return [
        thing.text
        for drawn in model.recipe.draw(model, queries, range(count))
        for thing in model.recipe.things(model, queries, drawn)
    ]


@pytest.mark.parametrize(("block", "length"), [(5, 48), (16, 40), (1, 20)])
def test_blocks_of_any_size_write_the_law_of_the_chain(block: int, length: int) -> None:
    """One token a step is exact, and a chain needs no more than the token before: moves are counted, chi-square."""
    network = chain(seed=1)
    model = told(network, window=17, walk=Walk(solver="random_order", steps=17, batch=100))
    found = texts(model, TextAsk(prompt="a", length=length, block=block, temperature=1.0), 100)
    assert all(len(text) == length - 1 for text in found)
    counts = np.zeros((3, 3))
    for text in found:
        for a, b in itertools.pairwise(text):
            counts[network.letters.index(a), network.letters.index(b)] += 1
    law = network.moves[:3, :3] / network.moves[:3, :3].sum(1, keepdims=True)
    expected = counts.sum(1, keepdims=True) * law
    assert float(((counts - expected) ** 2 / expected).sum()) < 22.5  # of 6 degrees of freedom, once in a thousand


def test_a_prompt_is_stressed_by_leaving_behind_what_would_be_without_it() -> None:
    """The first token after b has the law p(. | b)^w p(.)^(1 - w) of the chain."""
    network, draws, w = chain(seed=1), 1500, 2.5
    model = told(network, window=12, walk=Walk(solver="random_order", steps=12, batch=500))
    ask = TextAsk(prompt="b", length=6, block=1, temperature=1.0, stress=w)
    found = texts(model, ask, draws)
    # without the prompt: one letter after the end, then another one, of which the first is not seen
    start, moves = network.moves[-1], network.moves
    law = moves[1] ** w * (start @ moves) ** (1 - w)
    law = law[:3] / law.sum()
    counts = np.array([sum(text[1:2] == network.letters[k : k + 1] for text in found) for k in range(3)])
    assert counts.sum() == draws
    assert float(((counts - draws * law) ** 2 / (draws * law)).sum()) < 13.8  # of 2 degrees, once in a thousand
    plain = moves[1][:3] / moves[1][:3].sum()
    assert float(((counts - draws * plain) ** 2 / (draws * plain)).sum()) > 30
    with pytest.raises(Wrong, match="stress = 2: must be 1 for holes"):
        TextAsk(around=Path("x.py"), stress=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("blocks")
    assert (
        main(["train", "text", str(folder(place / "garden")), *TRAIN, "--steps", "8", "--out", str(place / "run")]) == 0
    )
    return place / "run"


def test_what_stands_is_read_once_a_block(run: Path) -> None:
    """The network is shown 4 tokens a step, and what is before them once."""
    model = load(run, Walk(batch=1, steps=32, solver="random_order"))
    network: Any = next(module for module in model.denoiser.network.modules() if hasattr(module, "embed"))
    seen: list[int] = []
    network.embed.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]))
    queries = asked(TextAsk(length=13, block=4), model.recipe.vocabulary(model.run), model.facts, 1)  # type: ignore[attr-defined]
    *_, x = by_blocks(model, queries, [0])
    blocks = x.shape[1] // 4
    assert blocks >= 1
    assert seen == [size for i in range(blocks) for size in (1 + 4 * i, *[4] * 4)]


def test_a_text_is_written_as_it_comes_and_is_the_first_sample(
    run: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    words = ["--prompt", "basil = ", "--length", "50", "--block", "8", "--seed", "3", "--batch", "1", "--steps", "8"]
    assert main(["text", "write", str(run), *words]) == 0
    told = capsysbinary.readouterr()
    assert told.out.startswith(b"basil = ")
    assert b"written" in told.err
    assert main(["sample", str(run), "-n", "1", *words, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "0000.py").read_bytes() == told.out
    assert main(["text", "write", str(run), "--prompt", "a", "--prompt-file", "b"]) == 1
    assert b"prompt_file" in capsysbinary.readouterr().err
