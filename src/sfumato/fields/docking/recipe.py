"""Docking: known poses -> many poses of other small molecules in the same or another pocket, ranked.

What DiffDock does (Corso et al. 2022, arXiv 2210.01776) on a pocket that is known: centre, turn and torsions of a conformer are
drawn by diffusion, and a known pose of a similar ligand is shown beside the pocket.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sfumato.errors import Wrong, check
from sfumato.fields.docking.facts import DockingFacts
from sfumato.fields.docking.options import POSES, DockingAsk, DockingMeasure, DockingMethod, PoseNetworkOptions
from sfumato.jobs.flags import Positional
from sfumato.jobs.making import Making
from sfumato.jobs.recipe import Data, Look, Recipe, Say
from sfumato.jobs.walk import Walk
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

if TYPE_CHECKING:
    from torch import nn

    from sfumato.diffusion import Drawn, Product
    from sfumato.diffusion.generate import Queries
    from sfumato.fields.docking.asking import Pose
    from sfumato.fields.docking.companions import Companions
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.training.objective import Savable, Task
    from sfumato.training.run import Run


@dataclass(frozen=True)
class Docking(Recipe):
    """Poses of ligands in a pocket: from complexes, or from one receptor and known poses in its frame."""

    Facts: ClassVar[type] = DockingFacts
    Ask: ClassVar[type] = DockingAsk
    Measure: ClassVar[type] = DockingMeasure
    verbs: ClassVar[Mapping[str, str]] = {"rank": "sfumato.fields.docking.verbs:Rank"}
    guided: ClassVar[tuple[str, ...]] = ("template", "kin")
    formats: ClassVar[tuple[str, ...]] = (".sdf",)

    data: Positional[Path]
    """Folder of ID/ID_protein.pdb and ID/ID_ligand.sdf; or of one receptor and .mol or .sdf poses in its frame; or a table
    id,target,protein,ligand,fold."""
    fold: int | None = None
    """Hold out the complexes of this fold of the table (none: whole scaffolds, a share of all)."""
    held_out: float = 0.1
    """Share of the complexes held out, whole scaffolds, where no fold is."""
    pocket: int = 48
    """Residues of a pocket that are shown, the nearest to the site."""
    drop: float = 0.15
    """Share of the training rows that are shown no template."""
    jitter: float = 1.0
    """A by which each complex learned from is moved as a whole (and turned by a sixth of it in radians), so that a place in the
    receptor's frame is learned with those around it."""
    copies: int = 4
    """Noise copies of each row of a batch, which share what is made of pocket and template."""
    network: PoseNetworkOptions = field(default_factory=PoseNetworkOptions)
    """Network."""
    method: DockingMethod = field(default_factory=DockingMethod)
    """Diffusion method."""

    def __post_init__(self) -> None:
        check(
            self,
            (0 < self.held_out < 1, "held_out", "a share between 0 and 1"),
            (4 <= self.pocket <= 4096, "pocket", "from 4 to 4096 residues"),
            (0 <= self.drop < 1, "drop", "a share from 0 to below 1"),
            (0 <= self.jitter <= 20, "jitter", "from 0 to 20 A"),
            (1 <= self.copies <= 256, "copies", "from 1 to 256"),
        )

    # ---- data --------------------------------------------------------------------------------------------------------

    def examine(self) -> Look:
        from sfumato.fields.docking.looks import examined

        lines, sound = examined(self.data)
        return Look(lines, self, sound)

    def prepare(self, run: Run, tell: Say, base: Any = None) -> Docking:
        from sfumato.fields.docking.complexes import found
        from sfumato.fields.docking.preparing import prepare

        prepare(run, found(self.data), self.fold, self.held_out, self.pocket, tell)
        return self

    def open(self, run: Run) -> Data:
        store = self.companions(run, None).store
        process = self.method.process
        return Data(store.facts, store.data(store.learned, process, self.jitter), store.data(store.held_out, process))

    def companions(self, run: Run, device: Any) -> Companions:
        """The prepared complexes, and what ranks poses if the run has it."""
        from sfumato.fields.docking.companions import Companions

        return Companions.of(run, self.facts(run))

    # ---- network -----------------------------------------------------------------------------------------------------

    def process(self, facts: DockingFacts) -> Product:
        return self.method.build()

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        from sfumato.fields.docking.network import PoseNetwork

        return {"pose": PoseNetwork}

    def build(self, facts: DockingFacts, device: str) -> nn.Module:
        from sfumato.fields.docking.network import PoseNetwork

        options = self.network
        width, depth, heads = (512, 12, 16) if options.size == "large" else (96, 4, 4)
        frame = options.frame
        if frame == "auto":
            frame = "receptor" if len(facts.receptors) <= 4 else "free"
        return PoseNetwork(
            width=options.width or width, depth=options.depth or depth, heads=options.heads or heads, process=self.method.process,
            frame=frame, kin=options.kin,
        )  # fmt: skip

    def task(self, data: Data, network: nn.Module) -> Task:
        return dataclasses.replace(super().task(data, network), copies=self.copies)

    def training(self, data: Data, device: str) -> TrainOptions:
        return TrainOptions(batch=8 if device == "cpu" else 64, optim=OptimOptions(lr=2e-3))

    # ---- samples -----------------------------------------------------------------------------------------------------

    def walk(self, name: str = "usual") -> Walk:
        """10 steps even in time, with as much fresh noise as the process has; unguided."""
        super().walk(name)  # which refuses other names
        return Walk(steps=10, grid="uniform", eta=float(self.method.process != "flow"), w=1.0, batch=40)

    def queries(self, model: Model, ask: DockingAsk, n: int | None) -> Queries:
        from sfumato.fields.docking.asking import asked
        from sfumato.fields.docking.coding import CODINGS

        found = asked(model.companions.store, ask, POSES if n is None else n)
        return dataclasses.replace(found, coding=CODINGS[self.method.process], search=ask.search, settle=ask.settle)

    def draw(self, model: Model, queries: Any, numbers: Sequence[int]) -> Iterator[Drawn]:
        from sfumato.fields.docking.things import drawn

        return drawn(model, queries, numbers)

    def named_files(self, ask: DockingAsk) -> Iterable[tuple[str, str]]:
        """Ligands, and receptors of a table, that are files."""
        from sfumato.fields.docking.asking import files_of

        return files_of(ask)

    def things(self, model: Model, queries: Any, drawn: Drawn) -> list[Pose]:
        from sfumato.fields.docking.things import poses_of

        return poses_of(queries, drawn)

    def save(self, thing: Pose, path: Path, making: Making) -> Path:
        from sfumato.fields.docking.writing import save

        return save([thing], path, making)

    def write(
        self, model: Model, queries: Any, things: Iterable[tuple[int, Any]], out: Path, making: Making
    ) -> Iterator[Path]:
        """A file for each ligand, its poses in the order of their rank, and poses.csv."""
        from sfumato.fields.docking.writing import write

        return write(model.companions, queries, [pose for _, pose in things], out, making)

    def bundled(self, model: Model, queries: Any) -> None:
        raise Wrong("the poses of a ligand go into one file: leave out --shard, --workers, --bundle and --ray")

    def picture(self, model: Model, things: Sequence[Any], columns: int | None = None) -> Savable | None:
        """Poses over the known one, or over the template."""
        from sfumato.fields.docking.looks import sheet
        from sfumato.jobs.plots import available

        return sheet(model.companions, things) if things and available() else None

    def measurable(self, model: Model, measure: DockingMeasure, ask: DockingAsk) -> None:
        from sfumato.fields.docking.measure import cases

        cases(model, measure, ask)

    def evaluate(self, model: Model, measure: DockingMeasure, ask: DockingAsk) -> Report:
        from sfumato.fields.docking.measure import evaluate

        return evaluate(model, measure, ask)

    def usage(self) -> Iterable[str]:
        return (
            "Dock: `sfumato sample RUN --ligand 'CC(=O)Nc1ccccc1' -n 40 --out poses`, ranked SDF and poses.csv. Learn to rank on",
            "what was held out: `sfumato docking rank RUN`. How good the poses are: `sfumato evaluate RUN`.",
        )


RECIPE = Docking
