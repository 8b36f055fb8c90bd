"""`sfumato inspect`: what would be learned from this data, what is broken in it, and what training would cost here."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

from sfumato.errors import Wrong
from sfumato.jobs.page import write_look
from sfumato.jobs.recipe import Recipe
from sfumato.jobs.train import plan
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError


def inspect(recipe: Recipe, training: TrainOptions, out: Path | None = None) -> tuple[str, bool]:
    """The report, and whether training would start (False: more broken files than the budget allows).

    Args:
        out: a page to write it to, with a picture of some items where they can be looked at.

    Raises DataError if nothing can be read at all, RunError where the page cannot be written.
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise Wrong(f"out = {str(out)!r}: must be a page, a name that ends in .html")
    look = recipe.examine()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        run.create()
        made = plan(look.recipe, training, run, lambda text: None)
        text = "\n".join([*look.lines, *made.data.facts.values(), *made.lines()])
        if out is not None:
            _page(out, recipe, text, look.recipe.glimpse(made.data))
        return text, look.sound


def _page(out: Path, recipe: Recipe, text: str, seen: Any) -> None:
    raw = None
    if seen is not None:
        buffer = io.BytesIO()
        seen.save(buffer, format="PNG")
        raw = buffer.getvalue()
    try:
        write_look(out, recipe.title(), text, raw)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
