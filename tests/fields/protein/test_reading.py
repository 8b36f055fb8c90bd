"""What is read: chains, sequences, regions, clusters; and what is refused, in one line that says what would be right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfumato.data.atoms import Atoms, Residue, write_structure
from sfumato.errors import DataError, Wrong
from sfumato.fields.protein.alphabet import ATOMS, ELEMENTS, LETTERS, NAMES, encoded
from sfumato.fields.protein.chains import Chain, of_arrays, read_chains
from sfumato.fields.protein.clusters import clusters, split
from sfumato.fields.protein.data import Store, Wanted, padded, prepare
from sfumato.fields.protein.regions import Known, aligned, carried, digits, lengths, places, runs
from sfumato.fields.protein.sequences import read
from sfumato.training.run import Run
from tests.fields.protein.folds import LAYOUT, backbone, family, saved

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "antibodies"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the antibodies are not beside the repository")


def atoms(chain: str = "H", names: tuple[str, ...] = ATOMS, length: int = 12, first: int = 1) -> Atoms:
    coords = backbone(np.full(length, -70.0), np.full(length, 140.0))
    own = [ATOMS.index(name) for name in names]
    return Atoms(
        coords[:, own].reshape(-1, 3).astype(np.float32), names * length, tuple(ELEMENTS[i] for i in own) * length,
        np.arange(length).repeat(len(own)),
        tuple(Residue(NAMES[i % 20], first + i, "", chain, i + 1, chain) for i in range(length)),
        np.zeros(len(own) * length, dtype=np.float32),
    )  # fmt: skip


def silent(text: str) -> None:
    """Nobody listens."""


# ---- letters and regions -----------------------------------------------------------------------------------------------------


def test_letters_are_numbers_and_a_wrong_one_is_named_with_its_place() -> None:
    assert encoded("acX", "q").tolist() == [0, 1, 20]
    with pytest.raises(
        DataError, match=r"q: position 3 is 'B', which is no amino acid; the letters are ACDEFGHIKLMNPQRSTVWY, and X"
    ):
        encoded("ACB", "q")
    with pytest.raises(DataError, match="q: is empty; give the sequence"):
        encoded("", "q")


def test_regions_are_runs_with_places_from_both_ends() -> None:
    cdr = digits("0011022000330", 13, "q")
    assert runs(cdr, 13).tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 4, 5, 5, 6]
    assert lengths(cdr).tolist() == [2, 2, 1, 2, 3, 2, 1]
    assert places(runs(cdr, 13))[7:10].tolist() == [[0, 2], [1, 1], [2, 0]]


@pytest.mark.parametrize(
    ("text", "said"),
    [("00110", "5 digits for 13 residues"), ("0011022000340", "cdr has '4'"), ("0011022000220", "0 1 0 2 0 3 0"),
     ("0" * 13, "0 1 0 2 0 3 0")],
)  # fmt: skip
def test_regions_that_cannot_be_are_refused(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        digits(text, 13, "q")


def test_an_alignment_finds_what_was_left_out() -> None:
    codes = np.random.default_rng(0).integers(0, 20, 60)
    short = np.delete(codes, slice(20, 26))
    against = aligned(short, codes)
    assert against[:20].tolist() == list(range(20))
    assert against[26:].tolist() == list(range(20, 54))
    assert (against[20:26] == -1).all()


def test_regions_are_carried_over_loops_of_other_lengths() -> None:
    chains = of_arrays_of(family(20))
    known = Known([c.codes for c in chains[:6]], [c.cdr for c in chains[:6] if c.cdr is not None])
    for chain in chains[6:]:
        assert np.array_equal(carried(chain.codes, known, "q"), chain.cdr)
    with pytest.raises(DataError, match=r"q: no regions of a heavy chain are found .* give the variable domain"):
        carried(np.random.default_rng(5).integers(0, 20, 110), known, "q")
    with pytest.raises(DataError, match="no regions"):  # the domain goes on: a whole chain was given
        carried(np.r_[chains[7].codes, np.random.default_rng(5).integers(0, 20, 90)], known, "q")


def of_arrays_of(arrays: dict[str, np.ndarray]) -> list[Chain]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return of_arrays(saved(Path(folder) / "a.npz", arrays))


@needs_data
def test_regions_of_real_chains_are_found_in_their_sequences() -> None:
    """Of 40 chains that were held out the third loop of nearly all is found to the residue."""
    chains = of_arrays(SHARED / "vh_backbones.npz")
    learned = [c for c in chains if c.split == "train"]
    known = Known([c.codes for c in learned], [c.cdr for c in learned if c.cdr is not None])
    held = [c for c in chains if c.split == "val"][:20]
    third = [np.array_equal(carried(c.codes, known, c.name) == 3, c.cdr == 3) for c in held if c.cdr is not None]
    assert np.mean(third) >= 0.9


# ---- clusters ----------------------------------------------------------------------------------------------------------------


def test_no_cluster_lies_on_two_sides_and_kin_are_in_one() -> None:
    chains = of_arrays_of(family(20))
    twin = Chain("twin", chains[0].codes.copy(), chains[0].coords, chains[0].cdr)
    kin = clusters([*chains, twin])
    assert kin[0] == kin[-1]
    assert len(set(kin[:-1].tolist())) > 15  # loops at random are no kin
    sides = split(kin, 0.2, 0.2)
    for name in ("train", "val", "test"):
        assert (sides == name).any()
        assert not set(kin[sides == name]) & set(kin[sides != name])


@needs_data
def test_clusters_are_those_that_the_data_were_published_with() -> None:
    chains = of_arrays(SHARED / "vh_backbones.npz")
    given = clusters(chains)
    found = clusters([Chain(c.name, c.codes, c.coords, c.cdr) for c in chains])
    assert len(set(zip(given.tolist(), found.tolist()))) == given.max() + 1 == found.max() + 1


# ---- chains ------------------------------------------------------------------------------------------------------------------


def test_a_folder_of_structures_is_read_chain_by_chain(tmp_path: Path) -> None:
    write_structure(tmp_path / "a.cif", [(1, atoms("H"))])
    write_structure(tmp_path / "b.pdb", [(1, atoms("L", first=30))])
    (tmp_path / "broken.cif").write_text("loop_\n")
    said: list[str] = []
    found = read_chains(tmp_path, said.append)
    assert [chain.name for chain in found] == ["a_H", "b_L"]
    assert found[1].residues[0].number == 30
    assert np.allclose(found[0].coords, found[1].coords)
    assert any("broken.cif" in line for line in said)


def test_a_chain_with_a_missing_atom_a_break_or_no_backbone(tmp_path: Path) -> None:
    whole = atoms()
    keep = [i for i in range(len(whole)) if i != 4 * 5 + 3]  # O of the sixth residue
    less = Atoms(whole.coords[keep], tuple(whole.names[i] for i in keep), tuple(whole.elements[i] for i in keep),
                 whole.residue[keep], whole.residues, whole.factors[keep])  # fmt: skip
    found = read_chains(write_structure(tmp_path / "a.cif", [(1, less)]), silent)[0]
    assert np.isnan(found.coords[5, 3]).all()
    assert not len(found.breaks)
    gone = [i for i in range(len(whole)) if whole.residue[i] != 5]
    cut = Atoms(whole.coords[gone], tuple(whole.names[i] for i in gone), tuple(whole.elements[i] for i in gone),
                whole.residue[gone], whole.residues, whole.factors[gone])  # fmt: skip
    assert read_chains(write_structure(tmp_path / "b.cif", [(1, cut)]), silent)[0].breaks.tolist() == [4]
    with pytest.raises(DataError, match=r"ALA 1 of chain H and all others of its chain have no backbone"):
        read_chains(write_structure(tmp_path / "c.cif", [(1, atoms(names=("CA",)))]), silent)


def test_broken_chains_are_left_out_and_counted(tmp_path: Path) -> None:
    arrays = family(20)
    first = arrays["offsets"][2]
    arrays["coords"][first + 50 : arrays["offsets"][3]] += 3.0
    run = Run(tmp_path / "run")
    run.create()
    said: list[str] = []
    facts = prepare(run, saved(tmp_path / "a.npz", arrays), Wanted(0.1, 0.1, 512, "auto"), said.append)
    assert facts.broken == 1
    assert facts.train + facts.held + facts.test == 19
    assert any("broken in the middle, as t002_2 after residue 50" in line for line in said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seq": None}, "has no 'seq'"),
        ({"coords": np.zeros((5, 3), np.float32)}, r"coords has shape \(5, 3\); expected \(residues, 4, 3\)"),
        ({"offsets": np.array([0, 7])}, "offsets must rise from 0"),
        ({"pdb": np.array(["a"])}, "pdb has 1 entries for 20 chains"),
        ({"split": np.array(["learn"] * 20)}, "is of the split 'learn'"),
        ({"seq": np.array(["A"] * 20)}, "has 1 letters for 105 residues"),
        ({"seq": np.array([{}] * 20)}, "cannot be read"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    arrays = {**family(20), **change}
    path = tmp_path / "a.npz"
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(DataError, match=said) as raised:
        of_arrays(path)
    assert "\n" not in str(raised.value)


def test_a_coordinate_that_is_no_number_names_chain_residue_and_atom(tmp_path: Path) -> None:
    arrays = family(20)
    arrays["coords"][arrays["offsets"][1] + 6, 2, 1] = np.nan
    with pytest.raises(DataError, match="chain t001_1, residue 7, atom C has a coordinate that is no number"):
        of_arrays(saved(tmp_path / "a.npz", arrays))


def test_folders_without_structures_and_too_few_chains_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no structure; expected \.cif"):
        read_chains(tmp_path, silent)
    with pytest.raises(DataError, match="is no folder of structures"):
        read_chains(tmp_path / "x.txt", silent)
    run = Run(tmp_path / "run")
    run.create()
    path = write_structure(tmp_path / "one.cif", [(1, atoms())])
    with pytest.raises(DataError, match=r"1 of its 1 chain\(s\) can be learned from"):
        prepare(run, path, Wanted(0.1, 0.1, 512, "auto"), silent)
    arrays = family(20)
    del arrays["cdr"]
    bare = saved(tmp_path / "a.npz", arrays)
    with pytest.raises(Wrong, match="frame = 'framework': the data have no regions"):
        prepare(run, bare, Wanted(0.1, 0.1, 512, "framework"), silent)


def test_the_frame_is_common_whatever_frames_the_chains_came_in(tmp_path: Path) -> None:
    """The frameworks of a family lie on each other; unframed they are a hundred Angstrom apart."""
    run = Run(tmp_path / "run")
    run.create()
    facts = prepare(run, saved(tmp_path / "a.npz", family(20)), Wanted(0.1, 0.1, 512, "auto"), silent)
    store = Store.of(run, facts)
    first = sum(LAYOUT[:2])
    ca = np.stack([store.coords[store.rows(i)][first : first + 17, 1] for i in range(20)])
    assert np.sqrt(((ca - ca.mean(0)) ** 2).sum(-1).mean()) < 3
    item = store.part("train").batch(np.array([0, 1]))
    assert item["x"].shape[1] == padded(106) == 112
    assert not item["x"][~item["mask"]].any()
    assert not item["weight"][~item["mask"]].any()
    assert np.sqrt(np.square(store.coords).mean()) == pytest.approx(facts.scale, rel=0.1)


# ---- files of sequences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.fasta", ">one first\nACDE\nFGH\n>two\nkkk*\n"),
        ("a.csv", "id,sequence\none,ACDEFGH\ntwo,KKK\n"),
        (
            "a.yaml",
            "version: 1\nsequences:\n- protein: {id: one, sequence: ACDEFGH}\n- protein: {id: [two], sequence: KKK}\n",
        ),
    ],
)
def test_sequences_come_in_many_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = read(tmp_path / name)
    assert [one.name for one in found] == ["one", "two"]
    assert "".join(LETTERS[i] for i in found[0].codes) == "ACDEFGH"
    assert "".join(LETTERS[i] for i in found[1].codes) == "KKK"
    if name == "a.yaml":
        assert {residue.chain for residue in found[1].residues} == {"two"}


def test_a_structure_brings_its_numbering(tmp_path: Path) -> None:
    found = read(write_structure(tmp_path / "a.pdb", [(1, atoms("L", first=40))]))[0]
    assert [residue.number for residue in found.residues[:3]] == [40, 41, 42]
    assert found.residues[0].chain == "L"
    assert found.truth is not None


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.fasta", "ACDE\n", "must begin with a line '>name'"),
        ("a.fasta", ">x\nAC1E\n", "a.fasta, x: position 3 is '1'"),
        ("a.fasta", ">x\n>y\nACD\n", "a.fasta, x: is empty"),
        ("a.csv", "name,seq\nx,ACD\n", "has no column 'id'"),
        ("a.csv", "id,sequence,cdr\nx,ACD,01\n", "a.csv, line 2: cdr has 2 digits for 3 residues"),
        ("a.yaml", "- 1\n", "a.yaml: cannot be read"),
        ("a.yaml", "sequences: [{ligand: {smiles: C}}]\n", r"sequences\[0\]: is 'ligand'; this model knows protein alone"),
        ("a.yaml", "sequences: [{protein: {id: [A, B], sequence: ACD}}]\n", "2 chains at once .*a sample is one chain"),
        ("a.yaml", "sequences: [!!python/object/apply:os.system ['true']]\n", "a.yaml: cannot be read"),
        ("a.txt", "ACD", "must be one of .fasta"),
        ("a.csv", "", "has no column 'id'"),
        ("gone.csv", None, "there is no such file"),
    ],
)  # fmt: skip
def test_files_that_are_wrong_are_refused_in_a_line(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said) as raised:
        read(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_file_of_two_chains_is_refused(tmp_path: Path) -> None:
    one, two = atoms("H"), atoms("L")
    both = Atoms(
        np.concatenate((one.coords, two.coords + 50)), one.names + two.names, one.elements + two.elements,
        np.concatenate((one.residue, two.residue + 12)), one.residues + two.residues, np.zeros(96, dtype=np.float32),
    )  # fmt: skip
    with pytest.raises(DataError, match=r"has 2 chains \(H, L\), and a sample is one chain"):
        read(write_structure(tmp_path / "a.cif", [(1, both)]))
