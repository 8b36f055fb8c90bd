"""Videos repeat the very episodes that were counted; fans are drawn where the actions lead."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")
av = pytest.importorskip("av")
from sfumato.data import DataError  # noqa: E402
from sfumato.fields.policy.simulators.environments import make  # noqa: E402
from sfumato.fields.policy.simulators.filming import AMBIGUOUS, BORDER, LOST, RUNNING, WON, fan, film, futures  # noqa: E402
from sfumato.fields.policy.simulators.rollout import rollout  # noqa: E402
from sfumato.fields.policy.simulators.world import PUSH_T  # noqa: E402
from tests.fields.policy.robots import LIMIT, POINT, Walker  # noqa: E402

POINTS = {"point": partial(make, POINT)}


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def colour(picture: np.ndarray, tile: int, columns: int) -> np.ndarray:
    """The border of a tile, in its upper left corner."""
    side = 48 + 2 * BORDER
    top, left = tile // columns * side, tile % columns * side
    return picture[top + 1 : top + BORDER - 1, left + 8 : left + side - 8].mean(axis=(0, 1))


@pytest.mark.parametrize("every", [1, 4])
def test_a_video_shows_each_episode_to_its_end(every: int, tmp_path: Path):
    calm = rollout(POINTS, partial(Walker, wild=0.0), range(3), rows=3, workers=1, timed=0, silent=True)
    lost = rollout(POINTS, partial(Walker, wild=30.0), [7], rows=3, workers=1, timed=0, silent=True)
    episodes, told = (*calm.episodes, *lost.episodes), []
    film(POINTS, episodes, tmp_path / "film.mp4", every=every, show=lambda k, n: told.append((k, n)))
    shown = frames(tmp_path / "film.mp4")
    assert len(shown) == len([k for k in range(LIMIT + 1) if k % every == 0 or k == LIMIT])
    assert told[-1] == (LIMIT, LIMIT)
    assert os.listdir(tmp_path) == ["film.mp4"]
    for tile, episode in enumerate(episodes):
        end = WON if episode.success else LOST
        assert np.abs(colour(shown[0], tile, 2) - RUNNING).max() < 24
        assert np.abs(colour(shown[-1], tile, 2) - end).max() < 24
    world = make(POINT)
    world.reset(0)
    for action in calm.episodes[0].actions:
        world.step(action)
    picture = shown[-1][BORDER : BORDER + 48, BORDER : BORDER + 48]
    assert np.abs(picture - world.render()).mean() < 6  # what is left of it after compression


def test_an_environment_that_does_not_repeat_is_named(tmp_path: Path):
    makes = {"loose": partial(make, "tests.fields.policy.robots:sfumato_tests/forgets-v0")}
    found = rollout(makes, Walker, [5], rows=1, workers=1, timed=0, silent=True)
    with pytest.raises(DataError, match=r"loose, seed 5, step 0: paid .* does not repeat"):
        film(makes, found.episodes, tmp_path / "film.mp4")
    assert not os.listdir(tmp_path)
    with pytest.raises(ValueError, match="0 episodes"):
        film(makes, [], tmp_path / "film.mp4")


def test_futures_are_the_episodes_that_would_follow():
    found = rollout(POINTS, Walker, [5], rows=1, workers=1, timed=0, silent=True).episodes[0]
    paths = futures(POINTS["point"], Walker, 4, seed=5, chunks=8)
    assert paths.shape == (4, 32, 2)
    length = found.length
    np.testing.assert_array_equal(paths[0, :length], found.actions)
    assert np.isnan(paths[0, length:]).all()
    assert len(np.unique(paths[:, 0], axis=0)) == 4
    np.testing.assert_array_equal(futures(POINTS["point"], Walker, 2, seed=5, chunks=8), paths[:2])
    with pytest.raises(ValueError, match="0 samples"):
        futures(POINTS["point"], Walker, 0)


def test_a_fan_is_drawn_where_its_actions_lead():
    pytest.importorskip("gym_pusht")
    world = partial(make, PUSH_T, side=256)
    line = np.stack([np.linspace(20, 120, 9), np.full(9, 460.0)], axis=1)
    paths = {"one": line[None], "none": np.full((1, 4, 2), np.nan)}
    picture = np.asarray(fan(world, paths, state=AMBIGUOUS, side=256)).astype(int)
    assert picture.shape == (256 + 28, 512, 3)
    with_line, without = picture[28:, :256], picture[28:, 256:]
    changed = np.abs(with_line - without).max(axis=2) > 40
    down, across = np.nonzero(changed)
    assert 45 < changed.sum() < 400
    assert abs(down.mean() - 230) < 2  # 460 of 512
    assert (across.min(), across.max()) == (pytest.approx(10, abs=3), pytest.approx(60, abs=4))
    with pytest.raises(DataError, match="no places in its picture"):
        fan(POINTS["point"], {"one": line[None]})
    with pytest.raises(ValueError, match="no futures"):
        fan(world, {})
