"""Pictures from words: captions in, pictures out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from sfumato.errors import Wrong, check
from sfumato.fields.captions.facts import CaptionFacts
from sfumato.fields.captions.options import CaptionAsk, CaptionNetwork, Kind, Measured, PixelMethod
from sfumato.fields.captions.weighing import weighed
from sfumato.jobs.flags import Positional
from sfumato.jobs.making import Making
from sfumato.jobs.recipe import Data, Look, Recipe, Say
from sfumato.jobs.walk import Walk
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from sfumato.diffusion import Drawn, Equilibrium, Gaussian
    from sfumato.diffusion.generate import Queries
    from sfumato.fields.captions.data import Wanted
    from sfumato.fields.captions.queries import Prompts
    from sfumato.fields.captions.shown import Shown
    from sfumato.jobs.latents import Decoder
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.networks.words import Reader
    from sfumato.training.run import Run


class Beside(NamedTuple):
    """What samples need besides the network: what reads their words, and what decodes them where codes are learned."""

    words: Reader
    decoder: Decoder | None


@dataclass(frozen=True)
class Captions(Recipe):
    """Pictures from words: a folder of captioned pictures, or a .csv, .jsonl or .parquet file that lists them."""

    Facts: ClassVar[type] = CaptionFacts
    Ask: ClassVar[type] = CaptionAsk
    Measure: ClassVar[type] = Measured
    guided: ClassVar[tuple[str, ...]] = ("caption", "caption_mask")
    formats: ClassVar[tuple[str, ...]] = (".png",)
    tunable: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("tokenizer.json", "coder.safetensors")
    verbs: ClassVar[Mapping[str, str]] = {"autoencoder": "sfumato.fields.captions.autoencode:Autoencode"}
    demo: ClassVar[str] = "sfumato.fields.captions.demo:demo"

    data: Positional[Path]
    """Folder (searched to any depth), .csv, .tsv, .jsonl, .parquet or .tar."""
    captions: Kind = "auto"
    """Where captions stand: beside (NAME.txt beside NAME.png, a caption a line), table, names (of the files), folders (their
    names); auto: a table metadata.csv, .jsonl or .parquet in the folder, else beside."""
    picture_column: str | None = None
    """Of a table: names the pictures, or holds them (default: file_name, path, image, ...)."""
    caption_column: tuple[str, ...] = ()
    """Of a table: say what is seen; of several each is an alternative, as often as its weight says: prompt=.7 long=.3 (default:
    the first of text, caption, prompt)."""
    side: int | None = None
    """Pictures are resized to about this many pixels squared, whole, in sizes near their own proportions."""
    square: bool = False
    """Cut the middle squares out instead."""
    shift: float | None = None
    """Times more noise for the signal at every time, in training and sampling alike (default: side / 64, 1 below)."""
    latent: Path | None = None
    """Run of an autoencoder: learn in its smaller space (sfumato captions autoencoder DATA makes one)."""
    encoder: str = "auto"
    """What reads the words: own, a small one with a vocabulary of its own, trained along; minilm, of a package, or that of a
    folder of the kind BERT, which are not trained; auto: own below 2,000 different words, else minilm if it is installed."""
    vocab: int = 2048
    """Pieces of that vocabulary, fitted on the captions."""
    tokens: int = 77
    """Of a caption at most; longer ones are cut at a word."""
    held_out: float = 0.1
    """Share of the pictures kept out of training, to measure with."""
    broken_budget: float = 0.01
    """Share of broken pictures that is skipped with a warning; more stops the run."""
    drop: float = 0.1
    """Share of training samples whose caption is hidden, for guidance."""
    network: CaptionNetwork = field(default_factory=CaptionNetwork)
    """Network."""
    method: PixelMethod = field(default_factory=PixelMethod)
    """Diffusion method."""

    def __post_init__(self) -> None:
        weighed(self.caption_column)  # complains of weights that are none
        check(
            self,
            (self.side is None or 8 <= self.side <= 4096, "side", "from 8 to 4096 pixels"),
            (self.shift is None or 0 < self.shift < math.inf, "shift", "above 0"),
            (256 <= self.vocab <= 60_000, "vocab", "from 256, the bytes alone, to 60000"),
            (1 <= self.tokens <= 1024, "tokens", "from 1 to 1024"),
            (0 < self.held_out < 1, "held_out", "a share between 0 and 1"),
            (0 <= self.broken_budget < 1, "broken_budget", "a share from 0 to below 1"),
            (0 <= self.drop < 1, "drop", "a share from 0 to below 1"),
            (self.method.process == "gaussian", "method.process", "'gaussian'"),
        )

    # ---- data --------------------------------------------------------------------------------------------------------

    def wanted(self) -> Wanted:
        """What is to be made of the data."""
        from sfumato.fields.captions.data import Wanted
        from sfumato.fields.captions.reading import Asked

        return Wanted(
            Asked(self.captions, self.picture_column, self.caption_column), self.side, self.network.multiple, self.square,
            self.held_out, self.broken_budget, self.encoder, self.vocab, self.tokens, self.shift, self.latent,
        )  # fmt: skip

    def prepare(self, run: Run, tell: Say, base: Any = None) -> Captions:
        from sfumato.fields.captions.data import prepare

        if base is not None and base.latent is not None:
            raise Wrong(f"{run.path}: a run that learns codes cannot learn further from others yet; train a new one")
        facts = prepare(run, self.data, self.wanted(), tell, base)
        return dataclasses.replace(
            self, side=self.side or facts.sizes[0][0], shift=facts.shift, encoder=facts.encoder, tokens=self.tokens,
            network=dataclasses.replace(self.network, patch=facts.patch),
        )  # fmt: skip

    def open(self, run: Run) -> Data:
        from sfumato.fields.captions.data import Stock

        facts = self.facts(run)
        stock = Stock.open(run, facts)
        return Data(facts, stock.train(), stock.held_out())

    def examine(self) -> Look:
        import tempfile

        from sfumato.data import DataError, check_budget
        from sfumato.fields.captions.data import Seen

        said: list[str] = []
        bold = dataclasses.replace(self, broken_budget=0.999999)
        with tempfile.TemporaryDirectory() as room:
            seen = Seen.of(self.data, self.wanted().asked, Path(room), 2, said.append)
        scan, texts = seen.scan, [text for each in seen.captions for text in each if text]
        lines = [
            *said,
            f"{len(scan.files)} pictures with {len(texts)} captions in {self.data}, {len(scan.complaints)} broken",
            "sizes     " + ", ".join(f"{w}x{h} ({n})" for (w, h), n in scan.sizes.most_common(5)),
        ]
        if copies := sum(map(len, scan.duplicates)) - len(scan.duplicates):
            lines.append(f"duplicates {copies} pictures appear more than once")
        try:
            check_budget(scan, self.broken_budget)
        except DataError as error:
            return Look((*lines, f"training would stop: {error}"), bold, False)
        return Look(tuple(lines), bold)

    # ---- network -----------------------------------------------------------------------------------------------------

    def process(self, facts: CaptionFacts) -> Gaussian | Equilibrium:
        from sfumato.diffusion.schedule import Shifted

        made: Any = self.method.build()
        return made if facts.shift == 1 else dataclasses.replace(made, schedule=Shifted(made.schedule, facts.shift))

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        from sfumato.fields.captions.network import Captioned

        return {"captioned": Captioned}

    def build(self, facts: CaptionFacts, device: str) -> nn.Module:
        from sfumato.fields.captions.network import Captioned

        fast, many, options = device != "cpu", facts.count >= 50_000, self.network
        body = "transformer" if options.body == "auto" else options.body
        wide, deep = ((512, 12) if many else (384, 10)) if fast else (256, 6)
        if body == "unet":
            wide, deep = (192 if many else 128) if fast else 64, 2
        width = options.width or wide
        return Captioned(
            channels=facts.learned(facts.sizes[0])[0],
            body=body, attention="cross" if options.attention == "auto" else options.attention,
            width=width, depth=options.depth or deep, patch=facts.patch, vocab=facts.vocab,
            context_dim=facts.width or width,
            summary="first" if options.summary == "auto" else options.summary,
            text_depth=(4 if fast else 2) if options.text_depth is None else options.text_depth,
        )  # fmt: skip

    def training(self, data: Data, device: str) -> TrainOptions:
        from sfumato.jobs.recipe import usual_batch

        return TrainOptions(
            batch=usual_batch(len(data.train), 32 if device == "cpu" else 256),
            optim=OptimOptions(lr=1e-3 if device == "cpu" else None),
        )

    # ---- samples -----------------------------------------------------------------------------------------------------

    def walk(self, name: str = "usual") -> Walk:
        """Plainly as learned: stronger guidance cost agreement and nearness, wherever measured (docs/captions.md)."""
        return Walk(w=1.0).over(super().walk(name))

    def companions(self, run: Run, device: Any) -> Beside:
        """What reads words, and what decodes samples where codes are learned."""
        from sfumato.jobs import latents
        from sfumato.networks.words import reader

        facts = self.facts(run)
        space = facts.space
        return Beside(
            reader(run.path, facts.encoder, facts.tokens, facts.checksum),
            None if space is None else latents.decoder(run, space, device),
        )

    def queries(self, model: Model, ask: CaptionAsk, n: int | None) -> Prompts:
        from sfumato.fields.captions.queries import asked

        if ask.negative and not all(adaptation.guides() for adaptation in model.adaptations):
            raise Wrong(
                "negative: a flow map has learned its guidance, and cannot be led away from other words; leave it out"
            )
        if ask.negative and model.walk.w == 1:
            raise Wrong("negative: with w = 1 nothing is guided; give --w above 1")
        return asked(ask, model.companions.words, model.facts, n)

    def choices(self, model: Model) -> Mapping[str, Sequence[str]]:
        return {"size": [f"{height}x{width}" for height, width in model.facts.sizes]}

    def things(self, model: Model, queries: Queries, drawn: Drawn) -> list[Shown]:
        from sfumato.data.sheet import to_bytes
        from sfumato.fields.captions.shown import Shown, as_pictures

        pixels = to_bytes(as_pictures(model, drawn.x).numpy())
        return [Shown(each, queries.name(number)[0]) for each, number in zip(pixels, drawn.numbers)]

    def save(self, thing: Shown, path: Path, making: Making) -> Path:
        from PIL import Image as pil

        pil.fromarray(thing.pixels).save(path, pnginfo=making.png())
        return path

    def write(
        self, model: Model, queries: Any, things: Iterable[tuple[int, Shown]], out: Path, making: Making
    ) -> Iterator[Path]:
        """Each picture with all that makes it again, whatever list its prompt was in."""
        from sfumato.fields.captions.queries import alone

        for number, thing in things:
            yield self.save(thing, out / f"{number:04d}{making.suffix or '.png'}", alone(making, queries, number))

    def picture(self, model: Model, things: Sequence[Shown], columns: int | None = None) -> Image | None:
        from sfumato.fields.captions.shown import sheet

        if columns is None:
            columns = len({thing.prompt for thing in things})
            columns = columns if 1 < columns < len(things) and columns <= 12 else None
        return sheet(things, columns, least=900)

    def measurable(self, model: Model, measure: Measured, ask: CaptionAsk) -> None:
        from sfumato.fields.captions.measure import measurable

        measurable(model, measure, ask)

    def evaluate(self, model: Model, measure: Measured, ask: CaptionAsk) -> Report:
        from sfumato.fields.captions.measure import evaluate

        return evaluate(model, measure, ask)

    def usage(self) -> Iterable[str]:
        return (
            'Pictures: `sfumato sample RUN --prompt "..." -n 4`, or `--prompts FILE`, a prompt a line; '
            "one of them again: `sfumato sample RUN --like samples/0002.png --out again`.",
        )


RECIPE = Captions
