"""The contract of a field looks after itself: names that would clash are refused when the class is made."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sfumato.errors import Wrong
from sfumato.jobs.facts import Facts
from sfumato.jobs.recipe import Data, Recipe
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.run import Run, RunError

METHODS = [name for name in vars(Recipe) if not name.startswith("_")]
SAMPLE = ["run", "n", "out", "like", "format", "walk", "seed", *Walk.__dataclass_fields__, *Drawing.__dataclass_fields__]


def options(name: str, *fields: str) -> type:
    """A dataclass of these options."""
    return make_dataclass(name, [(field, "int", 0) for field in fields], frozen=True)


@pytest.mark.parametrize("name", METHODS)
def test_no_option_bears_a_name_of_the_contract(name: str):
    with pytest.raises(TypeError, match=rf"Weaving: the option '{name}' bears the name .*; rename it"):
        type("Weaving", (Recipe,), {"__annotations__": {name: "int"}, name: 3})


def test_what_the_contract_knows_may_be_said_anew():
    """An attribute of the class (ClassVar, as text or not) and a method are no options."""
    notes = {"formats": "ClassVar[tuple[str, ...]]", "verbs": ClassVar[dict], "threads": "int"}
    made = type("Weaving", (Recipe,), {"__annotations__": notes, "formats": (".txt",), "verbs": {}, "threads": 3,
                                       "walk": lambda self, name="usual": Walk(steps=3)})  # fmt: skip
    assert dataclass(frozen=True)(made)(threads=5).walk().steps == 3


@pytest.mark.parametrize("name", SAMPLE)
def test_no_option_of_ask_is_one_of_sample(name: str):
    with pytest.raises(TypeError, match=rf"Weaving.Ask: the option '{name}' is one of `sfumato sample` already; rename it"):
        type("Weaving", (Recipe,), {"Ask": options("Ask", "pattern", name)})


@pytest.mark.parametrize("name", ["run", "walk", "pattern", *Walk.__dataclass_fields__, *Drawing.__dataclass_fields__])
def test_no_option_of_measure_is_one_of_evaluate_or_of_ask(name: str):
    parts: dict[str, Any] = {"Ask": options("Ask", "pattern"), "Measure": options("Measure", "bits", name)}
    with pytest.raises(TypeError, match=rf"Weaving.Measure: the option '{name}' is one of `sfumato evaluate` already"):
        type("Weaving", (Recipe,), parts)


def test_a_measure_may_say_how_many_and_of_what():
    made = type("Weaving", (Recipe,), {"Measure": options("Measure", "n", "data", "out"), "Ask": options("Ask", "pattern")})
    assert made.Measure().n == 0


def test_a_name_of_a_walk_that_a_field_has_not_is_refused():
    made = dataclass(frozen=True)(type("Weaving", (Recipe,), {}))()
    assert made.walk() == made.walk("few") == Walk()
    with pytest.raises(Wrong, match="walk = 'sharp': must be usual; this field names no other"):
        made.walk("sharp")


# ---- plain facts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cloth(Facts):
    threads: int
    spread: float = 1.0
    patterns: tuple[str, ...] = ()
    dyes: dict[str, int] | None = None


def test_facts_come_back_as_they_were(tmp_path: Path):
    run = Run(tmp_path)
    for facts in (Cloth(3), Cloth(4, 0.1, ("plain", "twill\n鳥"), {"red": 3})):
        facts.write(run)
        assert Cloth.read(run) == facts
    assert Cloth(3).words() == ["threads 3, spread 1.0, patterns [], dyes None"]
    assert Cloth(3).values() == []


@pytest.mark.parametrize(("text", "message"), [
    ('{"threads": "three"}', r"threads is damaged \(expected a whole number\); train again"), ("{}", "lacks something"),
    ('{"threads": 3, "patterns": [1]}', "patterns is damaged"), ('{"threads": 3, "dyes": {"red": "x"}}', "dyes is damaged"),
    ("[]", "no list of names and values"), ("nonsense", "cannot be read"), ("[" * 100_000, "cannot be read"),
])  # fmt: skip
def test_facts_that_are_damaged_say_so(text: str, message: str, tmp_path: Path):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(RunError, match=message):
        Cloth.read(Run(tmp_path))


def test_facts_of_other_revisions_are_read(tmp_path: Path):
    (tmp_path / "data.json").write_text('{"threads": 3, "needles": 7}')
    assert Cloth.read(Run(tmp_path)) == Cloth(3)


# ---- what a task hides ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "drop", "hidden"), [
    (("x",), 0.1, {}), (("x", "label"), 0.1, {("label",): 0.1}), (("x", "label", "mask"), 0.3, {("label", "mask"): 0.3}),
    (("x", "label"), 0.0, {}),
])  # fmt: skip
def test_conditions_are_hidden_where_the_data_has_them(columns: tuple[str, ...], drop: float, hidden: dict):
    import numpy as np

    from sfumato.data import Items
    from sfumato.diffusion import Gaussian
    from sfumato.jobs.methods import MethodOptions

    parts = {"guided": ("label", "mask"), "process": lambda self, facts: Gaussian(), "drop": drop, "method": MethodOptions()}
    items = Items({name: np.zeros((4, 2), np.float32) for name in columns})
    recipe = dataclass(frozen=True)(type("Weaving", (Recipe,), parts))()
    assert recipe.task(Data(None, items, items), None).hidden == hidden
