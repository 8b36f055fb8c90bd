"""Three kills of `benchmarks.kills`, which does twenty: a rank in a step, the first rank in a save, the other after an update."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from benchmarks import kills

DEATHS = [
    {"step": 3, "rank": 1, "point": "before the update"},
    {"step": 5, "rank": 0, "point": "before_rename"},
    {"step": 8, "rank": 1, "point": "after the update"},
]


def test_places_are_drawn_from_the_seed_in_steps_and_saves():
    drawn = kills.places(20, 80, 0)
    assert drawn == kills.places(20, 80, 0) != kills.places(20, 80, 1)
    steps = [place["step"] for place in drawn]
    assert steps == sorted(set(steps))
    assert {place["rank"] for place in drawn} == {0, 1}
    assert {place["point"] in kills.SAVE for place in drawn} == {True, False}


@pytest.mark.slow
def test_a_training_killed_three_times_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    try:
        socket.create_server(("127.0.0.1", 0)).close()
    except OSError:
        pytest.skip("no local sockets here")
    monkeypatch.setattr(kills, "places", lambda *_: DEATHS)
    found = kills.killed(3, 12, 0, tmp_path)
    assert [death["point"] for death in found["places"]] == [death["point"] for death in DEATHS]
    assert found["steps"] == [12, 12]
    assert found["tensors"] > 20
    assert found["differ"] == 0
    assert len(found["steps lost"]) == 3
    assert max(found["steps lost"]) <= 2  # a save a step, which may still have been on its way
