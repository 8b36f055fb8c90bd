"""`sfumato evaluate` of text: bits per byte, holes filled, texts written, each beside its ruler."""

from __future__ import annotations

from typing import Any

from sfumato.fields.text.measure import bits, facts, holes
from sfumato.fields.text.options import Measured, TextAsk
from sfumato.jobs.model import Model
from sfumato.jobs.report import Report
from sfumato.training.progress import Watch


class Looking:
    """One bar after the other, a new one for each thing that is measured."""

    def __init__(self) -> None:
        self.what: str | None = None
        self.watch: Any = None

    def __call__(self, what: str, done: int, of: int) -> None:
        if what != self.what:
            self.close()
            self.what, self.watch = what, Watch(what, of, unit="pieces").__enter__()
        self.watch.show(done)

    def close(self) -> None:
        """End the last bar."""
        if self.watch is not None:
            self.watch.__exit__(None, None, None)
        self.what = self.watch = None


def evaluate(model: Model, measure: Measured, ask: TextAsk) -> Report:
    """The report of a run. Raises DataError, RunError, MetricError."""
    recipe: Any = model.recipe
    corpus, look = recipe.corpus(model.run), Looking()
    try:
        rows = bits(corpus, model.denoiser, measure, model.device, look, model.run.cache)
        rows += holes(corpus, model.denoiser, measure, model.device, look)
    finally:
        look.close()
    seen = {}
    if measure.n:
        things = []
        queries = recipe.queries(model, ask, measure.n)
        with Watch("write", measure.n, unit="texts") as watch:
            for drawn in recipe.draw(model, queries, range(measure.n)):
                things += recipe.things(model, queries, drawn)
                watch.show(len(things))
        rows += facts(corpus, [thing.text for thing in things])
        seen = {"texts.txt": recipe.picture(model, things)}
    return Report(tuple(rows), notes(model, measure, ask), seen)


def notes(model: Model, measure: Measured, ask: TextAsk) -> tuple[str, ...]:
    """What the numbers are of."""
    facts_ = model.facts
    said = [
        f"bits per byte are an upper bound: {measure.span} tokens are written at a time, what is before them is in sight",
        "bits_per_byte_heard are those of the network, the text that it learned from and the document so far, mixed",
        "a trigram sees the left side of a hole alone; the model sees both and writes the surest first",
    ]
    if measure.n:
        how = f"{model.walk.solver}, {model.walk.steps} steps, temperature {ask.temperature:g}"
        said.append(f"{measure.n} texts of up to {ask.length or facts_.window} tokens written by {how}: texts.txt")
    return tuple(said)
