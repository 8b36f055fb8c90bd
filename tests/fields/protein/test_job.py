"""The whole job through the command: inspect, train, sample to files, measure, and what is refused."""

from __future__ import annotations

import collections
import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.cli import main
from sfumato.data.atoms import read_structure
from sfumato.errors import DataError, Wrong
from sfumato.fields.protein.alphabet import decoded
from sfumato.fields.protein.choosing import agreed
from sfumato.fields.protein.options import BackboneOptions, ProteinAsk
from sfumato.fields.protein.queries import Fold, Sequences
from sfumato.fields.protein.sequences import Asked, asked, check_length, numbered
from sfumato.fields.protein.writing import write
from sfumato.jobs.model import Model, load
from sfumato.jobs.train import resume
from tests.fields.protein.conftest import TRAIN
from tests.fields.protein.folds import family, saved


def letters(model: Model, chain: int = 4) -> str:
    store = model.companions.store
    return decoded(store.codes[store.rows(chain)])


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "samples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("suffix", [".cif", ".pdb"])
def test_a_sequence_becomes_ranked_files_and_a_table(run: Path, model: Model, tmp_path: Path, suffix: str) -> None:
    out, sequence = tmp_path / "folds", letters(model)
    words = [
        "sample",
        str(run),
        "--sequence",
        sequence,
        "-n",
        "3",
        "--steps",
        "3",
        "--format",
        suffix,
        "--out",
        str(out),
    ]
    assert main(words) == 0
    rows = table(out)
    assert [row["path"] for row in rows] == [f"000{i}{suffix}" for i in range(3)]
    assert sorted(row["rank"] for row in rows) == ["1", "2", "3"]
    assert not any(row["error"] for row in rows)
    things = load(run).sample(3, sequence=(sequence,), steps=3)
    for thing, row in zip(things, rows):
        found = read_structure(out / row["path"])
        wanted = np.round(thing.coords.reshape(-1, 3).astype(np.float64), 3).astype(np.float32)
        assert np.abs(found.coords - wanted).max() < 2e-3
        assert found.elements == ("N", "C", "C", "O") * len(sequence)
        assert [r.number for r in found.residues] == list(range(1, len(sequence) + 1))
        assert found.chains() == ("H",)
        assert (found.factors >= 0).all()
        assert (found.factors <= 100).all()
        assert float(row["confidence"]) == pytest.approx(thing.mean, abs=0.06)
        assert np.allclose(found.factors[::4], thing.confidence, atol=0.01)
    making = json.loads((out / "samples.json").read_text())["making"]
    assert making["ask"]["sequence"] == [sequence]


def test_a_file_is_drawn_again_by_its_making(run: Path, model: Model, tmp_path: Path) -> None:
    out, again = tmp_path / "folds", tmp_path / "again"
    assert main(["sample", str(run), "--sequence", letters(model), "-n", "3", "--steps", "3", "--out", str(out)]) == 0
    assert main(["sample", str(run), "--like", str(out / "0002.cif"), "--out", str(again)]) == 0
    made = next(path for path in again.iterdir() if path.suffix == ".cif")
    assert np.abs(read_structure(made).coords - read_structure(out / "0002.cif").coords).max() < 0.02


def test_many_sequences_of_other_lengths_each_keep_their_numbering(run: Path, model: Model, tmp_path: Path) -> None:
    store = model.companions.store
    lines = [f"{name},{decoded(store.codes[store.rows(i)])}," for i, name in ((4, "a"), (9, "b"))]
    lines[1] += "".join(str(d) for d in store.cdr[store.rows(9)])
    (tmp_path / "many.csv").write_text("\n".join(["id,sequence,cdr", *lines]) + "\n")
    out = tmp_path / "folds"
    words = [
        "sample",
        str(run),
        "--sequences",
        str(tmp_path / "many.csv"),
        "-n",
        "2",
        "--steps",
        "2",
        "--out",
        str(out),
    ]
    assert main(words) == 0
    assert [(row["id"], row["sample"]) for row in table(out)] == [("a", "0"), ("a", "1"), ("b", "0"), ("b", "1")]
    first = read_structure(out / "0000.cif")
    other = tmp_path / "other"
    assert (
        main(["sample", str(run), "--sequences", str(out / "0000.cif"), "-n", "1", "--steps", "2", "--out", str(other)])
        == 0
    )
    assert read_structure(other / "0000.cif").residues == first.residues


def test_a_sample_that_failed_is_a_row_and_so_is_one_that_never_came(model: Model, tmp_path: Path) -> None:
    codes = np.arange(5)
    one = Asked("q", codes, None, numbered(codes, "A"))
    good = np.zeros((5, 4, 3), dtype=np.float32)
    folds = [Fold(one, 0, good, 1), Fold(one, 1, good * np.nan, 2, error="numbers that are not finite"),
             Fold(one, 2, good + 1e5, 3)]  # fmt: skip
    out = tmp_path / "folds"
    out.mkdir()

    def things() -> Any:
        yield from enumerate(folds)
        raise DataError("the disk is on fire")

    done: list[Path] = []
    files = write(Sequences([one], 5), things(), out, model.making(ProteinAsk()), ".cif")
    with pytest.raises(DataError, match="on fire"):
        collections.deque(map(done.append, files), 0)
    assert [path.name for path in done] == ["0000.cif", "samples.csv"]
    rows = table(out)
    assert len(rows) == 5
    assert [bool(row["error"]) for row in rows] == [False, True, True, True, True]
    assert [bool(row["path"]) for row in rows] == [True, False, False, False, False]


def test_a_walk_that_blows_up_costs_no_other_sample(model: Model) -> None:
    """Rows that are not finite are told as such; the others are ranked."""

    def wild(part: Any) -> Any:
        x = part.x.clone()
        x[0] = float("nan")
        return part._replace(x=x)

    class Half:
        def __init__(self, model: Model):
            self.model, self.facts, self.companions = model, model.facts, model.companions

        def draw(self, *args: Any, **known: Any) -> Any:
            return map(wild, self.model.draw(*args, **known))

    few = dataclasses.replace(model, walk=dataclasses.replace(model.walk, steps=2))
    queries = model.recipe.queries(few, ProteinAsk(), 5)
    half: Any = Half(few)
    part = next(iter(model.recipe.draw(half, queries, range(5))))
    folds = model.recipe.things(half, queries, part)
    assert [bool(fold.error) for fold in folds] == [True, False, False, False, False]
    assert folds[0].rank == 5
    whole = torch.from_numpy(np.stack([fold.coords for fold in folds[1:]]))
    score = agreed(whole, folds[1].asked.cdr).score
    assert [fold.rank for fold in folds[1:]] == (1 + score.argsort().argsort()).tolist()
    assert len(folds[1].confidence) == len(folds[1].asked)


def test_the_chosen_one_is_the_one_that_the_others_agree_with() -> None:
    rng = torch.Generator().manual_seed(0)
    base = torch.randn(40, 4, 3, generator=rng) * 8
    cdr = np.array([0] * 25 + [3] * 10 + [0] * 5)
    samples = base + 0.3 * torch.randn(6, 40, 4, 3, generator=rng)
    samples[4, 25:35] += 6.0
    judged = agreed(samples, cdr)
    assert int(judged.score.argmax()) == 4
    assert float(judged.third[4]) < float(judged.third[:4].min())
    assert float(judged.confidence[0, :25].mean()) > float(judged.confidence[4, 25:35].mean()) + 10
    alone = agreed(samples[:1], cdr)
    assert torch.isnan(alone.confidence).all()


def test_a_run_is_measured_beside_the_nearest_known_chain(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "-n", "3", "--steps", "2", "--chains", "3"]) == 0
    text = capsys.readouterr().out
    found = json.loads((run / "metrics.json").read_text())
    assert "with a template" in text
    assert found["curve"]["3"]["best"] <= found["curve"]["3"]["mean"]
    assert len(found["chains"]) == 3
    rows = {row["metric"]: row for row in found["rows"]} if "rows" in found else found
    assert "H3_chosen" in json.dumps(rows)
    assert (run / "traces.png").is_file()
    assert (run / "errors.png").is_file()


def test_training_goes_on_and_inspect_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = family(20)
    del arrays["cdr"], arrays["split"]
    assert main(["inspect", "protein", str(saved(tmp_path / "kin.npz", arrays)), *TRAIN]) != 0
    assert "its 20 chains are of 1 cluster(s) of kin" in capsys.readouterr().err
    rng = np.random.default_rng(0)
    arrays["seq"] = np.array([decoded(rng.integers(0, 20, len(one))) for one in arrays["seq"]])
    data, out = saved(tmp_path / "free.npz", arrays), tmp_path / "run"
    assert main(["inspect", "protein", str(data), *TRAIN]) == 0
    assert "free frame" in capsys.readouterr().out
    assert main(["train", "protein", str(data), *TRAIN, "--steps", "2", "--out", str(out)]) == 0
    resume(out, 3)
    model = load(out)
    assert model.facts.frame == "free"
    assert main(["evaluate", str(out), "-n", "2", "--steps", "2", "--on", "val", "--chains", "2"]) == 0
    assert "RMSD" in capsys.readouterr().out


def test_a_run_becomes_a_flow_map_that_folds(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a memory of its last guess, in one leap."""
    out = tmp_path / "map"
    assert main(["distill", str(run), "--steps", "2", "--batch", "2", "--threads", "1", "--out", str(out)]) == 0
    assert "failed" not in capsys.readouterr().err
    assert main(["sample", str(out), "-n", "2", "--steps", "1", "--out", str(tmp_path / "folds")]) == 0
    assert len(table(tmp_path / "folds")) == 2


def test_every_walk_of_the_field_draws(model: Model) -> None:
    for name in ("usual", "accurate", "diverse", "fast"):
        walk = dataclasses.replace(model.walked(type(model.walk)(), name), steps=2)
        few = dataclasses.replace(model, walk=walk)
        (part,) = few.draw(few.recipe.queries(few, ProteinAsk(), 2), range(2))
        x: Any = part.x
        assert x.isfinite().all()
    with pytest.raises(Wrong, match="walk = 'slow': must be one of usual, accurate, diverse, fast"):
        model.recipe.walk("slow")


def test_what_cannot_be_folded_is_refused_in_a_line(
    run: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (["--sequence", "ACDB"], "sequence: position 4 is 'B'"),
        (["--sequence", "ACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWY"], "no regions of a heavy chain are found"),
        (["--sequence", "ACDE", "--cdr", "011"], "cdr has 3 digits for 4 residues"),
        (["--sequence", "ACDE", "--chain", "x"], "the only one of sequence, sequences, chain and hold"),
        (["--chain", "nobody"], "the run has no chain of that name"),
        (["--sequence", letters(model), "--cdr", "0" * len(letters(model))], "0 1 0 2 0 3 0"),
        (["--solver", "overstep:gamma=-1"], "gamma = -1"),
    ):
        assert main(["sample", str(run), *words]) != 0
        text = capsys.readouterr().err
        assert said in text
        assert "Traceback" not in text


def test_a_sequence_beyond_memory_is_refused_with_the_longest_that_fits() -> None:
    with pytest.raises(
        DataError, match=r"q: 3,000,000 residues take about .* GB, 16 samples at once, .* residues|up to [\d,]+ fit"
    ):
        check_length(3_000_000, 16, "q")
    check_length(100, 1, "q")


def test_the_default_is_a_held_out_chain_with_its_truth(model: Model) -> None:
    (one,) = asked(model.companions.store, ProteinAsk(), 16)
    store = model.companions.store
    assert one.name == store.names[int(store.part("val").chains[0])]
    assert one.truth is not None


def test_sizes_of_the_network_are_options(model: Model) -> None:
    assert BackboneOptions(size="large").settings("cpu") == {"width": 768, "depth": 24, "heads": 16, "trunk": 8}
    with pytest.raises(Wrong, match=r"network.width = 30: must be divisible by the 4 heads"):
        BackboneOptions(width=30).settings("cpu")
    assert model.settings["width"] == 16
