"""Environments of gymnasium as systems: an episode is a function of its disturbance."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from sfumato.errors import Wrong
from sfumato.fields.failure.chain import normals
from sfumato.fields.failure.lander import landing
from sfumato.fields.failure.simulators import opened, system
from sfumato.fields.failure.spec import Spec

pytest.importorskip("gymnasium")
pytest.importorskip("Box2D")


def test_the_lander_is_a_function_of_its_disturbance() -> None:
    found = system(Spec("gymnasium:LunarLander-v3", noise=0.1, hold=20))
    assert found.shape == (20, 6)  # 400 steps, 20 each; all of the observation but the contacts of the legs
    asked = opened(Spec("gymnasium:LunarLander-v3", noise=0.1, hold=20), 1)
    x = np.concatenate([np.zeros((1, 120)), normals(("lander",), 5, 120)])
    first, again = asked.whole(x), asked.whole(x[::-1])
    assert np.array_equal(first.robustness, again.robustness[::-1])
    assert first.robustness[0] > 0  # the heuristic lands where it sees well
    assert first.trajectory is not None
    assert first.trajectory.shape == (6, 401, 8)
    assert len(np.unique(first.robustness)) == 6
    other = pickle.loads(pickle.dumps(found))
    assert other.run(x[1].reshape(20, 6))["robustness"] == first.robustness[1]


def test_a_landing_is_judged_by_what_it_was_like_near_the_ground() -> None:
    calm = np.zeros((3, 8))
    calm[:, 1] = (1.0, 0.2, 0.0)
    hard = calm.copy()
    hard[1, 3] = -0.9
    assert 0 < landing(hard, False) < landing(calm, False)
    assert landing(hard, True) < 0


def test_what_cannot_be_disturbed_is_refused() -> None:
    with pytest.raises(Wrong, match="cannot be made"):
        system(Spec("gymnasium:Nowhere-v0", controller="a:b"))
    with pytest.raises(Wrong, match="are no vectors of numbers"):
        system(Spec("gymnasium:LunarLander-v3", where="action"))
