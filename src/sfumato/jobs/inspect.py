"""`sfumato inspect`: what would be learned from this data, what is broken in it, and what training would cost here."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sfumato.jobs.recipe import Recipe
from sfumato.jobs.train import plan
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run


def inspect(recipe: Recipe, training: TrainOptions) -> tuple[str, bool]:
    """The report, and whether training would start (False: more broken files than the budget allows).

    Raises DataError if nothing can be read at all.
    """
    look = recipe.examine()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        run.create()
        made = plan(look.recipe, training, run, lambda text: None)
        return "\n".join([*look.lines, *made.data.facts.values(), *made.lines()]), look.sound
