"""The page of a run: one file that shows what lies in the run, whatever its names and words hold."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.jobs.page import MOST_BYTES, STYLE, write_look, write_page
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


def test_what_was_inspected_is_a_page_line_by_line(tmp_path: Path):
    text = "3 pictures in <b>, 1 broken\n  broken: a&b.png: it is a PDF\nsizes     8x8 (3)\n          and more\n"
    text += "long words that have no label"
    write_look(tmp_path / "look.html", "<photos>", text, b"PNG of old")
    page = Read((tmp_path / "look.html").read_text())
    for words in (
        "<photos>",
        "3 pictures in <b>, 1 broken",
        "broken: a&b.png: it is a PDF",
        "8x8 (3)",
        "and more",
        "have no label",
    ):
        assert words in page.words
    assert page.tags.count("dt") == page.tags.count("dd") == 4
    assert page.tags.count("li") == page.tags.count("img") == 1
    assert not {"b", "photos", "script", "link"} & set(page.tags)
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)


def test_a_page_suits_light_and_dark_and_tells_its_curves_apart_without_colour(tmp_path: Path):
    text = write_page(made(tmp_path)).read_text()
    assert "prefers-color-scheme:dark" in text
    light, dark = STYLE.split("@media")
    for name in ("--ink", "--paper", "--shade", "--quiet", "--line"):
        assert f"{name}:" in light
        assert f"{name}:" in dark
    assert "thin line: loss of the training batches" in text
    assert "thick line with dots: loss on held-out items, last 0.5" in text
    # readable: every ink on its paper has a contrast of 4.5 at least (WCAG 2.1, 1.4.3)
    for half in (light, dark.partition("\n")[0]):
        shades = dict(re.findall(r"(--\w+):(#\w+)", half))
        for ink in ("--ink", "--quiet", "--line"):
            for paper in ("--paper", "--shade") if ink == "--ink" else ("--paper",):
                assert contrast(shades[ink], shades[paper]) >= 4.5, (ink, paper)


def contrast(one: str, other: str) -> float:
    """Of two colours #rgb or #rrggbb: the ratio of their relative luminances (WCAG 2.1)."""

    def luminance(colour: str) -> float:
        digits = colour.removeprefix("#")
        digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
