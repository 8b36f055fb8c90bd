"""The verbs of text alone: `sfumato text fill`, `write`, `score` and `repair`. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sfumato.errors import DataError, check, shown
from sfumato.fields.text.options import TextAsk
from sfumato.jobs.flags import Positional, arg
from sfumato.jobs.recipe import say
from sfumato.jobs.walk import Drawing, Walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfumato.jobs.model import Model
    from sfumato.jobs.outputs import Place

HOLE = 8
"""Tokens of a marked hole that does not say how long it is."""
Encoding = Literal["utf-8", "latin-1", "cp1252"]


@dataclass(frozen=True)
class Fill:
    """Write what is missing in a text by a trained run: holes marked <fill> or <fill:12> (tokens), or lines by their numbers;
    all else is kept to the byte. The text goes to standard output, or to --out."""

    run: Positional[Path]
    """Run directory."""
    file: Positional[Path]
    """Text with holes."""
    lines: tuple[str, ...] = ()
    """Lines to write anew, such as 12 or 10:14, counted from 1; marks are text like any other then."""
    hole: int | None = None
    """Tokens of a hole that does not say how long it is (default: the run finds it; one that has learned no gaps takes 8 for a
    mark, and for lines as many as stand there)."""
    tries: int = 4
    """How often a hole is filled: of a length that the run finds, the likeliest is kept; of Python, one with which the file
    parses comes first."""
    unparsed: bool = False
    """Of Python: take what is written as it comes, whether the file parses with it or not."""
    calls: int | None = None
    """Of holes of known length: ask the network at most so many times a try, and between let what stands elsewhere say which
    token follows (default: as often as the walk has steps)."""
    alone: bool = False
    """Ask the model alone: what stands between the same tokens elsewhere, in the text and in the one that was learned from, does
    not count."""
    draws: int = 1
    """Fillings to draw: NAME-1.py, NAME-2.py, ... of --out NAME.py."""
    out: Path | None = None
    """File to write (default: standard output)."""
    diff: bool = False
    """Show what changed, as a unified diff, and not the whole text."""
    temperature: float = 0.7
    """Below 1 the likely is likelier: fewer blunders, less variety. 1 is the model's own law."""
    encoding: Encoding = "utf-8"
    """Of the file; what is written is spelt in it too."""
    named: Annotated[str, arg(name="walk")] = "surest"
    """A walk that the field knows by name."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __post_init__(self) -> None:
        check(
            self,
            (self.hole is None or self.hole >= 1, "hole", "at least 1 token"),
            (self.draws >= 1, "draws", "at least 1"),
            (self.tries >= 1, "tries", "at least 1"),
            (self.calls is None or self.calls >= 1, "calls", "at least 1"),
            (self.calls is None or not self.alone, "calls", "given without alone: nothing else would say what follows"),
            (
                self.draws == 1 or self.diff or self.out is not None,
                "draws",
                "given with --out, or with --diff, above 1",
            ),
            (0.001 <= self.temperature <= 10, "temperature", "from 0.001 to 10"),
        )

    def __call__(self) -> int:
        from sfumato.fields.text.echo import echoing
        from sfumato.fields.text.filling import Draft, fill
        from sfumato.fields.text.grammar import everything, grammar
        from sfumato.fields.text.opening import fill_open
        from sfumato.fields.text.originals import marked, of_lines, original
        from sfumato.fields.text.showing import Writing
        from sfumato.fields.text.steering import one_line, seldom
        from sfumato.jobs.model import load

        to = places(self.out, self.draws)
        model = load(self.run, self.walk, self.drawing, self.named, field="text")
        file = original(self.file, self.encoding)
        try:
            holes = of_lines(file.text, self.lines) if self.lines else marked(file.text)
            if not self.alone:
                recipe: Any = model.recipe
                draft = Draft.of(file.text, holes, recipe.vocabulary(model.run), 1)
                model = echoing(model, draft.tokens)
                model = model if self.calls is None else seldom(model, self.calls)
            model = one_line(model, holes)
            with Writing() as writing:
                how: Any = {
                    "temperature": self.temperature, "tries": self.tries, "look": writing.show,
                    "accepts": everything if self.unparsed else grammar(file, holes),
                }  # fmt: skip
                if model.facts.gaps and self.hole is None and any(hole.tokens is None for hole in holes):
                    texts = fill_open(model, file, holes, self.draws, **how)
                else:
                    usual = self.hole or (None if self.lines else HOLE)
                    texts = fill(model, file, holes, self.draws, usual=usual, **how)
        except DataError as error:
            raise DataError(f"{shown(self.file)}: {error}") from None
        spelt = [file.spelt(text) for text in texts]
        show(self.file, file.spelt(file.text), spelt, to, self.diff, model)
        say(f"filled    {len(holes)} hole{'s' * (len(holes) > 1)}" + f", {self.draws} times" * (self.draws > 1))
        return 0


@dataclass(frozen=True)
class Write:
    """Write one text by a trained run, after a prompt, to standard output while it is written: block after block from left to
    right, each as soon as it stands. The same seed gives the same text as the first of `sfumato sample --block`."""

    run: Positional[Path]
    """Run directory."""
    prompt: str | None = None
    """How the text begins."""
    prompt_file: Path | None = None
    """The same from a file, which ends where the text goes on."""
    length: int | None = None
    """Tokens of the text, the prompt's among them (default: those of one window)."""
    block: int = 32
    """Tokens written at a time."""
    temperature: float = 0.7
    """Below 1 the likely is likelier: fewer blunders, less variety. 1 is the model's own law."""
    stress: float = 1.0
    """How much the prompt is heeded: 1 as the model does, above it more (guidance; twice the time)."""
    named: Annotated[str, arg(name="walk")] = "usual"
    """A walk that the field knows by name."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __post_init__(self) -> None:
        self.ask()

    def ask(self) -> TextAsk:
        """What is asked for. Raises Wrong."""
        return TextAsk(
            prompt=self.prompt, prompt_file=self.prompt_file, length=self.length, block=self.block,
            temperature=self.temperature, stress=self.stress,
        )  # fmt: skip

    def __call__(self) -> int:
        import dataclasses
        import sys

        from sfumato.fields.text.queries import by_blocks
        from sfumato.fields.text.showing import deliver
        from sfumato.jobs.model import load

        model = load(self.run, self.walk, self.drawing, self.named, field="text")
        walk = dataclasses.replace(model.walk, batch=self.walk.batch or 1)
        recipe: Any = model.recipe
        queries = recipe.queries(model, self.ask(), 1)
        vocabulary, known = queries.vocabulary, int(queries.layout.known.sum())
        deliver(queries.layout.before + vocabulary.decode(queries.layout.tokens[1:known]))
        shown, tokens = known, 0
        for x in by_blocks(model, queries, [0], walk):
            row = x[0].cpu().numpy()
            fresh = row[shown:]
            ends = (fresh == vocabulary.end).nonzero()[0]
            fresh = fresh[: ends[0]] if len(ends) else fresh
            deliver(vocabulary.decode(fresh))
            shown, tokens = len(row), tokens + len(fresh)
            if len(ends):
                break
        sys.stdout.flush()
        say(f"written   {tokens} tokens")
        return 0


@dataclass(frozen=True)
class Score:
    """Say how usual texts are to a trained run: bits per byte of each file, a bound that comes out the same every time, beside
    xz of the file alone; and the lines that are least likely for their length."""

    run: Positional[Path]
    """Run directory."""
    path: Positional[Path]
    """Folder, text file, .jsonl or .parquet."""
    suffixes: tuple[str, ...] = ()
    """Of the files of a folder that are read (none: those of text and code that are known)."""
    skip: tuple[str, ...] = ()
    """Names of folders that are left out."""
    column: str = "text"
    """Of .jsonl and .parquet: where the texts are."""
    span: int = 32
    """Tokens scored at a time, with what is before them in sight: fewer give a tighter bound and take longer."""
    draws: int = 4
    """Masks drawn for each block."""
    lines: int = 10
    """Least likely lines that are shown; 0 for none."""
    out: Path | None = None
    """Write it there too, as JSON: a line a file, with the bits of each of its lines."""
    batch: int | None = None
    """Blocks computed at once."""
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __post_init__(self) -> None:
        check(
            self,
            *((getattr(self, name) >= 1, name, "at least 1") for name in ("span", "draws")),
            (self.lines >= 0, "lines", "0 or more"),
            (self.batch is None or self.batch >= 1, "batch", "at least 1"),
        )

    def __call__(self) -> int:
        from sfumato.fields.text.files import Wanted, every
        from sfumato.fields.text.reporting import json_lines, table
        from sfumato.fields.text.scoring import scored
        from sfumato.jobs.model import load
        from sfumato.training.progress import Watch
        from sfumato.training.telling import show as print_lines

        to = places(self.out, 1)
        model = load(self.run, Walk(batch=self.batch), self.drawing, field="text")
        documents = every(self.path, say, Wanted(self.suffixes, self.skip, self.column))
        watch = Watch("score", 1, unit="blocks")
        with watch:

            def look(done: int, of: int) -> None:
                watch.total = of
                watch.show(done)

            found = scored(model, documents, self.span, self.draws, look)
        print_lines(table(found, self.lines), records=True)
        for place in to:
            write(place, json_lines(found), model)
            say(str(place.path))
        return 0


@dataclass(frozen=True)
class Repair:
    """Put right what was not meant in a text: tokens, and slips of typing in words. Where nothing is sure nothing changes, and
    nothing is drawn. What changes is shown as a diff, with the probability that each was meant."""

    run: Positional[Path]
    """Run directory."""
    file: Positional[Path]
    """Text to repair."""
    lines: tuple[str, ...] = ()
    """Lines in which alone it may change, such as 12 or 10:14, counted from 1."""
    doubt: float | None = None
    """Share of the tokens that were not meant, before looking (default: 0.001, of --lines 0.1)."""
    sure: float = 0.9
    """What is put in their place was meant with this probability at least, and likelier than what stands there."""
    alone: bool = False
    """Ask the model alone: what stands between the same tokens elsewhere, in the text and in the one that was learned from, does
    not count, and words are not weighed."""
    rounds: int = 4
    """Times, at most, that the text is looked through; what was replaced is in sight from then on."""
    out: Path | None = None
    """File to write the whole text to, changed or not."""
    encoding: Encoding = "utf-8"
    """Of the file; what is written is spelt in it too."""
    batch: int | None = None
    """Windows computed at once."""
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __post_init__(self) -> None:
        check(
            self,
            (self.doubt is None or 0 <= self.doubt < 1, "doubt", "from 0 to below 1"),
            (0 < self.sure <= 1, "sure", "above 0, at most 1"),
            (self.rounds >= 1, "rounds", "at least 1"),
            (self.batch is None or self.batch >= 1, "batch", "at least 1"),
        )

    def __call__(self) -> int:
        from sfumato.fields.text.originals import of_lines, original
        from sfumato.fields.text.repairing import repair
        from sfumato.fields.text.reporting import changes
        from sfumato.jobs.model import load
        from sfumato.training.progress import Watch

        to = places(self.out, 1)
        model = load(self.run, Walk(batch=self.batch), self.drawing, field="text")
        file = original(self.file, self.encoding)
        try:
            where = of_lines(file.text, self.lines)
        except DataError as error:
            raise DataError(f"{shown(self.file)}: {error}") from None
        doubt = self.doubt if self.doubt is not None else 0.1 if self.lines else 0.001
        watch = Watch("look", 1, unit="windows")
        with watch:

            def look(done: int, of: int) -> None:
                watch.total = of
                watch.show(done)

            text, made = repair(
                model, file, where, doubt=doubt, sure=self.sure, rounds=self.rounds, alone=self.alone, look=look
            )  # fmt: skip
        show(self.file, file.spelt(file.text), [file.spelt(text)], to, True, model)
        for line in changes(text, made):
            say(line)
        return 0


def places(out: Path | None, count: int) -> list[Place]:
    """Where so many texts go, NAME-1.py, NAME-2.py, ... of several. Raises RunError where something stands there already."""
    from sfumato.jobs.outputs import Place

    if out is None:
        return []
    names = [out] if count == 1 else [out.with_stem(f"{out.stem}-{i + 1}") for i in range(count)]
    found = [Place(name, True) for name in names]
    for place in found:
        place.check()
    return found


def write(place: Place, data: bytes, model: Model) -> None:
    """A file in its place, its making beside."""
    place.clear()
    desk = place.desk
    desk.write_bytes(data)
    place.note([place.put(desk)], model.making(model.recipe.Ask()))


def show(file: Path, before: bytes, texts: Sequence[bytes], to: Sequence[Place], as_diff: bool, model: Model) -> None:
    """Texts made of a file into their places, and on standard output the diffs, or the names, or (without a place) the text."""
    from sfumato.fields.text.showing import deliver, diff

    for place, text in zip(to, texts):
        write(place, text, model)
        (say if as_diff else print)(str(place.path))
    for number, text in enumerate(texts, 1):
        if as_diff:
            deliver(diff(before, text, file.name, f"draw {number}" if len(texts) > 1 else "written"))
        elif not to:
            deliver(text)
