"""`sfumato tables compare`: two files in, scores and a page out, and one line where something is wrong."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from sfumato.cli import main
from sfumato.fields.tables.table import Column, Table
from sfumato.fields.tables.writing import write_table
from tests.fields.tables.tables import mixed

pytest.importorskip("lightgbm")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real rows, others of the same law, made ones that are honest, and made ones with a <b> in a word."""
    folder = tmp_path_factory.mktemp("tables")
    tables = {name: mixed(700, seed) for name, seed in (("real", 0), ("held", 1), ("made", 2), ("odd", 3))}
    odd = tables["odd"]
    names = Column.of("sex", ["<b>man</b>" if cell == "man" else cell for cell in odd["sex"].cells()])
    more = Column.of("more", ["1"] * 700)
    tables["odd"] = Table((more, *reversed(odd.columns[1:]), names))
    tables["copy"] = tables["real"]
    return {name: write_table(each, folder / f"{name}.csv") for name, each in tables.items()}


def test_scores_stand_beside_floor_and_shuffled_rows(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    words = ["tables", "compare", str(files["real"]), str(files["made"]), "--held-out", str(files["held"])]
    assert main([*words, "--target", "smokes", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    found = json.loads(out.read_text())["metrics"]
    for name in ("shape", "trend", "detection", "useful_auc", "useful_everywhere", "invalid", "copied", "attack_by_distance",
                 "attack_by_trees", "nearer_to_training", "gap_patterns", "caught_by_trees"):  # fmt: skip
        assert name in said
        assert name in found
    assert found["detection"]["shuffled"] < found["detection"]["low"]
    assert found["useful_auc"]["value"] == pytest.approx(found["useful_auc"]["floor"], abs=0.1)
    assert found["useful_auc"]["shuffled"] < found["useful_auc"]["value"]
    assert "ALARM" not in said


def test_the_page_needs_nothing_else_and_spells_what_is_in_the_files(files: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["tables", "compare", str(files["real"]), str(files["odd"]), "--out", str(page)]) == 0
    text = page.read_text()
    assert "<b>man" not in text
    assert "&lt;b&gt;man" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert text.count("<svg") == 4 + 1  # a column each, and what gives the rows away
    assert text.count("data:image/png") == 3
    assert "No rows were held out" in text
    for word in ("private", "anonymous"):
        assert word not in text.lower()


def test_a_copy_is_an_alarm_when_other_rows_are_given(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tables", "compare", str(files["real"]), str(files["copy"]), "--held-out", str(files["held"])]) == 0
    assert "ALARM: 100.0% of the made rows are training rows" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_what_cannot_be_compared_is_said_in_a_line(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, made = str(files["real"]), str(files["made"])
    fewer = mixed(700)
    fewer = dataclasses.replace(fewer, columns=fewer.columns[1:])
    without, short = write_table(fewer, tmp_path / "fewer.csv"), write_table(mixed(30), tmp_path / "short.csv")
    cases = [
        ([real, str(without)], "lacks column 'sex'"),
        ([real, str(short)], "30 rows to compare, at least 50 are needed"),
        ([real, made, "--target", "smoke"], "'smokes' is one"),
        ([real, made, "--out", "page.pdf"], "must end in .html"),
        ([real, made, "--rows", "3"], "at least 50"),
        ([real, "nowhere.csv"], "there is no such file"),
        ([real, made, "--kind", "income:date"], "column 'income' is no date"),
    ]
    for words, message in cases:
        assert main(["tables", "compare", *words]) != 0
        assert message in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_rows_of_a_run_are_measured_by_the_same_scores(files: dict[str, Path], tmp_path: Path) -> None:
    """`evaluate` shares the code: a target and attacks there too, and the page."""
    from sfumato.fields.tables.data import Facts
    from sfumato.fields.tables.looks import write_compared
    from sfumato.fields.tables.scoring import scores

    train, held, made = mixed(700, 0), mixed(700, 1), mixed(700, 2)
    facts = Facts.of(train, np.arange(700))
    found = scores(made, train, held, facts, target="age")
    assert {"useful_rmse", "attack_by_trees"} <= {score.name for score in found}
    write_compared(tmp_path / "page.html", "made & real", found, made, train, facts, "held-out rows")
    assert "made &amp; real" in (tmp_path / "page.html").read_text()
