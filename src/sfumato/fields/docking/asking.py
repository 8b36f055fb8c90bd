"""What somebody asks to be docked: ligands, a receptor, a site, known poses; what cannot be is a row with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from sfumato.data.structures import Structure, nearest, read_structure
from sfumato.errors import DataError, Mendable, Wrong, shown
from sfumato.fields.docking.batching import BLANK, Pocket, Shape, Template, rows_of
from sfumato.fields.docking.chemistry import EXTRA, SUFFIXES, Ligand, from_file, from_smiles
from sfumato.fields.docking.coding import CODINGS
from sfumato.fields.docking.complexes import rows_of as table_of
from sfumato.fields.docking.data import REACH, Store, ranked, site_around
from sfumato.fields.docking.kin import Kin
from sfumato.fields.docking.pose import Joints, conformers, quads_of
from sfumato.training.progress import Watch

if TYPE_CHECKING:
    from sfumato.diffusion.tree import Tree
    from sfumato.fields.docking.options import DockingAsk

COLUMNS = ("complex_name", "protein_path", "ligand_description", "protein_sequence")
"""Those of DiffDock's tables."""
BLOCK, SETTLE = 8, 15
"""Samples of one kind that follow each other, as many as there are conformers; steps in which a drawn pose settles."""


@dataclass(frozen=True, eq=False)
class Site:
    """A receptor and where in it: the structure, the centre (3,) in its frame, what the network is shown, known poses on it."""

    structure: Structure
    centre: np.ndarray
    pocket: Pocket
    poses: tuple[Ligand, ...] = ()

    def others(self, ligand: Ligand) -> tuple[Ligand, ...]:
        """Known poses that may be shown with a ligand: never its own, which would be no docking."""
        return tuple(each for each in self.poses if each.key != ligand.key)


@dataclass(frozen=True, eq=False)
class Case:
    """A ligand to dock at a site, and what it is called; ``others``: known poses that may be shown with it; ``known`` is its
    complex in the run, where it is of that."""

    name: str
    ligand: Ligand
    site: Site
    others: tuple[Ligand, ...]
    known: int | None = None

    @cached_property
    def templates(self) -> tuple[tuple[Ligand, float], ...]:
        """Known poses that are most like the ligand, and how much."""
        return tuple(
            (self.others[i], likeness)
            for i, likeness in ranked(self.ligand, list(self.others), range(len(self.others)))
        )

    @cached_property
    def kin(self) -> Kin:
        """What the known poses say about each of its atoms, about the site's centre."""
        return Kin.of(self.ligand, self.others, self.site.centre)

    @cached_property
    def joints(self) -> Joints:
        """What turns."""
        return Joints.of(self.ligand.mol)

    @cached_property
    def quads(self) -> Tensor:
        """Four atoms of each of its dihedrals."""
        return quads_of(self.ligand.mol, self.joints)

    @cached_property
    def conformers(self) -> Tensor:
        """(K, N, 3). Raises DataError."""
        return conformers(self.ligand)

    def conformer(self, place: int) -> int:
        """Which conformer a sample is drawn on."""
        return place % len(self.conformers)

    def template(self, place: int) -> int | None:
        """Which template a sample is shown."""
        return place % len(self.templates) if self.templates else None

    @property
    def similarity(self) -> float:
        """To the most similar known pose of the receptor."""
        return self.templates[0][1] if self.templates else 0.0


@dataclass(frozen=True, eq=False)
class Docked:
    """``n`` samples of each of some cases: sample i is the i mod n-th of case i div n. ``search``: some are not drawn by the
    network but searched for; ``settle``: steps that the others slide downhill. failed: name and reason of those that cannot be
    docked."""

    cases: tuple[Case, ...]
    n: int
    failed: tuple[tuple[str, str], ...] = ()
    coding: Any = CODINGS["heat"]
    search: bool = True
    settle: int = SETTLE

    def __len__(self) -> int:
        return len(self.cases) * self.n

    def searches(self, number: int) -> bool:
        """Whether a sample is searched for: where poses are known, the second and fourth block of eight of every five, so that
        both ways see all conformers and a sample is of the same kind for any n."""
        case, place = self.at(number)
        return self.search and bool(case.others) and place // BLOCK % 5 in (1, 3)

    def at(self, number: int) -> tuple[Case, int]:
        """The case, and the place of the sample in it."""
        return self.cases[number // self.n], number % self.n

    def name(self, number: int) -> tuple[str, int]:
        case, place = self.at(number)
        return case.name, place

    def shape(self, number: int) -> Shape:
        """What a sample is padded to."""
        case, place = self.at(number)
        template = case.template(place)
        return Shape.of(len(case.ligand), len(case.joints), 0 if template is None else len(case.templates[template][0]))

    @cached_property
    def buckets(self) -> Sequence[int]:
        return [self.shape(number).number for number in range(len(self))]

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        """Blanks and conditions of samples of one shape."""
        own, shape = [self.at(number) for number in numbers], self.shape(numbers[0])
        made = rows_of(
            shape, [(case.ligand, case.joints, case.conformers[case.conformer(place)].numpy()) for case, place in own],
            [case.site.pocket for case, _ in own], [self._template(case, place) for case, place in own],
            [case.kin for case, _ in own],
        )  # fmt: skip
        return {"x": self.coding.blank(made["ligand"]), **made}

    def _template(self, case: Case, place: int) -> Template:
        which = case.template(place)
        if which is None:
            return BLANK
        template, likeness = case.templates[which]
        return Template.of(case.ligand, template, likeness, case.site.centre)


def held_out(
    store: Store,
    n: int,
    which: Sequence[int] | None = None,
    process: str = "heat",
    search: bool = True,
    settle: int = SETTLE,
) -> Docked:
    """The complexes held out, docked anew from their SMILES' conformers."""
    sites = tuple(_own_site(store, number) for number in range(len(store.structures)))
    cases: list[Case] = []
    failed: list[tuple[str, str]] = []
    for i in store.held_out if which is None else which:
        known = store.known[i]
        ligand = Ligand(known.ligand.name, known.ligand.mol)
        others = tuple(store.known[j].ligand for j in store.others(known.ligand, known.receptor))
        _add(cases, failed, store.facts.names[i], lambda: ligand, sites[known.receptor], others, i)  # noqa: B023
    return Docked(tuple(cases), n, tuple(failed), CODINGS[process], search, settle)


def _own_site(store: Store, number: int) -> Site:
    poses = tuple(store.known[i].ligand for i in store.learned if store.known[i].receptor == number)
    return Site(store.structures[number], store.sites[number], store.pockets[number], poses)


def _add(
    cases: list[Case], failed: list[tuple[str, str]], name: str, ligand: Callable[[], Ligand], site: Site,
    others: tuple[Ligand, ...] | None = None, known: int | None = None, titled: bool = False,
) -> None:  # fmt: skip
    """A case more, called ``name`` (or, if ``titled``, what its file calls it), or the reason why it is none."""
    try:
        found = ligand()
        case = Case(
            found.name if titled else name,
            found,
            site,
            site.others(found) if others is None else others,
            known,
        )
        case.conformers  # noqa: B018 - made here, where it can fail alone
        cases.append(case)
    except Mendable as error:
        failed.append((name, str(error)))


# ---- what is asked ---------------------------------------------------------------------------------------------------


def asked(store: Store, ask: DockingAsk, n: int) -> Docked:
    """The cases that somebody asks for. Raises Wrong, DataError where none is left."""
    if n < 1:
        raise Wrong(f"n = {n}: must be at least 1")
    if ask.csv is None and not ask.ligand:
        return held_out(store, n, store.held_out[:1])
    cases: list[Case] = []
    failed: list[tuple[str, str]] = []
    site = _sites(store, ask)
    jobs: list[tuple[str, Callable[[], Ligand], Site, bool]] = []
    for name, text, folder, protein in _wanted(ask):
        try:
            one, many = site(protein), _described(text, folder)
        except Mendable as error:
            if ask.csv is None:  # a single receptor or file that cannot be read: nothing else would be done
                raise
            failed.append((name, str(error)))
            continue
        titled = ask.csv is None and Path(text).suffix.lower() in SUFFIXES
        jobs += [(name if not k else f"{name}_{k + 1}", ligand, one, titled) for k, ligand in enumerate(many)]
    with Watch("conformers", len(jobs), unit="ligands") as watch:
        for done, (name, ligand, one, titled) in enumerate(jobs):
            _add(cases, failed, name, ligand, one, titled=titled)
            watch.show(done + 1)
    if not cases:
        raise DataError(failed[0][1] if failed else "no ligand to dock")
    return Docked(_apart(cases), n, tuple(failed))


def _wanted(ask: DockingAsk) -> Iterator[tuple[str, str, Path, Path | None]]:
    """What is to be docked: a name, a description, the folder that files are looked for in, the receptor (None: the run's)."""
    if ask.csv is None:
        yield from ((text, text, Path(), ask.protein) for text in ask.ligand)
        return
    for i, row in enumerate(table_of(ask.csv, COLUMNS, ("ligand_description",))):
        protein = Path(row["protein_path"]) if row.get("protein_path") else ask.protein
        if protein is not None and not protein.is_file():
            protein = ask.csv.parent / protein
        yield row.get("complex_name") or f"complex_{i + 1}", row["ligand_description"], ask.csv.parent, protein


def files_of(ask: DockingAsk) -> Iterator[tuple[str, str]]:
    """What of a query is looked for among files by its words: option and path of each. Raises DataError for a table that is
    none."""
    option = "ligand" if ask.csv is None else "csv"
    for _, text, _, protein in _wanted(ask):
        if protein is not None and protein != ask.protein:
            yield option, str(protein)
        if Path(text).suffix.lower() in SUFFIXES:
            yield option, text


def _apart(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Cases of different names: what comes again is counted."""
    seen: dict[str, int] = {}
    found = []
    for case in cases:
        count = seen[case.name] = seen.get(case.name, 0) + 1
        found.append(case if count == 1 else replace(case, name=f"{case.name}_{count}"))
    return tuple(found)


def _described(text: str, folder: Path) -> list[Callable[[], Ligand]]:
    """The ligands that a text describes, SMILES or a file: each is given, or raises, when called. Raises DataError."""
    path = Path(text)
    if path.suffix.lower() not in SUFFIXES:
        return [lambda: from_smiles(text)]
    if not path.is_file():
        path = folder / path
    return [_giving(each) for each in from_file(path)]


def _giving(found: Ligand | DataError) -> Callable[[], Ligand]:
    def give() -> Ligand:
        if isinstance(found, DataError):
            raise found
        return found

    return give


def _sites(store: Store, ask: DockingAsk) -> Callable[[Path | None], Site]:
    """A function from a receptor's file to its site: each file is read, and encoded, once."""
    poses = () if ask.templates is None else tuple(known_poses(ask.templates))

    @cache
    def of(protein: Path | None) -> Site:
        if protein is None:
            number = _target(store, ask.target)
            own = _own_site(store, number)
            structure, centre, given = own.structure, own.centre, own.poses
            if ask.pocket_residues or ask.reference is not None or ask.box is not None:
                centre = place(structure, ask)
        else:
            structure, given = read_structure(protein, EXTRA), ()
            centre = place(structure, ask)
        _near(structure, centre)
        return Site(structure, centre, Pocket.of(structure, centre, store.facts.pocket), poses or given)

    return of


def _target(store: Store, target: str | None) -> int:
    """The receptor of a target. Raises Wrong."""
    known = dict(zip(store.facts.target, store.facts.receptor))
    if target is None and len(set(known.values())) == 1:
        return next(iter(known.values()))
    if target not in known:
        said = ", ".join(list(known)[:12])
        raise Wrong(f"target = {target!r}: must be one of the run's, {said}; or give --protein and where in it")
    return known[target]


def place(structure: Structure, ask: DockingAsk) -> np.ndarray:
    """The centre of the site that is asked for, (3,). Raises Wrong, DataError."""
    if ask.box is not None:
        return np.array(ask.box[:3])
    if ask.pocket_residues:
        whole = ask.pocket_residues == ("all",)
        own = [*range(len(structure))] if whole else [structure.found(text) for text in ask.pocket_residues]
        ca, side = structure.anchors()
        return np.asarray((ca[own].mean(0) + side[own].mean(0)) / 2)
    if ask.reference is not None:
        ligand = next(from_file(ask.reference, posed=True), None)
        if not isinstance(ligand, Ligand) or ligand.places is None:
            raise ligand if isinstance(ligand, DataError) else DataError(f"{shown(ask.reference)}: holds no pose")
        try:
            return site_around(structure, ligand.places)
        except DataError as error:
            raise DataError(f"{shown(ask.reference)}: {error}; it must lie in the receptor's frame") from error
    raise Wrong(
        "protein: where in it? give --pocket-residues A:41 A:145, --reference ligand.sdf, or --box cx cy cz sx sy sz"
    )


def _near(structure: Structure, centre: np.ndarray) -> None:
    """Raises DataError for a site far from every atom."""
    name, far = nearest(structure, centre.tolist())
    if far > REACH + 4:
        raise DataError(f"the site lies {far:.0f} A from the nearest residue, {name}; give one inside the receptor")


def known_poses(source: Path) -> list[Ligand]:
    """Poses in a file, or in the files of a folder. Raises DataError."""
    files = (
        sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES) if source.is_dir() else [source]
    )
    found = [each for path in files for each in from_file(path, posed=True)]
    poses = [each for each in found if isinstance(each, Ligand) and each.places is not None]
    if not poses:
        raise DataError(f"{shown(source)}: holds no known pose (.sdf, .mol) in three dimensions")
    return poses


@dataclass(frozen=True, eq=False)
class Pose:
    """A sample: places (N, 3) in the receptor's frame, in A; which sample of which case, on which conformer, by which template.
    ``scores`` are filled in when poses are ranked."""

    case: Case
    number: int
    place: int
    places: np.ndarray
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def template(self) -> str:
        """The name of the template that was shown, "" for none."""
        which = None if "searched" in self.scores else self.case.template(self.place)
        return "" if which is None else self.case.templates[which][0].name
