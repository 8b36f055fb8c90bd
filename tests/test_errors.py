"""What a user can mend ends in one line; what is ours keeps its traceback."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import sfumato
from sfumato import errors
from sfumato.cli import main
from sfumato.errors import DataError, Mendable, Wrong, check, options_meet_the_core


def test_the_lowest_room_imports_nothing_of_the_house():
    tree = ast.parse(Path(errors.__file__).read_text())
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert {name.split(".")[0] for name in modules} <= {*sys.stdlib_module_names}


def test_every_error_of_ours_can_be_mended():
    skipped = {"sfumato.__main__"}
    ours = [
        value
        for module in pkgutil.walk_packages(sfumato.__path__, "sfumato.")
        if module.name not in skipped
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__.startswith("sfumato")
    ]
    public = {value for value in ours if not value.__name__.startswith("_")}
    assert {value.__name__ for value in public} >= {
        "DataError", "RunError", "ConfigError", "CheckpointError", "MetricError", "NonFinite", "Stopped", "NotMet", "Wrong",
    }  # fmt: skip
    assert [value for value in public if not issubclass(value, Mendable)] == []


@dataclass(frozen=True)
class _Part:
    size: int = 3


@dataclass(frozen=True)
class _Whole:
    share: float = 1.5
    part: _Part = _Part()


def test_the_first_rule_that_does_not_hold_is_named():
    whole = _Whole()
    check(whole, (True, "share", "anything"))
    with pytest.raises(Wrong, match=r"^share = 1.5: must be at most 1$"):
        check(whole, (True, "part", "x"), (whole.share <= 1, "share", "at most 1"), (False, "part", "y"))
    with pytest.raises(ValueError, match=r"^part.size = 3: must be even$"):
        check(whole, (whole.part.size % 2 == 0, "part.size", "even"))


def test_the_core_speaks_of_options_where_they_meet():
    with pytest.raises(Wrong, match="k = 0"), options_meet_the_core():
        raise ValueError("k = 0: must be above 0")
    with pytest.raises(DataError), options_meet_the_core():
        raise DataError("a file")
    with pytest.raises(KeyError), options_meet_the_core():
        raise KeyError("ours")


@pytest.mark.parametrize(("error", "shown"), [
    (Wrong("n = 0"), True), (DataError("a"), True), (FileNotFoundError("b"), True), (PermissionError("c"), True),
    (ValueError("shapes (3,) and (4,)"), False), (RuntimeError("d"), False), (IsADirectoryError("e"), False),
])  # fmt: skip
def test_only_what_can_be_mended_loses_its_traceback(error, shown, monkeypatch, capsys: pytest.CaptureFixture[str]):
    from sfumato.jobs import train

    def broken(*_):
        raise error

    monkeypatch.setattr(train, "resume", broken)
    if shown:
        assert main(["resume", "anything"]) == 1
        assert capsys.readouterr().err == f"sfumato: {error}\n"
    else:
        with pytest.raises(type(error)):
            main(["resume", "anything"])


def test_words_that_bring_a_package_work_in_a_clone():
    """The package is on no index by itself: wherever an extra is asked for, the words are those of one function."""
    home = Path(errors.__file__).parent
    wrong = []
    for path in home.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if "pip install" in line and "sfumato" in line.partition("pip install")[2] and path.name != "errors.py":
                wrong.append(f"{path.relative_to(home)}:{number}")
    assert wrong == []
    assert errors.install("text").startswith("pip install -e '.[text]' in the clone")


def test_a_missing_library_of_a_field_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    from sfumato.data import vocabulary

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"tokenizers library: pip install tokenizers$"):
        vocabulary.library()
