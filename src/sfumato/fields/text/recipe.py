"""Text or code from a folder, a file, or rows of a table: written, filled in and scored by masked tokens.

Tokens turn into masks, and a transformer that sees both ways learns what stands under them (MDLM, Sahoo 2024, arXiv
2406.07524). Prompts and holes are tokens that are given, in training as in writing.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from sfumato.errors import Wrong, check
from sfumato.fields.text.facts import Facts as TextFacts
from sfumato.fields.text.options import Measured, TextAsk, TextNetwork
from sfumato.jobs.flags import Positional
from sfumato.jobs.making import Making
from sfumato.jobs.methods import TokenMethod
from sfumato.jobs.recipe import Data, Look, Recipe, Say
from sfumato.jobs.walk import Walk
from sfumato.training.options import TrainOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfumato.data.vocabulary import Vocabulary
    from sfumato.diffusion import Drawn, Guess, Masked, UniformTokens
    from sfumato.diffusion.gaps import Gaps
    from sfumato.diffusion.generate import Queries
    from sfumato.diffusion.tree import Tree
    from sfumato.fields.text.data import Corpus
    from sfumato.fields.text.files import Document, Limits
    from sfumato.fields.text.queries import TextQueries
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.training.objective import Task
    from sfumato.training.run import Run

WALKS = {
    "usual": Walk(solver="confidence:temperature=1", steps=64),
    "surest": Walk(solver="confidence", steps=64),
    "any": Walk(solver="euler", steps=128),
    "few": Walk(solver="entropy_bound:budget=0.5", steps=16),
}
"""In which order tokens are written: likely ones early, strictly the surest first, any, as many at a time as are sure."""


@dataclass(frozen=True)
class Written:
    """A text: its bytes, and what a person looks at, in which holes are marked."""

    text: bytes
    shown: str


@dataclass(frozen=True)
class Sheet:
    """Texts to look at, one after the other."""

    texts: Sequence[Written]
    suffix: ClassVar[str] = ".txt"

    def save(self, path: Path, /) -> None:
        text = "".join(f"---- {i} ----\n{each.shown.rstrip()}\n\n" for i, each in enumerate(self.texts))
        path.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Text(Recipe):
    """Text or code: a folder, a file, or the column of texts of a .jsonl or .parquet file."""

    Facts: ClassVar[type] = TextFacts
    Ask: ClassVar[type] = TextAsk
    Measure: ClassVar[type] = Measured
    verbs: ClassVar[Mapping[str, str]] = {
        "fill": "sfumato.fields.text.verbs:Fill", "score": "sfumato.fields.text.verbs:Score",
        "repair": "sfumato.fields.text.verbs:Repair", "write": "sfumato.fields.text.verbs:Write",
    }  # fmt: skip

    data: Positional[Path]
    """Folder (searched to any depth), text file, .jsonl or .parquet."""
    suffixes: tuple[str, ...] = ()
    """Of the files of a folder that are read (none: those of text and code that are known)."""
    skip: tuple[str, ...] = ()
    """Names of folders that are left out."""
    column: str = "text"
    """Of .jsonl and .parquet: where the texts are."""
    prompts: str | None = None
    """Of .jsonl and .parquet: where the prompts are, which come before the texts, in sight, and are not learned."""
    suffix: str | None = None
    """Of the files that are written (none: that of most of the text)."""
    vocab: int = 2048
    """Pieces of the vocabulary, fitted to the training text."""
    window: int | None = None
    """Tokens seen at once (none: 128 on a CPU, 256 on an accelerator)."""
    held_out: float = 0.05
    """Share of the documents kept out of training, to measure with."""
    prefix: float = 0.25
    """Share of training in which the beginning is given."""
    hole: float = 0.25
    """Share of training in which both sides of a hole are given."""
    stretch: float = 0.2
    """Share of training, of all of it, in which holes are gaps whose length is unknown; 0: such holes cannot be filled."""
    document_mb: float = 4.0
    """Largest document that is read."""
    limit_mb: float = 1000.0
    """Most text that is read."""
    network: TextNetwork = field(default_factory=TextNetwork)
    """Network."""
    method: TokenMethod = field(default_factory=TokenMethod)
    """Diffusion method."""

    def __post_init__(self) -> None:
        check(
            self,
            (256 <= self.vocab <= 60_000, "vocab", "from 256, the bytes alone, to 60000"),
            (self.prompts is None or self.prompts != self.column, "prompts", "another column than --column"),
            (self.window is None or self.window >= 8, "window", "at least 8 tokens"),
            (0 < self.held_out < 1, "held_out", "a share between 0 and 1"),
            (min(self.prefix, self.hole) >= 0 and self.prefix + self.hole <= 1, "hole", "0 or more, with prefix at most 1"),
            (0 <= self.stretch < 1, "stretch", "a share from 0 to below 1"),
            (self.suffix is None or (self.suffix[1:].isalnum() and self.suffix[0] == "."), "suffix", "such as .py"),
            (0 < self.document_mb <= self.limit_mb, "document_mb", "above 0, at most limit_mb"),
            (self.method.process == "masked", "method.process", "'masked': the network is told no time, which random tokens "
             "need"),
        )  # fmt: skip

    @property
    def formats(self) -> tuple[str, ...]:  # type: ignore[override]
        """The suffix of the data, and .txt."""
        own = self.suffix or ".txt"
        return (own,) if own == ".txt" else (own, ".txt")

    # ---- data --------------------------------------------------------------------------------------------------------

    def limits(self) -> Limits:
        """What is read at most."""
        from sfumato.fields.text.files import Limits

        return Limits(int(self.document_mb * 1e6), int(self.limit_mb * 1e6))

    def documents(self, tell: Say) -> list[Document]:
        """The texts. Raises DataError."""
        from sfumato.fields.text.files import Wanted, read

        return read(self.data, tell, Wanted(self.suffixes, self.skip, self.column, self.prompts, self.limits()))

    def prepare(self, run: Run, tell: Say, base: Any = None) -> Text:
        from sfumato.fields.text.data import Corpus
        from sfumato.training.parallel import pick_device

        window = self.window or (128 if pick_device().type == "cpu" else 256)
        corpus = Corpus.of(
            self.documents(tell), vocab=self.vocab, window=window, held_out=self.held_out, tell=tell
        )  # fmt: skip
        masks = self.method.process == "masked"
        facts = dataclasses.replace(corpus.facts, gaps=masks and self.stretch > 0, once=masks)
        corpus.save(run.cache, run.path)
        facts.write(run)
        return dataclasses.replace(
            self, window=corpus.facts.window, vocab=corpus.facts.vocab, suffix=self.suffix or corpus.facts.suffix
        )  # fmt: skip

    def corpus(self, run: Run) -> Corpus:
        """The prepared texts. Raises DataError, RunError."""
        from sfumato.fields.text.data import Corpus

        return Corpus.load(self.facts(run), run.cache, run.path)

    def open(self, run: Run) -> Data:
        corpus = self.corpus(run)
        return Data(corpus.facts, corpus.windows("train"), corpus.windows("held_out"))

    def examine(self) -> Look:
        said: list[str] = []
        documents = self.documents(said.append)
        return Look((*said, *lines_of(documents, self.data)), self)

    # ---- network -----------------------------------------------------------------------------------------------------

    def process(self, facts: TextFacts) -> Masked | UniformTokens:
        return self.method.build(facts.mask)

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        from sfumato.fields.text.network import TokenTransformer

        return {"tokens": TokenTransformer}

    def build(self, facts: TextFacts, device: str) -> nn.Module:
        from sfumato.fields.text.network import TokenTransformer

        wide, deep = (192, 5) if device == "cpu" else (512, 8) if facts.train.tokens > 1_000_000 else (384, 8)
        width = self.network.width or wide
        return TokenTransformer(
            answers=facts.vocab + 1, width=width, depth=self.network.depth or deep,
            heads=next(n for n in range(max(1, width // 64), width + 1) if width % n == 0),
            dropout=self.network.dropout, gaps=facts.gaps, once=facts.once,
        )  # fmt: skip

    def training(self, data: Data, device: str) -> TrainOptions:
        from sfumato.jobs.recipe import usual_batch

        return TrainOptions(batch=usual_batch(len(data.train), 32 if device == "cpu" else 256))

    def task(self, data: Data, network: nn.Module) -> Task:
        from sfumato.fields.text.contexts import Contexts, Hidden, Stretched

        criterion = Stretched(gaps_of(data.facts), self.stretch) if data.facts.gaps else Hidden()
        times = Contexts(self.prefix, self.hole)
        return dataclasses.replace(super().task(data, network), times=times, criterion=criterion, judged=Hidden())

    # ---- texts -------------------------------------------------------------------------------------------------------

    def walk(self, name: str = "usual") -> Walk:
        if name not in WALKS:
            raise Wrong(f"walk = {name!r}: must be one of {', '.join(WALKS)}")
        return WALKS[name]

    def queries(self, model: Model, ask: TextAsk, n: int | None) -> TextQueries:
        from sfumato.fields.text.queries import asked

        return asked(ask, self.vocabulary(model.run), model.facts, 4 if n is None else n)

    def vocabulary(self, run: Run) -> Vocabulary:
        """The run's own. Raises DataError."""
        from sfumato.data.vocabulary import Vocabulary
        from sfumato.fields.text.data import TOKENIZER

        return Vocabulary.load(run.path / TOKENIZER)

    def begin(self, process: Any, z: Any, times: Any, query: Mapping[str, Tree]) -> tuple[Tensor, Tensor]:
        from sfumato.fields.text.queries import begun

        return begun(process, z, times, query)

    def guide(self, guess: Guess, query: Mapping[str, Tree]) -> Guess:
        from sfumato.fields.text.queries import held
        from sfumato.fields.text.reading import reader

        return held(reader(guess), query, reader(guess))

    def draw(self, model: Model, queries: Any, numbers: Sequence[int]) -> Iterator[Drawn]:
        from sfumato.fields.text.queries import carried_on, in_blocks

        if queries.block and queries.layout.ends:
            yield from in_blocks(model, queries, numbers)
            return
        for drawn in model.draw(queries, numbers):
            yield carried_on(model, queries, drawn)

    def things(self, model: Model, queries: Any, drawn: Drawn) -> list[Written]:
        x: Any = drawn.x
        layout = queries.layout.longer(x.shape[1])
        out = []
        for row in x.cpu().numpy():
            text = layout.written(row, queries.vocabulary)
            shown = text if layout.ends else layout.marked(row, queries.vocabulary)
            out.append(Written(text, shown.decode("utf-8", "replace")))
        return out

    def save(self, thing: Written, path: Path, making: Making) -> Path:
        path.write_bytes(thing.text)
        path.with_name(path.name + ".json").write_text(making.text(), encoding="utf-8")
        return path

    def write(
        self, model: Model, queries: Queries, things: Iterable[tuple[int, Any]], out: Path, making: Making
    ) -> Iterator[Path]:
        for number, thing in things:
            path = self.save(
                thing, out / f"{number:04d}{making.suffix or self.formats[0]}", making.of(queries, number)
            )  # fmt: skip
            yield path
            yield path.with_name(path.name + ".json")

    def picture(self, model: Model, things: Sequence[Written], columns: int | None = None) -> Sheet:
        return Sheet(things)

    def measurable(self, model: Model, measure: Measured, ask: TextAsk) -> None:
        """Documents enough are held out, and what is to be written can be asked for."""
        from sfumato.fields.text.measure import choose

        choose(self.corpus(model.run), measure.tokens)
        if measure.n:
            self.queries(model, ask, measure.n)

    def evaluate(self, model: Model, measure: Measured, ask: TextAsk) -> Report:
        from sfumato.fields.text.evaluate import evaluate

        return evaluate(model, measure, ask)

    def usage(self) -> Iterable[str]:
        return (
            'Texts: `sfumato sample RUN -n 8 --prompt "import "`. '
            "Holes, marked with <fill> in a file: `sfumato text fill RUN FILE`. What it doubts: `sfumato text repair RUN FILE`, "
            "and how usual texts are to it: `sfumato text score RUN PATH`.",
        )


def gaps_of(facts: TextFacts) -> Gaps:
    """The gaps of a run. Raises Wrong where it has learned none."""
    from sfumato.diffusion.gaps import Gaps

    if not facts.gaps:
        raise Wrong(
            "this run has learned no gaps of unknown length: say how long holes are, or train one with --stretch above 0"
        )
    return Gaps(**facts.rules)


def lines_of(documents: Sequence[Document], data: Path) -> list[str]:
    """What was found: how much, of which suffixes, and the longest line."""
    size = sum(len(document.text) for document in documents)
    kinds: Counter[str] = Counter()
    for document in documents:
        kinds[PurePath(document.name.partition("[")[0]).suffix.lower() or "no suffix"] += len(document.text)
    lines = sum(document.text.count(b"\n") for document in documents)
    longest = max((len(line), document.name) for document in documents for line in document.text.splitlines() or [b""])
    given = sum(document.given for document in documents)
    shares = ", ".join(f"{suffix} {part / size:.0%}" for suffix, part in kinds.most_common(8))
    return [
        f"{len(documents):,} documents in {data}, {size / 1e6:,.2f} MB, {lines:,} lines",
        f"suffixes  {shares}",
        f"longest   a line of {longest[0]:,} bytes, in {json.dumps(longest[1])}",
        *([f"prompts   {given / size:.0%} of the bytes, given and not learned"] if given else []),
    ]


RECIPE = Text
