"""The autoregressive twin: it sees what is before alone, and every token of a document is scored once."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")

from benchmarks.twin import Twin, bits, next_token
from sfumato.diffusion import Denoiser, Masked


def twin() -> Twin:
    torch.manual_seed(0)
    made = Twin(answers=12, width=16, depth=2, heads=2)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def test_a_token_is_told_those_before_it_alone() -> None:
    net, x, level = twin(), torch.randint(12, (2, 9)), torch.zeros(2)
    changed = x.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 12
    before, after = net(x, level), net(changed, level)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-5)
    assert not torch.allclose(before[:, 6], after[:, 6], atol=1e-3)


def test_its_loss_and_its_bits_are_of_the_next_token() -> None:
    """A network that says of each token that the next is one more, with probability 1/2."""

    def sure(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        right = torch.nn.functional.one_hot((x + 1) % 12, 12).float()
        return torch.where(right > 0, math.log(0.5), math.log(0.5 / 11))

    x = torch.arange(24).reshape(2, 12) % 12
    options: dict[str, Any] = {"rng": None, "z": None, "weight": None, "given": {}, "condition": {}}
    loss = next_token(Denoiser(sure, Masked(12)), x, None, **options)
    assert loss.tolist() == pytest.approx([math.log(2)] * 2)
    documents = [np.arange(10) % 12, np.arange(3), np.arange(40) % 11]
    corpus: Any = SimpleNamespace(
        facts=SimpleNamespace(end=11, window=8), vocabulary=SimpleNamespace(lengths=lambda: np.ones(13, dtype=np.int64))
    )
    scores = bits(sure, corpus, [("a", d) for d in documents], 3)  # type: ignore[arg-type]
    expected = []
    for ids in documents:
        line = [11, *ids.tolist(), 11]
        expected.append(sum(1 if b == (a + 1) % 12 else math.log2(22) for a, b in pairwise(line)))
    assert scores.bits.tolist() == pytest.approx(expected)
    assert scores.bytes.tolist() == [10, 3, 40]
