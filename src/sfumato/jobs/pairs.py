"""Pairs of which one was preferred: two data sets of one field whose items have the same names, or lines of JSON.

    FOLDER/chosen, FOLDER/rejected      each as for `sfumato train` of the field; a.png is compared with a.png. Where that is a
                                        file, FOLDER/chosen.npy and so on: items are compared by number
    pairs.jsonl                         {"chosen": "x/1.png", "rejected": "x/2.png", "prompt": "a red cup", "label": "cups"}

Paths in lines are looked for beside the file. A prompt becomes a caption (.txt), a label a folder, for the fields that read them.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sfumato.errors import DataError, shown
from sfumato.jobs.prefer import PAIRS
from sfumato.jobs.recipe import Recipe, Say
from sfumato.jobs.tune import save_items
from sfumato.training.run import Run

SIDES = ("chosen", "rejected")
LONGEST = 2**16
"""Characters of a line."""
MOST = 1_000_000
"""Lines of a file."""


def take_pairs(recipe: Recipe, facts: Any, pairs: Path, run: Run, tell: Say) -> int:
    """The pairs as batches of the field's own, in ``run``'s cache, in the units and classes of ``facts``; how many they are.

    Raises DataError for what does not fit together.
    """
    work = run.cache / "sides"
    try:
        folder = _laid_out(pairs, work) if pairs.suffix.lower() == ".jsonl" else pairs
        places = [_place(recipe, folder, side) for side in SIDES]
        sides = [dict(_items(recipe, facts, place, run.sub(f"cache/sides/{place.stem}"), tell)) for place in places]
        chosen, rejected = sides
        names = sorted(chosen.keys() & rejected.keys())
        if len(names) < 2:
            raise DataError(
                f"{shown(pairs)}: {len(chosen)} chosen and {len(rejected)} rejected, {len(names)} of the same name; two pairs at "
                "least are needed"
            )
        if lost := (len(chosen) - len(names)) + (len(rejected) - len(names)):
            tell(f"{shown(pairs)}: {lost} without another of the same name are left out")
        save_items(run.cache / PAIRS, _joined([chosen[n] for n in names], [rejected[n] for n in names], str(pairs)))
        return len(names)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _items(recipe: Recipe, facts: Any, data: Path, run: Run, tell: Say) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every item of one side by its name, without the folder."""
    from sfumato.diffusion import tree
    from sfumato.training.loader import fetch

    if not data.exists():
        raise DataError(
            f"{shown(data)}: no such folder; pairs are in FOLDER/chosen and FOLDER/rejected, or lines of JSON"
        )
    run.create()
    own: Recipe = dataclasses.replace(recipe, data=data)  # type: ignore[call-arg]
    own = own.prepare(run, tell, base=facts)
    opened = own.open(run)
    for part in (opened.train, opened.held_out):
        for number in range(len(part)):
            row = fetch(part, [number])
            whole = {"x": row.x, **row.condition} | ({} if row.weight is None else {"weight": row.weight})
            yield _plain(part.name(number), data), tree.each(lambda value: value, whole)


def _place(recipe: Recipe, folder: Path, side: str) -> Path:
    """A side: a folder, or a file of the kind that the run learned from."""
    whole = folder / side
    file = whole.with_suffix(Path(getattr(recipe, "data", "")).suffix)
    return file if file.is_file() and not whole.exists() else whole


def _plain(name: str, data: Path) -> str:
    """A name within its side: a path in the folder, or the number in the file."""
    if data.is_file():
        return name[max(0, name.rfind("[")) :]
    place = Path(name)
    return place.relative_to(data).as_posix() if place.is_relative_to(data) else name


def _joined(chosen: list[dict[str, Any]], rejected: list[dict[str, Any]], source: str) -> Mapping[str, Any]:
    """Pairs as one batch: x and the conditions of what was chosen, "rejected" the x of the others. Raises DataError."""
    from sfumato.adapting.preferences import REJECTED
    from sfumato.diffusion import tree

    for mine, other in zip(chosen, rejected):
        if _shapes(mine) != _shapes(other) or _shapes(mine) != _shapes(chosen[0]):
            raise DataError(
                f"{shown(source)}: items of {_shapes(mine)} and of {_shapes(other)}; all must be of one shape"
            )
        if "weight" in mine and any(
            bool((a != b).any()) for a, b in zip(tree.leaves(mine["weight"]), tree.leaves(other["weight"]))
        ):
            raise DataError(f"{shown(source)}: pairs in which other numbers count (padding) cannot be compared yet")
    whole: dict[str, Any] = tree.join(*chosen)
    return {**whole, REJECTED: tree.join(*(each["x"] for each in rejected))}


def _shapes(item: Mapping[str, Any]) -> list[tuple[int, ...]]:
    from sfumato.diffusion import tree

    return [tuple(leaf.shape) for leaf in tree.leaves(item["x"])]


def _laid_out(file: Path, work: Path) -> Path:
    """The pictures that lines name, as two folders. Raises DataError naming the line."""
    found = list(_lines(file))
    for number, line in enumerate(found):
        for side in SIDES:
            source = file.parent / str(line[side])
            if not source.is_file():
                raise DataError(f"{shown(file)}: line {number + 1}: {shown(str(line[side]))} is no file beside it")
            label = str(line.get("label", ""))
            if label != Path(label).name:
                raise DataError(f"{shown(file)}: line {number + 1}: label {shown(label)!r} is no name of a class")
            place = work / "laid" / side / label
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place / f"{number:07d}{source.suffix.lower()}")
            if line.get("prompt") is not None:
                (place / f"{number:07d}.txt").write_text(str(line["prompt"]), encoding="utf-8")
    return work / "laid"


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    number = -1
    try:
        with file.open(encoding="utf-8") as opened:
            for number, text in enumerate(iter(lambda: opened.readline(LONGEST), "")):
                if number >= MOST:
                    raise DataError(f"{shown(file)}: more than {MOST:,} lines; give fewer pairs")
                if not text.strip():
                    raise DataError(f"{shown(file)}: line {number + 1} is empty; a pair is expected")
                line = json.loads(text)
                if not isinstance(line, dict) or not all(isinstance(line.get(side), str) for side in SIDES):
                    raise ValueError('expected {"chosen": PATH, "rejected": PATH}')
                yield line
    except FileNotFoundError:
        raise DataError(
            f"{shown(file)}: no such file; give FOLDER with chosen and rejected, or lines of JSON"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{shown(file)}: line {number + 1}: cannot be read ({error}); one pair a line is expected"
        ) from error
