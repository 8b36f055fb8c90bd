"""Pictures from a folder (or an array file): the main job."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tyro.conf import Positional

from sfumato.errors import Wrong, check
from sfumato.fields.images import measure
from sfumato.jobs.facts import read_facts
from sfumato.jobs.methods import MethodOptions
from sfumato.jobs.recipe import Prepared, Say
from sfumato.jobs.walk import Habits
from sfumato.networks.options import NetworkOptions, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from PIL.Image import Image
    from torch import Tensor, nn

    from sfumato.data import Scan
    from sfumato.diffusion import Equilibrium, Gaussian
    from sfumato.jobs.walk import SampleOptions
    from sfumato.training.objective import Task
    from sfumato.training.run import Run

ARRAYS = (".npy", ".npz")


@dataclass(frozen=True)
class Images:
    """Pictures from a folder, or an array of pictures or vectors in a .npy or .npz file."""

    Measure: ClassVar[type] = measure.Measure
    verbs: ClassVar[Mapping[str, str]] = {}
    demo: ClassVar[str] = "sfumato.fields.images.demo:demo"

    data: Positional[Path]
    """Folder (searched to any depth), .npy or .npz."""
    side: int | None = None
    """Pictures are cropped to squares and resized to this many pixels."""
    labels: bool = False
    """Learn the names of the sub-folders as classes."""
    held_out: float = 0.1
    """Share of the pictures kept out of training, to measure with."""
    broken_budget: float = 0.01
    """Share of broken files that is skipped with a warning; more stops the run."""
    drop: float = 0.1
    """Share of training samples whose class is hidden, for guidance."""
    network: NetworkOptions = field(default_factory=NetworkOptions)
    """Network."""
    method: MethodOptions = field(default_factory=MethodOptions)
    """Diffusion method."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.side is None or self.side >= 4, "side", "at least 4 pixels"),
            (0 < self.held_out < 1, "held_out", "a share between 0 and 1"),
            (0 <= self.broken_budget < 1, "broken_budget", "a share from 0 to below 1"),
            (0 <= self.drop < 1, "drop", "a share from 0 to below 1"),
        )

    # ---- data --------------------------------------------------------------------------------------------------------

    def scan(self, say: Say) -> Scan:
        """Decode every picture once and see what is there. Raises DataError beyond the budget of broken files."""
        from sfumato.data import check_budget, scan
        from sfumato.training.progress import Watch

        with Watch("look at pictures", 1, unit="pictures") as watch:

            def progress(done: int, total: int) -> None:
                watch.total = total
                watch.bar.update(watch.task, total=total)
                watch.show(done)

            found = scan(self.data, labels=self.labels, workers=os.cpu_count() or 1, progress=progress)
        if found.complaints:
            share = len(found.complaints) / (len(found.files) + len(found.complaints))
            say(f"{len(found.complaints)} broken file(s) skipped ({share:.1%}):")
            for complaint in found.complaints[:10]:
                say(f"  {complaint}")
        check_budget(found, self.broken_budget)
        return found

    def chosen_side(self, scan: Scan) -> int:
        """The side asked for, or: 32 on a CPU, 64 on a GPU, less if the pictures are smaller."""
        from sfumato.training.parallel import pick_device

        if self.side is not None:
            return self.side
        wanted = 32 if pick_device().type == "cpu" else 64
        smallest = max(8, scan.median_side)
        return min(wanted, smallest - smallest % 4)

    def prepare(self, run: Run, say: Say) -> tuple[Images, Prepared]:
        import numpy as np

        from sfumato.data import DataError, gather, open_array, shown
        from sfumato.training.run import write_text

        if self.data.suffix.lower() in ARRAYS:
            found = open_array(self.data)
            array, labels = found.x, found.labels if self.labels else None
            classes = tuple(str(c) for c in range(int(labels.max()) + 1)) if labels is not None else ()
            keys = [np.ascontiguousarray(item).tobytes() for item in array] if array.nbytes < 2**30 else None
            names: Any = self.data.name
            recipe = self
        else:
            scan = self.scan(say)
            recipe = dataclasses.replace(self, side=self.chosen_side(scan))
            assert recipe.side is not None
            array = gather(scan, recipe.side, run.cache / "pictures.npy")
            labels, classes, keys = scan.label_numbers, scan.classes if self.labels else (), list(scan.digests)
            names = [shown(os.path.relpath(path, self.data)) for path in scan.files]
        train, held_out = self._split(keys, len(array))
        if not len(held_out):
            raise DataError(
                f"{shown(self.data)}: {len(array)} item(s), all the same; at least two different ones are needed"
            )
        chosen: dict[str, Any] = {} if labels is None else {"labels": labels}
        np.savez(run.cache / "split.npz", train=train, held_out=held_out, **chosen)
        write_text(run.cache / "names.json", json.dumps(names))
        prepared = self._assemble(array, labels, names, train, held_out, classes, None)
        statistics = prepared.statistics
        facts = {
            "mean": statistics.mean, "spread": statistics.spread, "count": statistics.count,
            "shape": list(statistics.shape), "classes": list(classes), "bytes": bool(array.dtype == np.uint8),
        }  # fmt: skip
        write_text(run.path / "data.json", json.dumps(facts, indent=1))
        return recipe, prepared

    def reload(self, run: Run) -> Prepared:
        import numpy as np

        from sfumato.data import DataError, Statistics, open_array

        facts = read_facts(run)
        statistics = Statistics(facts["mean"], facts["spread"], facts["count"], tuple(facts["shape"]))
        try:
            stored = np.load(run.cache / "split.npz", allow_pickle=False)
            names = json.loads((run.cache / "names.json").read_text())
            if self.data.suffix.lower() in ARRAYS:
                array = open_array(self.data).x
            else:
                array = np.load(run.cache / "pictures.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{run.cache}: the prepared data cannot be read ({error}); train again from {self.data}"
            ) from error
        labels = stored.get("labels")
        return self._assemble(
            array, labels, names, stored["train"], stored["held_out"], tuple(facts["classes"]), statistics
        )

    def _split(self, keys: list[bytes] | None, count: int) -> tuple[np.ndarray, np.ndarray]:
        from sfumato.data import split

        return split(keys if keys is not None else [i.to_bytes(8, "little") for i in range(count)], self.held_out)

    def _assemble(
        self,
        array: np.ndarray,
        labels: Any,
        names: Any,
        train: np.ndarray,
        held_out: np.ndarray,
        classes: tuple[str, ...],
        statistics: Any,
    ) -> Prepared:
        from sfumato.data import ArrayDataset, Statistics

        if statistics is None:
            statistics = Statistics.of(array, train, str(self.data))
        parts = [ArrayDataset(array, statistics, labels, names, part) for part in (train, held_out)]
        return Prepared(array, parts[0], parts[1], statistics, classes)

    def examine(self) -> tuple[list[str], Images, bool]:
        from sfumato.data import DataError, check_budget

        bold = dataclasses.replace(self, broken_budget=0.999999)
        if self.data.suffix.lower() in ARRAYS:
            return [], bold, True
        scan = bold.scan(lambda text: None)
        lines = scan_lines(scan, self.data) + (["classes   " + ", ".join(scan.classes)] if self.labels else [])
        try:
            check_budget(scan, self.broken_budget)
        except DataError as error:
            return [*lines, f"training would stop: {error}"], bold, False
        return lines, bold, True

    # ---- network -----------------------------------------------------------------------------------------------------

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        return {}

    def task(self, prepared: Prepared, seed: int) -> Task:
        import torch

        from sfumato import networks
        from sfumato.data.sheet import grid, is_picture
        from sfumato.diffusion import Blanks, independent, key, optimal_transport
        from sfumato.jobs.model import previewed
        from sfumato.training.objective import Task
        from sfumato.training.parallel import pick_device

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key("weights", seed))
            network = networks.choose(
                prepared.statistics.shape,
                count=len(prepared.train),
                classes=len(prepared.classes),
                device=pick_device().type,
                **dataclasses.asdict(self.network),
            )
        return Task(
            network=network,
            process=self.process(),
            train=prepared.train,
            held_out=prepared.held_out,
            times=self.method.distribution(),
            coupling=independent if self.method.coupling == "independent" else optimal_transport,
            uncertainty=self.method.uncertainty,
            hidden={("label",): self.drop} if prepared.classes else {},
            preview=partial(
                previewed,
                draw=partial(grid, statistics=prepared.statistics) if is_picture(prepared.statistics.shape) else None,
                queries=Blanks(torch.zeros(prepared.statistics.shape), 16, every_class(16, len(prepared.classes))),
                seed=seed,
            ),
        )

    def process(self) -> Gaussian | Equilibrium:
        return self.method.build()

    def batch(self, count: int, device: str) -> int:
        return choose_batch(count, device)

    def settled(self, network: nn.Module) -> Images:
        return dataclasses.replace(self, network=settle(self.network, network))

    def learned_from(self, prepared: Prepared) -> str:
        shape, classes = prepared.statistics.shape, len(prepared.classes)
        what = f"{shape[1]}x{shape[2]} pictures" if len(shape) == 3 else f"items of shape {shape}"
        named = f", {classes} classes" if classes else ""
        return f"{len(prepared.train)} {what} to learn from{named}, {len(prepared.held_out)} held out"

    def values(self, prepared: Prepared) -> list[str]:
        statistics = prepared.statistics
        return [f"values    mean {statistics.mean:.3f}, spread {statistics.spread:.3f} (black -1, white 1)"]

    def learned_how(self) -> str:
        return self.method.words()

    def usage(self) -> Iterable[str]:
        return ("Samples: `sfumato sample RUN -n 64 --seed 0 --steps 20 --out samples`.",)

    def evaluate(self, out: Path, asked: measure.Measure, options: SampleOptions) -> str:
        return measure.evaluate(out, asked.data, asked.n, options, asked.samples, asked.measure)

    # ---- samples -----------------------------------------------------------------------------------------------------

    def habits(self) -> Habits:
        return Habits()

    def condition(self, run: Run, options: SampleOptions) -> Callable[[range], dict[str, Tensor]] | None:
        import torch

        classes, label = read_facts(run)["classes"], options.label
        if not classes:
            if label is not None:
                raise Wrong(f"label = {label!r}: {run.path} was trained without classes (use --labels)")
            return None
        if label is not None and label not in classes:
            raise Wrong(f"label = {label!r}: must be one of {', '.join(classes)}")

        def condition(own: range) -> dict[str, Tensor]:
            numbers = own if label is None else [classes.index(label)] * len(own)
            return {"label": torch.tensor([number % len(classes) for number in numbers])}

        return condition

    def draw(self, samples: Tensor, run: Run, columns: int | None = None) -> Image | None:
        from sfumato.data.sheet import grid, is_picture

        statistics = read_statistics(run)
        if not is_picture(statistics.shape):
            return None
        return grid(samples, statistics, columns, least=512 if columns is None else 900)

    def write(self, samples: Tensor, numbers: range, folder: Path, run: Run) -> None:
        """0000.png, 0001.png, ...; what is not a picture becomes 0000.npy, ..."""
        import numpy as np
        from PIL import Image as pil

        from sfumato.data.sheet import is_picture, to_bytes

        statistics = read_statistics(run)
        for number, item in zip(numbers, samples, strict=True):
            if is_picture(statistics.shape):
                pil.fromarray(to_bytes(item[None], statistics)[0]).save(folder / f"{number:04d}.png")
            else:
                np.save(folder / f"{number:04d}.npy", statistics.restore(item.cpu().numpy()))


def scan_lines(scan: Scan, data: Path) -> list[str]:
    """What was found in a folder, and what is broken in it."""
    lines = [f"{len(scan.files)} pictures in {data}, {len(scan.complaints)} broken"]
    lines += [f"  broken: {complaint}" for complaint in scan.complaints]
    lines += ["sizes     " + ", ".join(f"{w}x{h} ({n})" for (w, h), n in scan.sizes.most_common(5))
              + (f" and {len(scan.sizes) - 5} more" if len(scan.sizes) > 5 else "")]  # fmt: skip
    lines += ["modes     " + ", ".join(f"{mode} ({n})" for mode, n in scan.modes.most_common())]
    if scan.handled:
        lines += ["handled   " + ", ".join(f"{what} ({n})" for what, n in scan.handled.most_common())]
    if scan.ignored:
        named = (f"{suffix or 'no suffix'} ({n})" for suffix, n in scan.ignored.most_common())
        lines += ["ignored   " + ", ".join(named)]
    if scan.duplicates:
        lines += [f"duplicates {sum(map(len, scan.duplicates)) - len(scan.duplicates)} pictures appear more than once"]
        lines += ["  same: " + ", ".join(str(path) for path in group[:4]) for group in scan.duplicates[:5]]
    return lines


def read_statistics(run: Run) -> Any:
    """Statistics of a run's data."""
    from sfumato.data import Statistics

    facts = read_facts(run)
    return Statistics(facts["mean"], facts["spread"], facts["count"], tuple(facts["shape"]))


def choose_batch(count: int, device: str) -> int:
    """A batch that suits the number of items: 16 on a CPU, where more steps are worth more than larger ones, up to 256 on
    a GPU, less for few items."""
    most = 16 if device == "cpu" else 256
    while most > 8 and most * 4 > count:
        most //= 2
    return max(1, min(most, count))


def every_class(count: int, classes: int) -> dict[str, Tensor]:
    """Labels that go through the classes in turn, for previews."""
    import torch

    return {"label": torch.arange(count) % classes} if classes else {}


RECIPE = Images
