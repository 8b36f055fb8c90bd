"""`sfumato video demo`: from nothing to a measured model of clips."""

from __future__ import annotations

from pathlib import Path

from sfumato.errors import typed
from sfumato.fields.video.digits import write
from sfumato.fields.video.options import ClipAsk, ClipMeasure
from sfumato.fields.video.recipe import Video
from sfumato.jobs import evaluate, model, sample, train
from sfumato.jobs.recipe import say
from sfumato.training.options import TrainOptions
from sfumato.training.run import RunError


def made(out: Path, count: int, frames: int, rate: float, seed: int) -> str:
    """Films in a new folder; returns what can be done with them. Raises RunError where there is something already."""
    if out.exists():
        raise RunError(f"{out}: there is something already; give another folder")
    write(out, count, frames, rate, seed)
    return f"{count} films in {out}\nlearn from them: sfumato train video {typed(out)}"


def demo(out: Path, minutes: float, count: int, seed: int) -> str:
    """Make films, learn, draw, measure; returns what was found, and where to look. Raises RunError where a run is already."""
    if out.exists():
        raise RunError(f"{out}: there is something already; give another --out")
    data = out.with_name(out.name + "-films")
    say(made(data, count, 24, 10.0, seed).partition("\n")[0])
    run = train.train(Video(data), TrainOptions(minutes=minutes, seed=seed, previews=2), out)
    loaded = model.load(run.path)
    text = evaluate.evaluate(loaded, ClipMeasure(), ClipAsk())
    prompt = loaded.facts.examples[0]
    sample.sample(loaded, 4, ClipAsk(prompt=prompt, frames=24), run.path / "samples" / "final")
    words = typed(out)
    return "\n".join([
        text, f"look at {out}/samples/final/grid.png and the films beside it",
        f'clips of your own words: sfumato sample {words} --prompt "{prompt}" -n 4 --out clips',
        f"a film that goes on: sfumato sample {words} --prefix {typed(data / '00000.mp4')} --frames 40 --out longer",
    ])  # fmt: skip
