"""`sfumato sample`, for every field."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sfumato.errors import DataError, Wrong, naming
from sfumato.jobs.making import made
from sfumato.jobs.model import Model, load
from sfumato.jobs.outputs import Place
from sfumato.jobs.recipe import say
from sfumato.jobs.strict import options
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.run import RunError, write_text

SHOWN = 256
"""Things on a sheet at most."""
LARGEST = 10_000
"""Steps, and samples at once, that the making in a file may ask for."""


def sample(model: Model, n: int | None, ask: Any, out: Path | None = None, suffix: str = "") -> list[Path]:
    """Write n samples of a model (None: the field's own number) and a sheet of them; returns the files, the sheet last.

    Args:
        ask: what they are asked for, the field's ``Ask``.
        out: folder, or file of a field whose samples go into one; "samples" unless given. A set of ours that stands there is
            replaced; anything else is not touched.
        suffix: format of the files, one of the field's.

    Raises Wrong, RunError.
    """
    from sfumato.training.progress import Watch

    recipe = model.recipe
    if n is not None and n < 1:
        raise Wrong(f"n = {n}: must be at least 1")
    if suffix and suffix not in recipe.formats:
        raise Wrong(f"format = {suffix!r}: must be one of {', '.join(recipe.formats)}")
    out, single, suffix = recipe.destination(model, out, suffix)
    place, making = Place(out, single), model.making(ask, suffix)
    queries = model.recipe.queries(model, ask, n)
    place.check()
    shown: list[tuple[int, Any]] = []
    calls: dict[int, int] = {}
    done: list[Path] = []
    with Watch("sample", len(queries), unit="samples") as watch:

        def things() -> Iterator[tuple[int, Any]]:
            count = 0
            for drawn in parts:
                if "calls" in drawn.scores:
                    calls.update(zip(drawn.numbers, drawn.scores["calls"].tolist(), strict=True))
                pairs = list(zip(drawn.numbers, recipe.things(model, queries, drawn), strict=True))
                shown.extend(pairs[: SHOWN - len(shown)])
                yield from pairs
                count += len(pairs)
                watch.show(count)

        parts: Iterator[Any] = iter(recipe.draw(model, queries, range(len(queries))))
        try:
            first = list(islice(parts, 1))  # an earlier set goes once there is something to put in its place
        except BaseException:
            place.leave()
            raise
        parts = chain(first, parts)
        place.clear()
        try:
            for path in recipe.write(model, queries, things(), place.desk, making):
                done.append(place.put(path))
        finally:  # what is written stays known as ours, however this ends
            sheet = None
            if shown:
                sheet = recipe.picture(model, [thing for _, thing in sorted(shown, key=lambda pair: pair[0])])
            if sheet is not None and not single:
                drawn_sheet = place.desk / f"grid{getattr(sheet, 'suffix', '.png')}"
                sheet.save(drawn_sheet)
                done.append(place.put(drawn_sheet))
            if calls and not single:
                listed = place.desk / "calls.json"
                write_text(listed, json.dumps([calls[number] for number in sorted(calls)]))
                done.insert(0, place.put(listed))
            place.note(done, making)
    if calls:
        mean = sum(calls.values()) / len(calls)
        least, most = min(calls.values()), max(calls.values())
        say(f"network calls of a sample: {mean:.1f} on average, {least} to {most}")
    return done


def again(
    run: Path, like: Path, walk: Walk = Walk(), out: Path | None = None, ask: Any = None, drawing: Drawing = Drawing()
) -> list[Path]:
    """The sample in a file of ours drawn again, into the folder ``out``; what ``walk``, ``ask`` and ``drawing`` say other
    than usual comes before what the file says.

    Raises DataError where the file says nothing of its making, RunError where it was made of other weights or lies where
    the new one is to go.
    """
    making, place = made(like), Place(out or Path("samples"), False)
    if like.resolve().parent == place.path.resolve():
        raise RunError(f"{like}: lies in the folder that the new sample would go to; give another --out")
    with naming(like):
        before = options(Walk, making.walk)
    if max(before.batch or 1, before.steps or 1) > LARGEST:
        raise DataError(f"{like}: asks for more than {LARGEST:,} steps, or samples at once; give another file")
    with naming(like):
        told = options(Drawing, {**making.drawing, "seed": making.seed, **_unusual(drawing)})
    try:
        model = load(run, walk.over(before), told)
    except Wrong:  # of the walk that the file tells of, or of the one that is asked for here
        if walk.over(before) == walk:
            raise
        with naming(like):
            raise
    own = model.making(model.recipe.Ask())
    if own.weights != making.weights:
        raise RunError(f"{like}: was made of the weights {making.weights}, and those of {run} are {own.weights}")
    with naming(like):
        ask = options(model.recipe.Ask, {**making.ask, **_unusual(ask)})
        queries = model.recipe.queries(model, ask, None if making.number is None else making.number + 1)
    if making.number is None or making.number >= len(queries):
        raise DataError(f"{like}: says no number of a sample that can be drawn again")
    kept = model.making(ask, like.suffix.lower())
    place.clear()
    done = [
        place.put(path)
        for drawn in model.recipe.draw(model, queries, [making.number])
        for path in model.recipe.write(
            model, queries, zip(drawn.numbers, model.recipe.things(model, queries, drawn)), place.desk, kept
        )
    ]
    place.note(done, kept)
    return done


def _unusual(given: Any) -> dict[str, Any]:
    """The options that were given another value than their usual one."""
    every = () if given is None else dataclasses.fields(given)
    return {f.name: getattr(given, f.name) for f in every if getattr(given, f.name) != getattr(type(given)(), f.name)}
