"""The floors of the house hold, and the linter that watches them sees what would break them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sfumato

pytest.importorskip("importlinter")
ROOT = Path(__file__).parents[1]
SOURCE = Path(sfumato.__file__).parent
PLANTED = {
    "a field that knows another": ("fields/images/data.py", "from sfumato.fields.policy import data", "Fields do not know each other"),
    "inside a function too": ("fields/policy/data.py", "def f():\n    import sfumato.fields.images.measure", "Fields do not know"),
    "shared code that knows a field": ("jobs/report.py", "from sfumato.fields.images.recipe import Images", "rooms below it"),
    "a hint alone": ("training/loop.py", "if TYPE_CHECKING:\n    from sfumato.fields.policy.recipe import *", "rooms below it"),
    "the command too": ("jobs/sample.py", "import sfumato.cli", "rooms below it"),
    "a step upstairs": ("data/sheet.py", "from sfumato.training.run import Run", "rooms below it"),
    "a circle in a room": ("diffusion/tree.py", "from sfumato.diffusion.generate import Blanks", "No circles in any room"),
    "a circle in a field": ("fields/policy/world.py", "from sfumato.fields.policy import recipe", "No circles in any room"),
    "a core that needs more than torch": ("diffusion/rng.py", "import numpy", "The core imports torch and nothing else"),
}  # fmt: skip


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the package with the contracts that it is held to."""
    shutil.copytree(SOURCE, tmp_path / "src" / "sfumato", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def linted(house: Path) -> tuple[int, str]:
    """The linter's exit status and words, in a process of its own: it imports the package to find it."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    settings = {**os.environ, "PYTHONPATH": str(house / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=house, env=settings, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def test_the_contracts_are_kept(house: Path):
    code, said = linted(house)
    assert code == 0, said
    assert "4 kept, 0 broken" in said


@pytest.mark.parametrize("what", PLANTED)
def test_what_would_break_them_is_seen(what: str, house: Path):
    file, line, contract = PLANTED[what]
    path = house / "src" / "sfumato" / file
    path.parent.mkdir(exist_ok=True)
    text = path.read_text() if path.exists() else ""
    path.write_text(f"{text}\n{line}\n" if text else f"from typing import TYPE_CHECKING\n{line}\n")
    if what == "a circle in a field":
        recipe = path.parent / "recipe.py"
        recipe.write_text(recipe.read_text() + "\nimport sfumato.fields.policy.world\n")
    code, said = linted(house)
    assert code == 1
    broken = [row for row in said.splitlines() if " BROKEN" in row]  # a step upstairs closes a circle as well
    assert [row for row in broken if contract in row], said
