"""`sfumato inspect`: what would be learned from this data, what is broken in it, and what training would cost here."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from sfumato.data import DataError
from sfumato.recipes.images import ARRAYS, Images
from sfumato.recipes.job import plan
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run


def inspect(recipe: Images, training: TrainOptions) -> tuple[str, bool]:
    """The report, and whether training would start (False: more broken files than the budget allows).

    Raises DataError if nothing can be read at all.
    """
    lines: list[str] = []
    sound = True
    if recipe.data.suffix.lower() not in ARRAYS:
        from sfumato.data import check_budget

        scan = dataclasses.replace(recipe, broken_budget=0.999999).scan(lambda text: None)
        lines += [f"{len(scan.files)} pictures in {recipe.data}, {len(scan.complaints)} broken"]
        lines += [f"  broken: {complaint}" for complaint in scan.complaints]
        lines += ["sizes     " + ", ".join(f"{w}x{h} ({n})" for (w, h), n in scan.sizes.most_common(5))
                  + (f" and {len(scan.sizes) - 5} more" if len(scan.sizes) > 5 else "")]  # fmt: skip
        lines += ["modes     " + ", ".join(f"{mode} ({n})" for mode, n in scan.modes.most_common())]
        if scan.handled:
            lines += ["handled   " + ", ".join(f"{what} ({n})" for what, n in scan.handled.most_common())]
        if scan.ignored:
            lines += [
                "ignored   " + ", ".join(f"{suffix or 'no suffix'} ({n})" for suffix, n in scan.ignored.most_common())
            ]
        if scan.duplicates:
            lines += [
                f"duplicates {sum(map(len, scan.duplicates)) - len(scan.duplicates)} pictures appear more than once"
            ]
            lines += ["  same: " + ", ".join(str(path) for path in group[:4]) for group in scan.duplicates[:5]]
        if recipe.labels:
            lines += ["classes   " + ", ".join(scan.classes)]
        try:
            check_budget(scan, recipe.broken_budget)
        except DataError as error:
            sound = False
            lines += [f"training would stop: {error}"]
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        run.create()
        made = plan(dataclasses.replace(recipe, broken_budget=0.999999), training, run, lambda text: None)
    statistics = made.prepared.statistics
    lines += [f"values    mean {statistics.mean:.3f}, spread {statistics.spread:.3f} (black -1, white 1)"]
    lines += list(made.lines())
    return "\n".join(lines), sound
