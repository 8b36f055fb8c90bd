"""How quality grew: read from the averages that a run kept, and said in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("tokenizers", reason="needs the extra sfumato[captions]")

from sfumato.cli import main
from sfumato.fields.captions.growth import Grown, growth, minutes, words
from sfumato.fields.captions.measure import drawn_for, some
from sfumato.jobs.model import load
from sfumato.jobs.walk import Walk
from sfumato.metrics.distances import kernel_distance
from sfumato.metrics.features import Patches
from sfumato.training.run import Run
from tests.fields.captions.squares import folder


def grown(*pairs: tuple[float, float], loss: float | None = None) -> list[Grown]:
    return [Grown(time, distance, distance - 0.01, distance + 0.01, loss) for time, distance in pairs]


def test_what_halves_with_each_doubling_is_said_to_go_on_so():
    said = "\n".join(words(grown((1, 0.8), (2, 0.4), (4, 0.2))))
    assert "1.0 min   0.800 (0.790..0.810)\n" in said
    assert "each doubling left 50% of the distance" in said
    assert "0.100 after 8 min, 0.050 after 16 min" in said


@pytest.mark.parametrize("pairs", [((1, 0.4), (2, 0.5)), ((1, -0.01), (2, 0.02))])
def test_what_did_not_grow_is_not_said_to(pairs):
    said = "\n".join(words(grown(*pairs)))
    assert "do not show in this number" in said
    assert "goes on" not in said


def test_at_the_floor_the_number_has_nothing_more_to_say():
    said = "\n".join(words(grown((1, 0.4), (2, 0.009), loss=0.25)))
    assert "2.0 min   0.009 (-0.001..0.019)   held-out loss 0.2500\n" in said
    assert "not told from real pictures by this number" in said
    assert "goes on" not in said


@pytest.mark.parametrize("pairs", [(), ((4, 0.3),)])
def test_nothing_is_foretold_from_one_look(pairs):
    said = "\n".join(words(grown(*pairs)))
    assert said.count(" min ") == len(pairs)
    assert "doubling" not in said


def test_minutes_are_those_of_the_clock_even_where_steps_were_slow(tmp_path: Path):
    """Ten steps a minute for two minutes, then one a minute; the first line comes after ten steps."""
    lines = [{"step": 10, "time": 1060.0}, {"step": 20, "time": 1120.0}, {"step": 22, "time": 1240.0}]
    text = "\n".join(json.dumps({**line, "loss": 1.0}) for line in lines)
    (tmp_path / "log.jsonl").write_text(text + '\n{"step": 21, "time": 9999.0, "held_out": 1.0}\n')
    clock = minutes(Run(tmp_path))
    assert clock(21) - clock(20) == pytest.approx(1)
    assert clock(20) - clock(10) == pytest.approx(1)
    assert 0 < clock(5) < clock(10)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of sixteen steps that kept eight averages."""
    place = tmp_path_factory.mktemp("growth")
    assert train(folder(place / "squares", 80), place / "run", "8") == 0
    return place / "run"


def train(data: Path, out: Path, snapshots: str) -> int:
    words = ["--vocab", "280", "--side", "16", "--held-out", "0.3", "--network.width", "32", "--network.depth", "2",
             "--network.text-depth", "1", "--batch", "8", "--threads", "1", "--previews", "2", "--optim.lr", "0.02",
             "--precision", "fp32", "--snapshots", snapshots, "--steps", "16"]  # fmt: skip
    return main(["train", "captions", str(data), *words, "--out", str(out)])


def test_growth_is_that_of_the_averages_the_run_kept(run: Path, tmp_path: Path):
    """The last of them is the model itself, the earlier ones are others; and the sheet has a row for each."""
    model = load(run, Walk(steps=3))
    found = growth(model, tmp_path / "growth.png")
    data = model.recipe.open(model.run)
    held, known = some(data.held_out, 999, told=True), some(data.train, 999).x
    own, features = drawn_for(model, held), Patches.fit(known)
    assert found[2].distance == pytest.approx(kernel_distance(features(own), features(held.x)), rel=1e-3)
    looks = {record["step"]: record["held_out"] for record in model.run.records() if "held_out" in record}
    assert [each.loss for each in found] == [None, looks[8], looks[16]]
    assert len({round(each.distance, 4) for each in found}) == 3
    assert all(each.low < each.distance < each.high for each in found)
    with Image.open(tmp_path / "growth.png") as picture:
        assert picture.width > 2 * picture.height


def test_of_a_run_that_kept_no_averages_there_is_nothing_to_say(run: Path, tmp_path: Path):
    assert train(run.parent / "squares", tmp_path / "run", "0") == 0
    assert growth(load(tmp_path / "run"), tmp_path / "growth.png") == []
    assert not (tmp_path / "growth.png").exists()
