"""Clips: from words, from first frames, between frames, and on and on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from sfumato.errors import check
from sfumato.fields.video.facts import ClipFacts
from sfumato.fields.video.options import ClipAsk, ClipMeasure, ClipMethod, ClipNetwork, Kind
from sfumato.jobs.flags import Positional
from sfumato.jobs.making import Making
from sfumato.jobs.recipe import Data, Look, Recipe, Say
from sfumato.jobs.walk import Walk
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from sfumato.diffusion import Drawn, Equilibrium, Gaussian, Guess
    from sfumato.diffusion.tree import Tree
    from sfumato.fields.video.data import Wanted
    from sfumato.fields.video.queries import Clips
    from sfumato.fields.video.shown import Shown
    from sfumato.fields.video.units import Units
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.networks.words import Reader
    from sfumato.training.run import Run


class Beside(NamedTuple):
    """What samples need besides the network: what reads their words, and what brings bytes into its units."""

    words: Reader | None
    units: Units


@dataclass(frozen=True)
class Video(Recipe):
    """Clips: a folder of films, moving pictures, folders of numbered pictures or arrays, with captions or without."""

    Facts: ClassVar[type] = ClipFacts
    Ask: ClassVar[type] = ClipAsk
    Measure: ClassVar[type] = ClipMeasure
    guided: ClassVar[tuple[str, ...]] = ("caption", "caption_mask")
    formats: ClassVar[tuple[str, ...]] = (".mp4", ".webm", ".gif", ".png", ".npz")
    tunable: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("tokenizer.json", "background.npy")
    verbs: ClassVar[Mapping[str, str]] = {
        "demo": "sfumato.fields.video.verbs:Demo",
        "digits": "sfumato.fields.video.verbs:Digits",
        "stream": "sfumato.fields.video.verbs:Stream",
    }

    data: Positional[Path]
    """Folder (searched to any depth) of .mp4, .mov, .mkv, .webm, .avi, .gif, .webp, .apng, of folders of numbered pictures, of
    .npz and .npy of bytes (N, T, H, W, 3); one of these; or a table that lists films."""
    captions: Kind = "auto"
    """Where captions stand: table (metadata.csv, .jsonl or .parquet with file_name and text, and start and end in seconds where a
    caption is not of the whole), beside (NAME.txt, a caption a line, or labels of an array), names (of the films), folders (their
    names), none; auto: the first of these that is there."""
    frames: int = 8
    """Frames of a clip."""
    stride: int | None = None
    """Frames from the start of a clip to that of the next (default: as many as a clip has, so that none overlap)."""
    fps: float | None = None
    """Frames a second that films are brought to, each frame the nearest in time (default: as they are, of several rates the
    commonest)."""
    side: int | None = None
    """Frames are brought to about this many pixels squared, in the commonest proportions; of others the middle is taken."""
    still: bool = False
    """The camera stands still: what is learned is what differs from the mean frame."""
    cut: float = 0.15
    """A film is cut where small grey frames that follow each other differ by more than this, of 1, on average."""
    shift: float | None = None
    """Times more noise for the signal at every time, in training and sampling alike (default: by the pixels of a clip)."""
    encoder: str = "auto"
    """What reads the words: own, a small one with a vocabulary of its own, trained along; minilm, of a package, or that of a
    folder of the kind BERT, which are not trained; auto: own below 2,000 different words, else minilm if it is installed."""
    vocab: int = 2048
    """Pieces of that vocabulary, fitted on the captions."""
    tokens: int = 77
    """Of a caption at most; longer ones are cut at a word."""
    held_out: float = 0.1
    """Share of the clips kept out of training, to measure with: of ten films and more whole films, of fewer their ends."""
    broken_budget: float = 0.01
    """Share of broken films that is skipped with a warning; more stops the run."""
    strict: bool = False
    """Refuse films that break off, whose frames before the break are learned from else."""
    drop: float = 0.1
    """Share of training samples whose caption is hidden, for guidance."""
    network: ClipNetwork = field(default_factory=ClipNetwork)
    """Network."""
    method: ClipMethod = field(default_factory=ClipMethod)
    """Diffusion method."""

    def __post_init__(self) -> None:
        check(
            self,
            (1 <= self.frames <= 1024, "frames", "from 1 to 1024"),
            (self.stride is None or self.stride >= 1, "stride", "at least 1"),
            (self.fps is None or 0 < self.fps <= 1000, "fps", "above 0, at most 1000"),
            (self.side is None or 8 <= self.side <= 4096, "side", "from 8 to 4096 pixels"),
            (0 < self.cut <= 1, "cut", "above 0, at most 1"),
            (self.shift is None or 0 < self.shift < math.inf, "shift", "above 0"),
            (256 <= self.vocab <= 60_000, "vocab", "from 256, the bytes alone, to 60000"),
            (1 <= self.tokens <= 1024, "tokens", "from 1 to 1024"),
            (0 < self.held_out < 1, "held_out", "a share between 0 and 1"),
            (0 <= self.broken_budget < 1, "broken_budget", "a share from 0 to below 1"),
            (0 <= self.drop < 1, "drop", "a share from 0 to below 1"),
            (self.method.process == "gaussian", "method.process", "'gaussian'"),
            (self.method.times != "adaptive", "method.times", "one that is not learned: each frame has its own"),
            (not self.method.uncertainty, "method.uncertainty", "off: each frame has a time of its own"),
        )

    # ---- data --------------------------------------------------------------------------------------------------------

    def wanted(self) -> Wanted:
        """What is to be made of the data."""
        from sfumato.fields.video.data import Wanted

        return Wanted(
            self.captions, self.frames, self.stride or self.frames, self.side, self.fps, self.cut, self.network.patch,
            self.held_out, self.broken_budget, self.strict, self.encoder, self.vocab, self.tokens, self.shift,
            self.still,
        )  # fmt: skip

    def prepare(self, run: Run, tell: Say, base: Any = None) -> Video:
        from sfumato.fields.video.data import prepare

        facts = prepare(run, self.data, self.wanted(), tell, base)
        network = dataclasses.replace(self.network, patch=facts.patch)
        return dataclasses.replace(self, shift=facts.shift, frames=facts.frames, network=network)

    def open(self, run: Run) -> Data:
        from sfumato.fields.video.stock import Stock

        facts = self.facts(run)
        stock = Stock.open(run, facts)
        return Data(facts, stock.part(0), stock.part(1))

    def examine(self) -> Look:
        from sfumato.fields.video.looking import looked

        lines, sound = looked(self.data, self.wanted())
        return Look(tuple(lines), dataclasses.replace(self, broken_budget=0.999999), sound)

    # ---- network -----------------------------------------------------------------------------------------------------

    def process(self, facts: ClipFacts) -> Gaussian | Equilibrium:
        from sfumato.diffusion.schedule import Shifted

        made: Any = self.method.build()
        return made if facts.shift == 1 else dataclasses.replace(made, schedule=Shifted(made.schedule, facts.shift))

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        from sfumato.fields.video.network import Filmed

        return {"filmed": Filmed}

    def build(self, facts: ClipFacts, device: str) -> nn.Module:
        from sfumato.fields.video.network import Filmed

        fast, options = device != "cpu", self.network
        width, depth = (512, 12) if fast else (256, 6)
        width = options.width or width
        return Filmed(
            attention=options.attention, causal=options.causal, carry=options.carry, width=width,
            depth=options.depth or depth, patch=facts.patch,
            vocab=facts.vocab, context_dim=(facts.width or width) if facts.worded else 0,
            text_depth=(4 if fast else 2) if options.text_depth is None else options.text_depth,
        )  # fmt: skip

    def training(self, data: Data, device: str) -> TrainOptions:
        from sfumato.jobs.recipe import usual_batch

        return TrainOptions(
            batch=usual_batch(len(data.train), 16 if device == "cpu" else 128),
            optim=OptimOptions(lr=1e-3 if device == "cpu" else None),
        )

    # ---- samples -----------------------------------------------------------------------------------------------------

    def walk(self, name: str = "usual") -> Walk:
        """Plainly as learned."""
        return Walk(w=1.0).over(super().walk(name))

    def companions(self, run: Run, device: Any) -> Beside:
        """What reads words, and the units."""
        from sfumato.fields.video.units import Units
        from sfumato.networks.words import reader

        facts = self.facts(run)
        words = reader(run.path, facts.encoder, facts.tokens, facts.checksum) if facts.worded else None
        return Beside(words, Units.of(run.path, facts))

    def queries(self, model: Model, ask: ClipAsk, n: int | None) -> Clips:
        from sfumato.errors import Wrong
        from sfumato.fields.video.queries import asked

        if ask.negative and not all(adaptation.guides() for adaptation in model.adaptations):
            raise Wrong(
                "negative: a flow map has learned its guidance, and cannot be led away from other words; leave it out"
            )
        if ask.negative and model.walk.w == 1:
            raise Wrong("negative: with w = 1 nothing is guided; give --w above 1")
        return asked(ask, model.companions.words, model.companions.units, model.facts, n)

    def begin(self, process: Any, z: Tree, times: Tree, query: Mapping[str, Tree]) -> tuple[Tree, Tree]:
        """Known frames stand still, the others follow in the order asked for."""
        from sfumato.fields.video.rollout import begun

        made: Any = begun
        found: tuple[Tree, Tree] = made(process, z, times, query)
        return found

    def guide(self, guess: Guess, query: Mapping[str, Tree]) -> Guess:
        """Known pixels are put in the place of the guessed."""
        from sfumato.diffusion import inpaint

        beside: Any = query.get("aside", {})
        pixels = beside.get("pixels")
        if pixels is None or not bool(pixels.any()):
            return guess
        return inpaint(guess, beside["known"], pixels[:, None, None])

    def draw(self, model: Model, queries: Any, numbers: Sequence[int]) -> Iterator[Drawn]:
        """Clip after clip, where a film is longer than one."""
        from sfumato.fields.video.rollout import drawn

        return drawn(model, queries, numbers)

    def things(self, model: Model, queries: Any, drawn: Drawn) -> list[Shown]:
        from sfumato.fields.video.shown import Shown

        films = model.companions.units.bytes(drawn.x)
        return [Shown(each, model.facts.rate, queries.name(number)[0]) for each, number in zip(films, drawn.numbers)]

    def save(self, thing: Shown, path: Path, making: Making) -> Path:
        from sfumato.fields.video.writing import write

        return next(iter(write(thing, path, making)))

    def write(
        self, model: Model, queries: Any, things: Iterable[tuple[int, Shown]], out: Path, making: Making
    ) -> Iterator[Path]:
        """Each clip as it comes; of .png a file for each frame."""
        from sfumato.fields.video.writing import write

        for number, thing in things:
            yield from write(thing, out / f"{number:04d}{making.suffix or '.mp4'}", making.of(queries, number))

    def picture(self, model: Model, things: Sequence[Shown], columns: int | None = None) -> Image | None:
        from sfumato.fields.video.shown import sheet

        return sheet(things)

    def glimpse(self, data: Data) -> Any:
        from sfumato.fields.video.shown import Shown, sheet

        clips: Any = data.train
        which = [i * len(clips) // 6 for i in range(min(6, len(clips)))]
        return sheet([Shown(clips.bytes([i])[0], data.facts.rate, clips.caption(i)) for i in which])

    def measurable(self, model: Model, measure: ClipMeasure, ask: ClipAsk) -> None:
        from sfumato.fields.video.measure import measurable

        measurable(model, measure, ask)

    def evaluate(self, model: Model, measure: ClipMeasure, ask: ClipAsk) -> Report:
        from sfumato.fields.video.measure import evaluate

        return evaluate(model, measure, ask)

    def usage(self) -> Iterable[str]:
        return (
            'Clips: `sfumato sample RUN --prompt "..." -n 4 --out clips`; from a picture: `--first a.png`; to one: `--last`;',
            "a film that goes on: `--prefix c.mp4 --frames 80`; filled in: `--fill c.mp4 --mask m.png`, or `--hide 3:5`.",
        )


RECIPE = Video
