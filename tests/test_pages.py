"""The pages: every link leads somewhere, every test and command that a page names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sfumato.jobs.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
FENCE = re.compile(r"```.*?```", re.DOTALL)


def anchor(heading: str) -> str:
    """How a heading is linked to."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def dead(page: Path, text: str) -> list[str]:
    """Links of a page to files or headings that are not there."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, part = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists():
            found.append(link)
        elif part and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", target.read_text(encoding="utf-8")), re.MULTILINE)
            found += [link] * (part not in map(anchor, headings))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_dead(page: Path):
    assert dead(page, page.read_text(encoding="utf-8")) == []


def test_dead_links_are_seen():
    page = ROOT / "README.md"
    assert dead(page, "[a](docs/none.md) [b](#nowhere) [c](docs/images.md#nothing) [d](docs/images.md)") == [
        "docs/none.md", "#nowhere", "docs/images.md#nothing",
    ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page: Path):
    for file, _, name in re.findall(r"\b(tests/[\w/]+\.py)(::(\w+))?", page.read_text(encoding="utf-8")):
        path = ROOT / file
        assert path.is_file(), file
        assert not name or re.search(rf"^(async )?def {name}\b", path.read_text(), re.MULTILINE), f"{file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_is_one(page: Path):
    fields = {path.name for path in (ROOT / "src" / "sfumato" / "fields").iterdir() if path.is_dir()}
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for word in re.findall(r"^sfumato ([\w-]+)", block, re.MULTILINE):
            assert word in {*VERBS, *fields} or word.startswith("-"), f"sfumato {word}"
