"""The verbs of the README in other orders than hers: none spoils what another one needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .small import sfumato, write_data

SHORT = ["--batch", "8", "--steps", "4", "--previews", "0", "--snapshots", "2", "--threads", "1"]
SMALL = [*SHORT, "--network.width", "16", "--network.depth", "1"]
ORDERS = [
    "train evaluate distill sample evaluate-map resume",
    "train sample sample evaluate-samples distill",
    "train distill evaluate sample-map sample sample-map evaluate-map",
    "train resume sample evaluate-samples sample evaluate resume",
    "train sample distill evaluate-samples sample-map like evaluate-samples",
    "inspect train inspect evaluate evaluate distill distill-again",
]


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_the_verbs(order: str, tmp_path: Path):
    data = write_data("classes", tmp_path)
    run, out = tmp_path / "run", tmp_path / "samples"
    words = {
        "inspect": ["inspect", *data, *SMALL],
        "train": ["train", *data, *SMALL, "--held-out", "0.4", "--out", run],
        "resume": ["resume", run],
        "sample": ["sample", run, "-n", 14, "--steps", 2, "--out", out],
        "evaluate": ["evaluate", run, "--steps", 2, "--quick"],
        "evaluate-samples": ["evaluate", run, "--samples", out],
        "distill": ["distill", run, *SHORT],
        "distill-again": ["distill", run, *SHORT, "--out", tmp_path / "other"],
        "sample-map": ["sample", tmp_path / "run-map", "-n", 13, "--steps", 1, "--out", out],
        "evaluate-map": ["evaluate", tmp_path / "run-map", "--quick"],
        "like": ["sample", tmp_path / "run-map", "--like", out / "0003.png", "--out", tmp_path / "again"],
    }
    for verb in order.split():
        assert sfumato(*words[verb]) == 0, verb
    last = order.split()[-1]
    if last.startswith("evaluate"):  # and it measured what it was told to
        found = json.loads(((tmp_path / "run-map" if last == "evaluate-map" else run) / "metrics.json").read_text())
        assert found["metrics"]["kernel_distance"]["n"] == (13 if last == "evaluate-samples" else 21)
