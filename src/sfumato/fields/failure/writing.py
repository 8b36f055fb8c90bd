"""Disturbances as files: .csv, a line each, or .npz. The simulator is not asked."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sfumato.fields.failure.facts import FailureFacts
from sfumato.fields.failure.law import Law


def names(facts: FailureFacts) -> list[str]:
    """A name for each number of a disturbance: d0, d1, ..., or d0.1 for step 0, channel 1."""
    if len(facts.shape) == 1:
        return [f"d{i}" for i in range(facts.n)]
    return [f"d{i}.{j}" for i in range(facts.shape[0]) for j in range(facts.shape[1])]


def write(facts: FailureFacts, things: Sequence[tuple[int, np.ndarray]], out: Path) -> Path:
    """Disturbances (n,), standard normal, by their numbers: physical numbers and log-likelihood, in the order of the numbers."""
    from sfumato.fields.failure.cases import log_likelihood

    ordered = sorted(things, key=lambda pair: pair[0])
    numbers, x = [number for number, _ in ordered], np.stack([each for _, each in ordered])
    physical, told = Law.of(facts.shape, facts.law).physical(x), log_likelihood(x)
    if out.suffix.lower() == ".npz":
        with out.open("wb") as file:
            np.savez(file, x=x, physical=physical, log_likelihood=told)
        return out
    text = io.StringIO()
    text.write(",".join(["id", "log_likelihood", *names(facts)]) + "\n")
    for number, one, numbers_of in zip(numbers, told, physical.reshape(len(x), -1), strict=True):
        text.write(",".join([str(number), repr(float(one)), *(repr(float(each)) for each in numbers_of)]) + "\n")
    out.write_text(text.getvalue(), encoding="utf-8")
    return out
