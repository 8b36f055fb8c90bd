"""Fields are found by being there, named without being imported, and known to nothing that is shared."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sfumato.fields
from sfumato.jobs import find

SOURCE = Path(sfumato.fields.__file__).parents[1]
SHARED = [SOURCE / "cli.py", SOURCE / "networks" / "__init__.py", SOURCE / "networks" / "kinds.py"]
SHARED += [path for room in ("jobs", "training", "serving") for path in sorted((SOURCE / room).glob("**/*.py"))]
FIELDS = sorted(path.parent.name for path in (SOURCE / "fields").glob("*/recipe.py"))

MEANT = {"serving/faces.py": {"text"}}
"""Words that are not meant as fields: a key of the answers that other servers made usual."""


def said(text: str) -> set[str]:
    """Every string but docstrings, and every name imported from us in a source, the parts of dotted ones too."""
    words: set[str] = set()
    tree = ast.parse(text)
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # words about a thing, not for it
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            words |= {node.value, *node.value.split(".")}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            parts = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            dotted = [part.split(".") for part in parts]
            if any(first == "sfumato" for first, *_ in dotted):  # rich.text is no field of ours
                words |= {word for part in dotted for word in part}
    return words


@pytest.mark.parametrize("path", SHARED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_shared_knows_a_field(path: Path):
    assert said(path.read_text()).isdisjoint({*FIELDS} - MEANT.get(f"{path.parent.name}/{path.name}", set()))


def test_the_fields_of_a_bare_command_stand_in_one_place():
    """Two words, in fields/__init__.py; and nothing else there."""
    text = (SOURCE / "fields" / "__init__.py").read_text()
    assert said(text) & set(FIELDS) == {sfumato.fields.PLAIN, sfumato.fields.DEMO}
    assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.FunctionDef))]


@pytest.mark.parametrize("text", [
    "from sfumato.fields.images import recipe", "import sfumato.fields.policy.recipe", "x = {'policy': 1}",
    "from sfumato.fields import images", "import_module('sfumato.fields.images.recipe')", "if name == 'images': pass",
])  # fmt: skip
def test_the_search_finds_a_field_that_is_known(text: str):
    assert not said(text).isdisjoint({"images", "policy"})


def test_a_word_about_a_field_is_no_knowledge_of_it():
    assert said('"""Of images."""\nx = 1\n"""images"""').isdisjoint({"images"})


def test_a_name_imports_nothing_and_a_field_itself_alone():
    code = (
        "import sys\nfrom sfumato.jobs import find\n"
        "find.names(); [find.line(name) for name in find.names()]; find.missing('policy')\n"
        "print([m for m in sys.modules if m.startswith('sfumato.fields.')])\n"
        "find.kind('images')\n"
        "print([m for m in sys.modules if m.startswith('sfumato.fields.policy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n[]\n", done.stderr


@pytest.fixture
def weaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A field in a folder of its own, beside ours."""
    folder = tmp_path / "weaving"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Cloth: what warp and weft make.\n\nMore of it."""\n')
    (folder / "requires.txt").write_text("numpy>=2.0\n\nno-such-loom>=3,<4\nno-such-yarn\n")
    (folder / "recipe.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom sfumato.jobs.recipe import Recipe\n\n\n"
        "@dataclass(frozen=True)\nclass Weaving(Recipe):\n"
        "    verbs: ClassVar[dict[str, str]] = {'spin': 'sfumato.fields.weaving.recipe:Spin'}\n"
        "    threads: int = 3\n\n\n@dataclass(frozen=True)\nclass Spin:\n    turns: int = 2\n\n"
        "    def __call__(self) -> int:\n        print('spun', self.turns)\n        return 0\n\n\nRECIPE = Weaving\n"
    )
    monkeypatch.setattr(sfumato.fields, "__path__", [*sfumato.fields.__path__, str(tmp_path)])
    for known in (find._folders, find._installed, find.names):
        known.cache_clear()
    yield "weaving"
    for name in [name for name in sys.modules if name.startswith("sfumato.fields.weaving")]:
        del sys.modules[name]
    monkeypatch.undo()
    for known in (find._folders, find._installed, find.names):
        known.cache_clear()


def test_a_folder_is_a_field(weaving: str, capsys: pytest.CaptureFixture[str]):
    from sfumato.cli import main

    assert find.names() == tuple(sorted({*FIELDS, weaving}))
    assert find.line(weaving) == "Cloth: what warp and weft make."
    assert find.missing(weaving) == ("no-such-loom>=3,<4", "no-such-yarn")
    assert find.name_of(find.kind(weaving)()) == weaving
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Cloth: what warp and weft" in " ".join(capsys.readouterr().out.split())
    assert main([weaving, "spin", "--turns", "5"]) == 0
    assert capsys.readouterr().out == "spun 5\n"
    assert main([weaving, "knit"]) == 1
    assert capsys.readouterr().err == "sfumato: weaving has no verb 'knit'; it has spin\n"
    assert main(["spin"]) == 0
    assert "sfumato spin is now `sfumato weaving spin`" in capsys.readouterr().err
