"""The page of a run: one file that shows what lies in the run, whatever its names and words hold."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.jobs.page import MOST_BYTES, write_page
from sfumato.training.run import Run


class Read(HTMLParser):
    """The tags and the text of a page, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def made(folder: Path) -> Run:
    run = Run(folder)
    run.create()
    (folder / "README.md").write_text("# x\n\n- 12 <b>pictures</b> & 3 held out\n")
    with (folder / "log.jsonl").open("w") as log:
        for step in range(1, 2001):
            log.write(json.dumps({"step": step, "loss": 3 / step**0.5}) + "\n")
        log.write(json.dumps({"step": 2000, "held_out": 0.5}) + "\n" + "half a li")
    (folder / "metrics.json").write_text(
        json.dumps({"table": "kernel <distance> 1", "remarks": ["<script>alert(1)</script>"]})
    )
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "report.png")
    for step in (10, 20, 30):
        Image.fromarray(np.full((4, 4), step, np.uint8)).save(run.samples / f"step-{step:08d}.png")
    return run


def test_a_page_shows_what_lies_in_the_run_and_loads_nothing(tmp_path: Path):
    page = Read(write_page(made(tmp_path)).read_text())
    assert "12 <b>pictures</b> & 3 held out" in page.words
    assert "kernel <distance> 1" in page.words
    assert "<script>alert(1)</script>" in page.words
    assert "script" not in page.tags
    assert page.tags.count("img") == 4
    assert "polyline" in page.tags
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)
    assert "step 2000" in page.words
    assert "circle" in page.tags  # one held-out loss alone is no line


def test_a_run_with_nothing_in_it_has_a_page_too(tmp_path: Path):
    run = Run(tmp_path)
    run.create()
    assert Read(write_page(run).read_text()).words.startswith(tmp_path.name)


def test_what_is_damaged_or_too_large_is_left_out(tmp_path: Path):
    run = made(tmp_path)
    (tmp_path / "metrics.json").write_text("[1, 2")
    (tmp_path / "huge.png").write_bytes(b"\0" * (MOST_BYTES + 1))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('\n{"step": 2001, "loss": NaN}\n{"step": 2002, "loss": "none"}\n')
    page = Read(write_page(run).read_text())
    assert "Measured" not in page.words
    assert "huge.png is too large" in page.words
    assert "nan" not in page.words.lower()
    assert (tmp_path / "report.html").stat().st_size < MOST_BYTES
