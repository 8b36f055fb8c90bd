"""Drawing bundles of a set: batch by batch, each kept until the bundle is whole."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.jobs.bulk import Bulk, Bundle

if TYPE_CHECKING:
    from sfumato.diffusion import Drawn
    from sfumato.diffusion.generate import Queries
    from sfumato.diffusion.tree import Tree
    from sfumato.jobs.model import Model

Look = Callable[[int, bool], None]
"""Samples of the bundle that are there so far, and whether one more batch begins (True) or has ended: for bars, and to leave."""
SHOWN = 64
"""Samples on the sheet."""


@contextmanager
def one_thread() -> Iterator[None]:
    """On a CPU a process draws with one thread: sums of several are rounded by how many there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Drawer:
    """Makes bundles of a set in this process."""

    def __init__(self, bulk: Bulk, model: Model | None = None, queries: Queries | None = None):
        from sfumato.jobs.model import load

        self.bulk = bulk
        self.model = load(bulk.run, bulk.walk, bulk.drawing, bulk.named) if model is None else model
        made: Any = self.model.recipe.queries(self.model, bulk.ask, bulk.n) if queries is None else queries
        self.queries: Queries = made
        self.called = 0
        self.model.denoiser.network.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.called += 1

    def make(self, place: int, look: Look = lambda done, begins: None) -> None:
        """Draw what is left of a bundle, and commit it. Whatever ``look`` raises leaves what was drawn kept."""
        bulk, recipe = self.bulk, self.model.recipe
        bundle, desk = bulk.bundle(place), bulk.desk()
        made = desk / bulk.file(bundle).name
        calls: dict[int, int] = {}
        shown: list[tuple[int, Any]] = []

        def things() -> Iterator[tuple[int, Any]]:
            for drawn, own in self._batches(bundle, look):
                calls.update(own)
                pairs = list(zip(drawn.numbers, recipe.things(self.model, self.queries, drawn), strict=True))
                shown.extend(pairs[: SHOWN - len(shown)] if not place else ())
                yield from pairs

        try:
            target = made if bulk.single else desk / "files"
            if not bulk.single:
                target.mkdir(exist_ok=True)
            files = recipe.write(self.model, self.queries, things(), target, bulk.making)
            if bulk.single:
                (made,) = files
            else:
                _packed(files, made)
            self._show(shown)  # before, for who has the bundle has the sheet
            bulk.commit(bundle, made, [calls[number] for number in range(bundle.first, bundle.stop)])
        finally:
            shutil.rmtree(desk, ignore_errors=True)

    def _show(self, shown: list[tuple[int, Any]]) -> None:
        """A sheet of the first samples, where there is something to see; what goes wrong with it costs nothing else."""
        if not shown:
            return
        with suppress(Exception):
            sheet = self.model.recipe.picture(
                self.model, [thing for _, thing in sorted(shown, key=lambda pair: pair[0])]
            )
            if sheet is not None:
                file = self.bulk.folder / f"grid{getattr(sheet, 'suffix', '.png')}"
                fresh = file.with_name(f".{os.getpid()}-{file.name}")
                sheet.save(fresh)
                os.replace(fresh, file)

    def _batches(self, bundle: Bundle, look: Look) -> Iterator[tuple[Drawn, dict[int, int]]]:
        """The batches of a bundle, and the calls for each number: those that are kept, and the others drawn and kept."""
        from sfumato.diffusion.generate import bunches

        numbers, done = range(bundle.first, bundle.stop), 0
        every = list(bunches(self.queries, numbers, self.model.walk.batch or 16))
        for place, own in enumerate(every):
            file = self.bulk.drawn(bundle) / f"{place:06d}.safetensors"
            found = self._kept(file, own)
            if found is None:
                look(done, True)
                found = self._drawn(own)
                if len(every) > 1:
                    _keep(file, *found)
            done += len(own)
            look(done, False)
            yield found

    def _drawn(self, numbers: Sequence[int]) -> tuple[Drawn, dict[int, int]]:
        """One batch, in as many pieces as the field or a lack of memory makes of it, as one."""
        from sfumato.diffusion import tree

        before, pieces = self.called, []
        calls: dict[int, int] = {}
        for piece in self.model.recipe.draw(self.model, self.queries, numbers):
            pieces.append(piece)
            told = (
                piece.scores["calls"].tolist()
                if "calls" in piece.scores
                else [self.called - before] * len(piece.numbers)
            )
            calls.update(zip(piece.numbers, told, strict=True))
            before = self.called
        first = pieces[0]
        if len(pieces) > 1:
            x, query, scores = (
                tree.join(*(getattr(piece, name) for piece in pieces)) for name in ("x", "query", "scores")
            )  # fmt: skip
            first = first._replace(x=x, query=query, scores=scores, numbers=[n for p in pieces for n in p.numbers])
        return first, calls

    def _kept(self, file: Path, numbers: Sequence[int]) -> tuple[Drawn, dict[int, int]] | None:
        """A batch that was kept; None where none was, or another, or it is torn."""
        from sfumato.diffusion import Drawn, tree
        from sfumato.training import checkpoint

        if not file.is_file():
            return None
        try:
            tensors, about = checkpoint.read_weights(file)
            told = json.loads(about["batch"])
            if sorted(told["numbers"]) != sorted(numbers):
                return None
            device = "cpu" if told["cpu"] else self.model.device
            x, scores = (tree.to(_grown(told[name], tensors), device) for name in ("x", "scores"))
            calls = dict(zip(told["numbers"], told["calls"], strict=True))
        except (checkpoint.CheckpointError, ValueError, KeyError, TypeError):
            return None
        query = tree.to(dict(self.queries.batch(told["numbers"])), device)
        return Drawn(x, query, told["numbers"], scores), calls


def _keep(file: Path, drawn: Drawn, calls: dict[int, int]) -> None:
    """Keep a batch. No wait for the disk: what a power cut tears is known by its checksum and drawn again."""
    from sfumato.diffusion import tree
    from sfumato.training import sums, whole

    tensors: dict[str, Any] = {}
    numbers = [int(number) for number in drawn.numbers]
    try:
        shape = {name: _cut(getattr(drawn, name), tensors) for name in ("x", "scores")}
    except TypeError:  # a field whose samples are no tensors: its bundles are drawn in one go
        return
    here = tree.first(drawn.x).device.type == "cpu"
    told = {"numbers": numbers, "cpu": here, "calls": [calls[number] for number in numbers], **shape}
    about = {"batch": json.dumps(told)}
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    with suppress(FileNotFoundError):  # another process made the same bundle and cleared up
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            whole.write_tensors(fresh, tensors, sums.summed(tensors, about))
            os.replace(fresh, file)
        finally:
            fresh.unlink(missing_ok=True)


def _cut(tree: Tree, tensors: dict[str, Any]) -> Any:
    """The tensors of a tree, into ``tensors``, and where each of them stands in it."""
    from torch import Tensor

    if isinstance(tree, Tensor):
        tensors[str(len(tensors))] = tree
        return len(tensors) - 1
    if not isinstance(tree, dict):
        raise TypeError(type(tree).__name__)
    return {name: _cut(value, tensors) for name, value in tree.items()}


def _grown(shape: Any, tensors: dict[str, Any]) -> Tree:
    """The tree again."""
    if isinstance(shape, dict):
        return {name: _grown(value, tensors) for name, value in shape.items()}
    return tensors[str(shape)]


def _packed(files: Iterator[Path], made: Path) -> None:
    """Files as they come into a tar that is the same whoever makes it, and when."""
    with tarfile.open(made, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in files:
            info = tarfile.TarInfo(path.name)
            info.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(info, file)
            path.unlink()
