"""Proteins: a sequence -> ranked backbones, N, CA, C and O of each residue.

What AlphaFold 3's diffusion module does (Abramson et al. 2024), small enough for a laptop: a point cloud noised and denoised,
told its sequence; here from scratch on anybody's folder of structures, and on the heavy chains of antibodies in a frame of
their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sfumato.errors import Wrong, check
from sfumato.fields.protein.facts import ProteinFacts
from sfumato.fields.protein.options import (
    HIGHEST,
    LOWEST,
    BackboneMethod,
    BackboneOptions,
    ProteinAsk,
    ProteinMeasure,
)
from sfumato.jobs.flags import Positional
from sfumato.jobs.making import Making
from sfumato.jobs.recipe import Data, Look, Recipe, Say, usual_batch
from sfumato.jobs.walk import Walk
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

if TYPE_CHECKING:
    from torch import nn

    from sfumato.diffusion import Drawn, Gaussian, Guess, Solver
    from sfumato.fields.protein.companions import Companions
    from sfumato.fields.protein.data import Wanted
    from sfumato.fields.protein.pictures import Traces
    from sfumato.fields.protein.queries import Fold, Sequences
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.training.objective import Task
    from sfumato.training.run import Run

SAMPLES = 5
GRID = f"karras:sigma_min={LOWEST:g},sigma_max={HIGHEST:g}"
WALKS = {
    "usual": Walk(steps=40, solver="overstep"),
    "accurate": Walk(steps=40, solver="overstep"),
    "diverse": Walk(steps=40, solver="dpmpp_2m", grid=f"{GRID},rho=12"),
    "fast": Walk(steps=20, solver="overstep"),
}


@dataclass(frozen=True)
class Protein(Recipe):
    """Backbones of proteins from their sequences, from a folder of mmCIF or PDB files, or an .npz of ragged arrays."""

    Facts: ClassVar[type] = ProteinFacts
    Ask: ClassVar[type] = ProteinAsk
    Measure: ClassVar[type] = ProteinMeasure
    verbs: ClassVar[Mapping[str, str]] = {"rank": "sfumato.fields.protein.rank:Rank"}
    formats: ClassVar[tuple[str, ...]] = (".cif", ".pdb")

    data: Positional[Path]
    """Folder of structures (.cif, .cif.gz, .pdb), searched to any depth, or .npz with coords, offsets, seq[, cdr, split,
    cluster]."""
    held_out: float = 0.1
    """Share of the chains, in whole clusters, that is held out, where the data have no split of their own."""
    test: float = 0.1
    """Share that is kept for the test, likewise."""
    longest: int = 512
    """Longer chains are left out."""
    frame: Literal["auto", "framework", "free"] = "auto"
    """Where coordinates are: framework (laid on each other by FR2 and FR3, where there are regions), or free (turned at
    random, the truth laid on the guess)."""
    network: BackboneOptions = field(default_factory=BackboneOptions)
    """Network."""
    method: BackboneMethod = field(default_factory=BackboneMethod)
    """Diffusion method."""

    def __post_init__(self) -> None:
        check(
            self,
            (0 < self.held_out < 1, "held_out", "a share between 0 and 1"),
            (0 <= self.test < 1, "test", "a share from 0 to below 1"),
            (self.held_out + self.test < 1, "test", "a share that leaves something to learn from"),
            (8 <= self.longest <= 100_000, "longest", "from 8 to 100000 residues"),
        )

    # ---- data --------------------------------------------------------------------------------------------------------

    def wanted(self) -> Wanted:
        """What is asked of the data."""
        from sfumato.fields.protein.data import Wanted

        return Wanted(self.held_out, self.test, self.longest, self.frame)

    def examine(self) -> Look:
        from sfumato.fields.protein.data import chosen, frame_of

        notes: list[str] = []
        chains, _, _ = chosen(self.data, self.wanted(), notes.append)
        frame = frame_of(chains, self.frame)
        return Look((f"{len(chains):,} chains in {self.data}, learned in the {frame} frame", *notes[:20]), self)

    def prepare(self, run: Run, tell: Say, base: Any = None) -> Protein:
        from sfumato.fields.protein.data import prepare

        facts = prepare(run, self.data, self.wanted(), tell)
        frame: Any = facts.frame
        return dataclasses.replace(self, frame=frame)

    def open(self, run: Run) -> Data:
        from sfumato.fields.protein.data import Store

        store = Store.of(run, self.facts(run))
        parts = (dataclasses.replace(store.part(name), heavy=self.method.third) for name in ("train", "val"))
        return Data(store.facts, *parts)

    def companions(self, run: Run, device: Any) -> Companions:
        """The chains of the run, and its ranking head where it has one."""
        from sfumato.fields.protein.companions import Companions

        return Companions.of(run, self.facts(run))

    # ---- network -----------------------------------------------------------------------------------------------------

    def process(self, facts: ProteinFacts) -> Gaussian:
        return self.method.build()

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        from sfumato.fields.protein.network import BackboneNetwork

        return {"backbones": BackboneNetwork}

    def build(self, facts: ProteinFacts, device: str) -> nn.Module:
        from sfumato.fields.protein.network import BackboneNetwork

        sizes: dict[str, Any] = dict(self.network.settings(device))
        return BackboneNetwork(scale=facts.scale, **sizes)

    def task(self, data: Data, network: nn.Module) -> Task:
        from sfumato.fields.protein.method import BackboneLoss

        method, facts = self.method, data.facts
        criterion = BackboneLoss(facts.scale, method.springs, method.lddt, method.previous, not facts.regions)
        return dataclasses.replace(super().task(data, network), criterion=criterion, copies=method.copies)

    def training(self, data: Data, device: str) -> TrainOptions:
        rows = 8 if device == "cpu" else 256
        batch = usual_batch(len(data.train), max(1, rows // self.method.copies))
        return TrainOptions(batch=batch, optim=OptimOptions(lr=1.5e-3 if device == "cpu" else None))

    # ---- samples -----------------------------------------------------------------------------------------------------

    def solvers(self) -> Mapping[str, Any]:
        """AlphaFold 3's."""
        from sfumato.diffusion.solvers import Overstep

        return {"overstep": Overstep()}

    def around(self, solver: Solver) -> Solver:
        """The network is told its last guess, where it was in training."""
        from sfumato.diffusion import remember

        return remember(solver) if self.method.previous > 0 else solver

    def walk(self, name: str = "usual") -> Walk:
        """accurate: AlphaFold 3's sampler, 40 steps, each gone 1.5 times, a low temperature; fast: 20 of them; diverse: the
        flow, which keeps the spread of samples: that of Gaussian data to a few percent at every scale down to a bond's, where
        AlphaFold 3's sampler with whole steps leaves 70 % of the variance."""
        if name == "few":
            return Walk(batch=16)
        if name not in WALKS:
            raise Wrong(f"walk = {name!r}: must be one of {', '.join(WALKS)}")
        return WALKS[name].over(Walk(grid=GRID, eta=0.0, batch=16))

    def queries(self, model: Model, ask: ProteinAsk, n: int | None) -> Sequences:
        from sfumato.fields.protein.holding import placed
        from sfumato.fields.protein.queries import Sequences
        from sfumato.fields.protein.sequences import asked
        from sfumato.fields.protein.steering import Potentials

        if n is not None and n < 1:
            raise Wrong(f"n = {n}: must be at least 1")
        store = model.companions.store
        found = asked(store, ask, model.walk.batch or 16)
        held = placed(store, found[0], ask.held) if ask.hold is not None else None
        towards = Potentials.of(ask.contact, ask.no_clash, min(map(len, found)))
        return Sequences(found, SAMPLES if n is None else n, held, towards, model.facts.scale, ask.tidy)

    def guide(self, guess: Guess, query: Mapping[str, Any]) -> Guess:
        """Held residues are known."""
        from sfumato.diffusion import inpaint

        aside = query.get("aside")
        return guess if aside is None else inpaint(guess, aside["known"], aside["where"])

    def draw(self, model: Model, queries: Any, numbers: Sequence[int]) -> Iterator[Drawn]:
        """All samples of a sequence, ranked."""
        from sfumato.fields.protein.queries import drawn

        return drawn(model, queries, numbers)

    def things(self, model: Model, queries: Any, drawn: Drawn) -> list[Fold]:
        from sfumato.fields.protein.queries import folds

        return folds(model, queries, drawn)

    def save(self, thing: Fold, path: Path, making: Making) -> Path:
        from sfumato.fields.protein.writing import save

        return save(thing, path, making)

    def write(
        self, model: Model, queries: Any, things: Iterable[tuple[int, Fold]], out: Path, making: Making
    ) -> Iterator[Path]:
        """Files, and samples.csv with a row for each sample that was asked for."""
        from sfumato.fields.protein.writing import write

        return write(queries, things, out, making, making.suffix or self.formats[0])

    def bundled(self, model: Model, queries: Any) -> None:
        raise Wrong("a protein's samples are ranked among themselves: leave out --shard, --workers, --bundle and --ray")

    def picture(self, model: Model, things: Sequence[Fold], columns: int | None = None) -> Traces | None:
        """Traces and torsions of at most four sequences."""
        from sfumato.fields.protein.pictures import Traces
        from sfumato.jobs.plots import available

        groups: dict[str, list[Fold]] = {}
        for thing in things:
            groups.setdefault(thing.asked.name, []).append(thing)
        return Traces(list(groups.values())[:4]) if groups and available() else None

    def measurable(self, model: Model, measure: ProteinMeasure, ask: ProteinAsk) -> None:
        from sfumato.fields.protein.measure import chains

        chains(model, measure)

    def evaluate(self, model: Model, measure: ProteinMeasure, ask: ProteinAsk) -> Report:
        from sfumato.fields.protein.measure import evaluate

        return evaluate(model, measure, ask)

    def usage(self) -> Iterable[str]:
        return (
            "Fold: `sfumato sample RUN --sequence EVQL... -n 20 --out folds`, mmCIF (or `--format .pdb`) and samples.csv,",
            "ranked, the confidence (0-100) in the B-factors. How good they are: `sfumato evaluate RUN`, beside the",
            "nearest known chain.",
        )


RECIPE = Protein
