"""How quality grew: read from the averages that a run kept, and said in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sfumato.diffusion import Blanks
from sfumato.fields.images.growth import Grown, growth, minutes, words
from sfumato.fields.images.measure import features_for
from sfumato.jobs.evaluate import spread_out, stacked
from sfumato.jobs.model import load
from sfumato.jobs.walk import Walk
from sfumato.metrics.distances import kernel_distance
from sfumato.training.run import Run
from tests.jobs.small import SMALL, sfumato, write_data


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


def test_growth_is_that_of_the_averages_the_run_kept(tmp_path: Path):
    """The last of them is the model itself, the earlier ones are others; and the sheet has a row for each."""
    more = ["--steps", "16", "--snapshots", "8", "--optim.lr", "0.02", "--out", str(tmp_path / "run")]
    assert sfumato("train", *write_data("classes", tmp_path), *SMALL, *more) == 0
    model = load(tmp_path / "run", Walk(steps=3))
    found = growth(model, tmp_path / "growth.png")
    data = model.recipe.open(model.run)
    held_out = spread_out(data.held_out)
    blanks = Blanks(torch.zeros(model.facts.shape), len(held_out["x"]), {"label": held_out["label"]})
    own = torch.cat([part.x for part in model.draw(blanks, range(len(blanks)))])
    features = features_for(stacked(data.train))
    assert found[2].distance == pytest.approx(kernel_distance(features(own), features(held_out["x"])), rel=1e-3)
    looks = {record["step"]: record["held_out"] for record in model.run.records() if "held_out" in record}
    assert [each.loss for each in found] == [None, looks[8], looks[16]]
    assert len({round(each.distance, 4) for each in found}) == 3
    assert all(each.low < each.distance < each.high for each in found)
    width, height = Image.open(tmp_path / "growth.png").size
    assert width / height == pytest.approx(12 / 3, rel=0.1)


def test_of_a_run_that_kept_no_averages_there_is_nothing_to_say(tmp_path: Path):
    more = ["--snapshots", "0", "--out", str(tmp_path / "run")]
    assert sfumato("train", *write_data("classes", tmp_path), *SMALL, *more) == 0
    assert growth(load(tmp_path / "run"), tmp_path / "growth.png") == []
    assert not (tmp_path / "growth.png").exists()
