"""One request at work: its samples drawn, made into things, written as the field's files, shown on the way."""

from __future__ import annotations

import dataclasses
import io
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sfumato.diffusion import Drawn, tree
from sfumato.errors import Wrong
from sfumato.jobs.making import Making
from sfumato.jobs.model import Model
from sfumato.jobs.strict import options, to_plain
from sfumato.jobs.walk import Walk
from sfumato.serving.engine import Engine
from sfumato.serving.rows import Row
from sfumato.serving.served import Asker, Served, gated

SHOWN = 64
"""Things on a sheet at most, of a field that writes one file."""
LARGEST = 1 << 24
"""Numbers of one sample at most."""
PLAIN = {".png", ".gif", ".jpg", ".jpeg", ".webp", ".mp4", ".webm", ".csv"}
"""Files that a browser shows as they are: of others the field draws a view."""
LOOKING = threading.Lock()
"""Held while a picture is made: what draws curves and maps (matplotlib) is made for one thread."""
OFTEN = 0.05
"""Seconds between two words on how far a request is."""

Tell = Callable[..., None]
"""Told what happens: op, id, ... and bytes."""


@dataclass(frozen=True)
class Wish:
    """What is asked for, as the worker is told it.

    numbers: of the samples, if other than all. previews: looks at each sample on the way. film: every state is kept, there
    and back. files: options of the query that are files -> their names for people.
    """

    id: str
    run: str
    folder: str
    n: int | None = None
    numbers: tuple[int, ...] | None = None
    query: dict[str, Any] = field(default_factory=dict)
    walk: dict[str, Any] = field(default_factory=dict)
    named: str = "usual"
    seed: int = 0
    format: str = ""
    previews: int = 0
    film: bool = False
    exact: bool = False
    share: str = ""
    files: dict[str, str] = field(default_factory=dict)
    most_rows: int = 256
    most_steps: int = 1000


@dataclass(frozen=True)
class Laden:
    """A run that is served: its name, its model, what its weights are known by."""

    name: str
    model: Model
    weights: str


@dataclass(frozen=True)
class Named(Served):
    """A served model whose things say the name of the run and not where it lies."""

    name: str = ""
    weights: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def making(self, ask: Any, suffix: str = "") -> Making:
        asked = {**to_plain(ask), **self.files}
        return Making(
            self.name, self.weights, self.drawing.seed, asked, to_plain(self.walk), to_plain(self.drawing), suffix=suffix
        )  # fmt: skip


def packed(store: Path) -> Path:
    """A thing that is a folder, such as a zarr store, as one file that readers of it open too."""
    file = store.with_name(f"{store.name}.zip")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as out:
        for path in sorted(store.rglob("*")):
            if path.is_file():
                out.write(path, str(path.relative_to(store)))
    shutil.rmtree(store)
    return file


class Work:
    """A request: prepared (which refuses what makes no sense), then done."""

    def __init__(
        self, wish: Wish, laden: Laden, engine: Engine, tell: Tell, show: Callable[[Callable[[], None]], None]
    ):
        self.wish, self.laden, self.engine, self.tell, self.show = wish, laden, engine, tell, show
        self.asker = Asker(wish.share, wish.exact, look=self._looked, end=self._arrived if wish.film else None)
        self.number = -1
        self.made: dict[int, Any] = {}
        self.told, self.steps = 0.0, dict[int, tuple[int, int]]()
        self.lock = threading.Lock()

    @torch.no_grad()
    def prepare(self) -> None:
        """What will be drawn. Raises Wrong, DataError for what makes no sense in this run."""
        wish, laden = self.wish, self.laden
        loaded = laden.model
        walk = loaded.walked(options(Walk, wish.walk), wish.named)
        if (walk.steps or 0) > wish.most_steps:
            raise Wrong(f"steps = {walk.steps}: must be at most {wish.most_steps} here")
        own = {each.name: getattr(loaded, each.name) for each in dataclasses.fields(Model)}
        own |= {"walk": walk, "drawing": dataclasses.replace(loaded.drawing, seed=wish.seed)}
        own["denoiser"] = gated(loaded.denoiser, self.engine, self.asker)
        self.model = Named(
            **own, engine=self.engine, asker=self.asker, name=laden.name, weights=laden.weights, files=wish.files
        )
        self.model.solver(walk), self.model.grid(walk), self.model.guided(walk)
        self.ask = options(loaded.recipe.Ask, wish.query)
        self.recipe = loaded.recipe
        for name, file in self.recipe.named_files(self.ask):
            raise Wrong(f"{name} = {file[-60:]!r}: a file that is named and does not come along is not read here")
        if wish.format and wish.format not in self.recipe.formats:
            raise Wrong(f"format = {wish.format!r}: must be one of {', '.join(self.recipe.formats)}")
        self.queries = self.recipe.queries(self.model, self.ask, wish.n)
        self.numbers = list(range(len(self.queries)) if wish.numbers is None else wish.numbers)
        if len(self.numbers) > wish.most_rows or max(self.numbers, default=0) >= len(self.queries):
            raise Wrong(f"n = {wish.n}: makes {len(self.numbers)} samples, and {wish.most_rows} are drawn at most")
        blank = self.queries.batch(self.numbers[:1])["x"]
        if sum(leaf.numel() for leaf in tree.leaves(blank)) > LARGEST:
            raise Wrong(f"n = {wish.n}: a sample of more than {LARGEST:,} numbers; ask for a smaller one")

    @torch.no_grad()
    def do(self) -> None:
        """All of it. Raises Cancelled, and whatever went wrong."""
        out, single, suffix = self.recipe.destination(self.model, None, self.wish.format)
        folder = Path(self.wish.folder)
        desk = folder / out.name if single else folder
        making = self.model.making(self.ask, suffix)
        things: list[tuple[int, Any]] = []

        def each() -> Iterator[tuple[int, Any]]:
            for drawn in self.recipe.draw(self.model, self.queries, self.numbers):
                for number, thing in zip(
                    drawn.numbers, self.recipe.things(self.model, self.queries, drawn), strict=True
                ):
                    if not single:
                        self._finish(folder, things)
                        things.append((number, thing))
                    elif len(things) < SHOWN:
                        things.append((number, thing))
                    self.number = 0 if single else number
                    yield number, thing

        self.files: list[str] = []
        for path in self.recipe.write(self.model, self.queries, each(), desk, making):
            self.files.append(str((packed(path) if path.is_dir() else path).relative_to(folder)))
        if single and not self.files:  # linked tables go into a folder
            every = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
            self.files = sorted(str(path) for path in every if path.parts[0] != "given")
        self.text = making
        self._finish(folder, things, single)

    def _finish(self, folder: Path, things: list[tuple[int, Any]], single: bool = False) -> None:
        """Tell of the thing whose files are all there, with what shows it."""
        if not things or not self.files:
            return
        number = 0 if single else things[0][0]
        main = next((name for name in self.files if Path(name).suffix.lower() in self.recipe.formats), self.files[0])
        main = next((name for name in self.files if Path(name).suffix == (self.wish.format or "?")), main)
        view = (
            main if Path(main).suffix.lower() in PLAIN else self._viewed(folder, [thing for _, thing in things], number)
        )
        making = self.model.making(self.ask, Path(main.removesuffix(".zip")).suffix)
        if not single and len(things) == 1:  # of several in one file it is that of the set
            making = making.of(self.queries, number)
        self.tell(
            op="thing", id=self.wish.id, number=number, files=self.files, main=main, view=view,
            name=making.name, making=to_plain(making),
        )  # fmt: skip
        self.files = []
        things.clear()

    def _viewed(self, folder: Path, things: Sequence[Any], number: int) -> str:
        """A picture of things by their field, as a file beside them; "" where there is nothing to see."""
        with LOOKING:
            sheet = self.recipe.picture(self.model, things[:SHOWN])
            if sheet is None:
                return ""
            name = f"view-{number:04d}{getattr(sheet, 'suffix', '.png')}"
            sheet.save(folder / name)
        return name

    # ---- on the way: called by the engine -------------------------------------------------------------------------------

    def _looked(self, number: int, step: int, steps: int, drawn: Callable[[], Drawn]) -> None:
        self.steps[number] = (step, steps)
        now = time.monotonic()
        if now - self.told > OFTEN or step == steps:
            self.told = now
            done, of = (sum(pair[i] for pair in self.steps.values()) for i in (0, 1))
            self.tell(op="step", id=self.wish.id, number=number, i=step, n=steps, done=done, of=of)
        looks = steps if self.wish.film else self.wish.previews
        if looks and step < steps and (step * looks) // steps > ((step - 1) * looks) // steps:
            self._look("preview", number, step, steps, drawn())

    def _arrived(self, row: Row) -> None:
        """Of a film: the way into noise, from what was drawn, at the times of the way back."""
        process = self.model.process
        z = process.prior(row.x_t, row.begin()[2])
        for i, t in enumerate(reversed(row.times)):
            x_t = process.interpolate(row.x_t, z, t)
            self._look("noising", row.number, i, row.steps, Drawn(x_t, row.query, [row.number], {}))

    def _look(self, what: str, number: int, step: int, steps: int, drawn: Drawn) -> None:
        def show() -> None:
            if self.asker.gone:
                return
            raw, kind = self.pictured(drawn)
            if raw:
                self.tell(raw, op=what, id=self.wish.id, number=number, i=step, n=steps, type=kind)

        self.show(show)

    @torch.no_grad()
    def pictured(self, drawn: Drawn) -> tuple[bytes, str]:
        """A state as a person sees it, and its type; nothing where the field cannot show one on the way."""
        with LOOKING:
            return self._pictured(drawn)

    def _pictured(self, drawn: Drawn) -> tuple[bytes, str]:
        try:
            sheet: Any = self.recipe.picture(self.model, self.recipe.things(self.model, self.queries, drawn))
        except Exception:  # a step of a rollout is no thing of its field yet
            return b"", ""
        if sheet is None:
            return b"", ""
        suffix = getattr(sheet, "suffix", ".png")
        if suffix == ".png":
            try:
                stream = io.BytesIO()
                sheet.save(stream, format="PNG")
                return stream.getvalue(), "image/png"
            except (TypeError, AttributeError):  # one that saves itself to files alone
                pass
        path = Path(self.wish.folder) / f".look-{threading.get_ident()}{suffix}"
        sheet.save(path)
        raw = path.read_bytes()
        path.unlink()
        return raw, "image/png" if suffix == ".png" else "image/gif" if suffix == ".gif" else "text/plain"
