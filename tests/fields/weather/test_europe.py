"""Real weather, where it lies beside the repository: the baselines are those that were measured by other code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.fields.weather.baselines import baselines
from sfumato.fields.weather.data import Store, Wanted, prepare
from sfumato.fields.weather.grid import moment
from sfumato.fields.weather.measure import truth_of
from sfumato.fields.weather.scoring import Scoring
from sfumato.training.run import Run

DATA = Path(__file__).parents[4] / "shared" / "data" / "weather_era_interim"
UNITS = np.array([0.01, 1 / 9.80665, 1.0])  # hPa, metres, kelvin

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"needs ERA-Interim of Europe in {DATA}"),
    pytest.mark.slow,
]


def test_the_bars_of_europe_are_those_that_were_measured(tmp_path: Path) -> None:
    """2009 and 2010, one day on: mean absolute error of persistence 3.86 hPa, 44.7 m, 2.10 K; CRPS of climatology
    4.40, 55.3, 2.17, of 20 analogs 2.86, 32.9, 1.36, of ridge with its residuals drawn again 2.17, 24.2, 1.06."""
    run = Run(tmp_path / "run")
    run.create()
    wanted = Wanted(("msl", "z", "t"), None, None, "2008-01-01", "2009-01-01", 0.1)
    facts = prepare(run, DATA, wanted, lambda text: None)
    store = Store.of(run, facts)
    assert (facts.count, facts.held, facts.gaps) == (2920, 364, 0)
    spread = np.array(facts.spread) * UNITS
    assert spread == pytest.approx([8.48, 157.0, 7.84], rel=1e-3)
    assert np.array(facts.change) * UNITS == pytest.approx([5.37, 63.3, 2.76], rel=2e-3)
    scoring, made = Scoring(store), baselines(store, 1)
    starts = store.starts(moment("since", "2009-01-01"), moment("before", "2011-01-01"), 1)[::2]
    found = {
        name: np.mean([scoring.plain(torch.from_numpy(make(int(at), 50)).double(), truth_of(store, int(at), 1))["crps"][0].numpy()
                       for at in starts], 0) * spread
        for name, make in made.items()
    }  # fmt: skip
    assert found["persistence"] == pytest.approx([3.86, 44.7, 2.10], rel=0.02)  # every other day of them
    assert found["climatology"] == pytest.approx([4.40, 55.3, 2.17], rel=0.03)
    # twenty of those most alike by area are nearer than those of the other code were
    assert found["analogs"] == pytest.approx([2.52, 30.8, 1.34], rel=0.02)
    assert (found["analogs"] < [2.86, 32.9, 1.36]).all()
    assert found["ridge"] == pytest.approx([2.17, 24.2, 1.06], rel=0.03)
