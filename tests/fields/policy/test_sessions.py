"""A trained policy in a loop: many robots in a session, one under a controller."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import sfumato
from sfumato.errors import Wrong
from sfumato.fields.policy.acting import Policy
from sfumato.fields.policy.data import PolicyFacts
from sfumato.fields.policy.demonstrations.episodes import Windows
from sfumato.fields.policy.demonstrations.replay import open_episodes
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.run import Run
from tests.fields.policy.reach import look_of, policy_of


@pytest.mark.parametrize("name", ["run", "look"])
def test_a_session_shows_the_network_what_training_showed_it(name: str, world: Path):
    """Walking through an episode, the network's inputs are those of the windows, padding at the start included."""
    policy = Policy.load(world / name)
    facts = policy.facts
    found = open_episodes(world / ("reach.npz" if name == "run" else "look.npz"))
    windows = Windows(
        found, facts.observed, facts.horizon, facts.acted, facts.ranges, (*facts.states, *facts.pictures), [0]
    )
    session = policy.session(1, [0], tasks=[0] if facts.tasks else None)
    for step in range(found.episode(0).stop - facts.horizon + facts.acted):
        session.observe({key: x[step][None] for key, x in found.observations.items()})
        shown = facts.shown(session.history)
        window = {key.removeprefix("observation."): value[None] for key, value in windows[step].items()}
        assert windows.name(step).endswith(f"episode 0, step {step}")
        for key, value in facts.joined(window).items():
            torch.testing.assert_close(shown[key], value, rtol=0, atol=0)


def test_a_size_that_a_file_tells_is_not_counted_out(world: Path):
    """A state of 1e15 numbers: an angle is looked for by its number, and is at its place among all."""
    facts = PolicyFacts.read(Run(world / "look"))
    huge = dataclasses.replace(facts, shapes={**facts.shapes, "state": (10**15,)})
    assert huge.turning == facts.turning == (1,)
    for word in ("state.1000000000000000", "state.01", "state.-1", "state", "elsewhere.0"):
        with pytest.raises(Wrong, match="angles = "):
            dataclasses.replace(facts, angles=(word,))


def test_angles_are_shown_as_sine_and_cosine_in_which_a_turn_is_no_jump(world: Path):
    facts = PolicyFacts.read(Run(world / "look"))
    assert facts.angles == ("state.1",)
    look = {name: np.repeat(x[:, None], facts.observed, axis=1) for name, x in look_of(4, facts=facts).items()}
    look["eye"] = look["eye"].transpose(0, 1, 4, 2, 3)
    shown = facts.shown(look)["state"]
    plain = dataclasses.replace(facts, angles=()).shown(look)["state"]
    angle = look["state"][..., 1]
    assert facts.state == shown.shape[2] == 5
    torch.testing.assert_close(shown[..., :3], plain[..., [0, 2, 3]], rtol=0, atol=0)
    np.testing.assert_allclose(shown[..., 3], np.sin(angle), atol=1e-4)
    np.testing.assert_allclose(shown[..., 4], np.cos(angle), atol=1e-4)
    turned = {**look, "state": look["state"] + [0, 2 * np.pi, 0, 0]}
    torch.testing.assert_close(facts.shown(turned)["state"], shown, rtol=0, atol=1e-4)


def test_a_run_from_before_angles_has_none(world: Path, tmp_path: Path):
    shutil.copytree(world / "run", tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "data.json").read_text())
    assert stored.pop("angles") == []
    (tmp_path / "run" / "data.json").write_text(json.dumps(stored))
    assert (PolicyFacts.read(Run(tmp_path / "run")).angles, PolicyFacts.read(Run(tmp_path / "run")).state) == ((), 4)


def test_the_actions_are_those_of_the_chunk_from_now_on(world: Path):
    """The first action of a chunk belongs to the first observed step, not to now; all are in the demonstrations' units."""
    answer = torch.linspace(-1, 1, 16)[:, None].repeat(1, 2)
    answer[:, 1] = -0.5
    policy = policy_of(world / "run", answer)
    ranges = policy.facts.ranges
    low, high = ranges.low["action"], ranges.high["action"]
    for steps in (1, 3, 8):
        chunk = policy.session(3, [0, 1, 2], Walk(steps=steps)).act(look_of(3))
        assert chunk.shape == (3, 8, 2)
        wanted = low + (answer.numpy()[1:9] + 1) / 2 * (high - low)
        np.testing.assert_allclose(chunk, np.broadcast_to(wanted, chunk.shape), atol=1e-4)
    beyond = policy_of(world / "run", torch.full((16, 2), 7.0)).session(1, [0]).act(look_of(1))
    np.testing.assert_allclose(beyond, np.broadcast_to(high, beyond.shape))  # no further than anybody went


def test_a_row_depends_on_its_own_seed_and_sight_alone(world: Path):
    policy, how = Policy.load(world / "run"), Walk(steps=3)
    seen = look_of(3)
    together = policy.session(3, [5, 6, 7], how)
    alone = policy.session(1, [6], how)
    for _ in range(2):
        a, b = together.act(seen), alone.act({"state": seen["state"][1:2]})
        np.testing.assert_allclose(a[1:2], b, rtol=1e-4, atol=1e-3)
    assert np.abs(together.act(seen) - a).max() > 1e-3  # every chunk has noise of its own
    same = policy.session(2, [6, 9], how).act({"state": seen["state"][[1, 1]]})
    assert np.abs(same[0] - same[1]).max() > 1e-3  # and every seed


def test_a_row_that_is_reset_begins_anew_and_the_others_go_on(world: Path):
    policy, how = Policy.load(world / "run"), Walk(steps=2)
    session = policy.session(2, [3, 4], how)
    first = session.act(look_of(2, 0))
    session.observe(look_of(2, 1))
    session.reset([0])
    again = session.act(look_of(2, 0))
    np.testing.assert_allclose(again[0], first[0], rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(session.history["state"][0, 0], session.history["state"][0, 1])
    np.testing.assert_array_equal(session.history["state"][1, 0], look_of(2, 1)["state"][1])
    session.reset()
    np.testing.assert_allclose(session.act(look_of(2, 0)), first, rtol=1e-4, atol=1e-3)
    session.reset(1, seeds=[3])
    assert session.seeds == [3, 3]


def test_the_observation_that_ends_a_chunk_may_be_given_twice(world: Path):
    histories = []
    for twice in (False, True):
        session = Policy.load(world / "run").session(2, [0, 1], Walk(steps=1))
        session.act(look_of(2, 0))
        for seed in (1, 2, 3) if twice else (1, 2):
            session.observe(look_of(2, seed))
        session.act(look_of(2, 3))
        histories.append(session.history["state"])
    np.testing.assert_array_equal(*histories)
    np.testing.assert_array_equal(histories[0][:, 0], look_of(2, 2)["state"])


def test_a_chunk_is_carried_on_from_what_was_left_of_the_one_before(world: Path):
    """Started from nearly no noise, the next chunk is the last one moved on by what was carried out."""
    answer = torch.linspace(-0.9, 0.9, 16)[:, None].repeat(1, 2)
    for run, horizon, acted, tasks in (("run", 16, 8, None), ("look", 8, 4, [0, 1])):
        answer = torch.linspace(-0.9, 0.9, horizon)[:, None].repeat(1, 2)
        kept: list[Tensor] = []

        def keep(shown: Tensor, kept: list[Tensor] = kept, answer: Tensor = answer, **condition: Tensor) -> Tensor:
            kept.append(shown)
            return answer

        policy = policy_of(world / run, keep)
        session = policy.session(2, [0, 1], Walk(steps=1), warm=1e-4, tasks=tasks)
        session.act(look_of(2, 0, policy.facts))
        session.act(look_of(2, 1, policy.facts))
        from_noise, carried = kept
        assert (from_noise - answer).abs().max() > 0.5
        left = 1 if run == "look" else horizon - acted  # with levels of their own, later actions start from more noise
        torch.testing.assert_close(carried[:, :left], answer[acted : acted + left].expand(2, -1, -1), atol=2e-3, rtol=0)
        if run == "look":
            assert (carried[:, -1] - answer[-1]).abs().max() > 0.1
        session.reset([1])
        session.act(look_of(2, 2, policy.facts))
        assert (kept[2][0, :left] - answer[acted : acted + left]).abs().max() < 2e-3
        assert (kept[2][1, :left] - answer[acted : acted + left]).abs().max() > 0.1  # a new episode starts from noise


@pytest.mark.parametrize(("seen", "message"), [
    ({}, "observation state is missing; this policy sees state"),
    ({"state": np.zeros((2, 3))}, r"observation state has shape \(2, 3\), expected \(2, 4\)"),
    ({"state": np.full((2, 4), np.nan)}, "observation state must be finite numbers"),
    ({"state": np.zeros((3, 4))}, r"expected \(2, 4\)"),
])  # fmt: skip
def test_observations_that_do_not_fit_are_refused(seen: dict[str, np.ndarray], message: str, world: Path):
    session = Policy.load(world / "run").session(2, [0, 1])
    for call in (session.act, session.observe):
        with pytest.raises(ValueError, match=message):
            call(seen)


def test_pictures_are_bytes_in_either_order_of_axes(world: Path):
    policy = Policy.load(world / "look")
    seen = look_of(2, 0, policy.facts)
    session = policy.session(2, [0, 1], Walk(steps=1), tasks=[0, 1])
    last = session.act(seen)
    session.reset()
    moved = session.act({**seen, "eye": np.moveaxis(seen["eye"], -1, 1)})
    np.testing.assert_array_equal(last, moved)
    with pytest.raises(ValueError, match="observation eye holds float64, expected bytes"):
        session.act({**seen, "eye": seen["eye"] / 255})


def test_a_session_keeps_what_its_policy_was_loaded_with(world: Path):
    policy = Policy.load(world / "run", Walk(solver="euler", grid="uniform"), Drawing(precision="bf16"))
    for asked, known in ((None, ("euler", 8)), (Walk(steps=3), ("euler", 3)), (Walk(solver="ab2"), ("ab2", 8))):
        walk = policy.session(1, [0], asked).walk
        assert (walk.solver, walk.steps, walk.grid) == (*known, "uniform")
    exact, asked = sfumato.load(world / "run"), sfumato.load(world / "run", precision="bf16")
    assert [each.model.denoiser.network.bf16 for each in (exact, asked, policy)] == [False, True, True]
    assert isinstance(exact, Policy)
    chunks = exact.sample(2, seed=3, steps=2)
    np.testing.assert_array_equal(chunks[0].actions, exact.sample(1, seed=3, steps=2)[0].actions)


def test_a_policy_never_acts_nan(world: Path):
    """With weights that are broken, or of an observation in other units than those of the demonstrations."""
    controller = policy_of(world / "run", torch.full((16, 2), float("nan"))).session(1, [0], Walk(steps=1))
    with pytest.raises(Wrong, match=r"answers NaN or infinity to what it sees.*\(action: \["):
        controller.act(look_of(1))
    assert controller.last is None
    policy = Policy.load(world / "run")
    low, high = (bound["action"] for bound in (policy.facts.ranges.low, policy.facts.ranges.high))
    for value in (1e3, -1e3, 1e20, 1e25, 1e300, np.finfo(np.float64).max):
        session = policy.session(1, [0])
        with pytest.warns(
            RuntimeWarning, match="ALARM: state.0 is .*, demonstrated from .* to .*: it acts as at the edge"
        ):
            actions = session.act({"state": np.full((1, 4), value)})
        assert ((low <= actions) & (actions <= high)).all()
        assert session.alarms[0].startswith("state.0 is ")
    with pytest.raises(ValueError, match="observation state must be finite numbers"):
        policy.session(1, [0]).act({"state": np.full((1, 4), np.nan)})


@pytest.mark.parametrize("place", [0, 2])
def test_one_row_that_sees_nonsense_spoils_no_other(place: int, world: Path):
    """The others do what they do alone; the row itself acts as at the edge, and is itself again as soon as it sees well."""
    policy, looks = Policy.load(world / "run"), [look_of(3, seed) for seed in range(3)]
    sound = policy.session(3, [5, 6, 7], Walk(steps=2))
    plain = [sound.act(look) for look in looks]
    assert sound.alarms == [""] * 3
    looks[1] = {"state": looks[1]["state"].copy()}
    looks[1]["state"][place, 1] = 1e9
    session = policy.session(3, [5, 6, 7], Walk(steps=2))
    others = [row for row in range(3) if row != place]
    with pytest.warns(RuntimeWarning, match=f"row {place}: state.1 is 1e\\+09") as said:
        found = [session.act(look) for look in looks[:2]]
    assert len(said) == 1
    assert [bool(line) for line in session.alarms] == [row == place for row in range(3)]
    for mine, other in zip(found, plain, strict=False):
        np.testing.assert_allclose(mine[others], other[others], atol=1e-5)
    assert np.isfinite(found[1]).all()
    session.act(looks[2])
    assert session.alarms == [""] * 3


def test_a_row_without_an_answer_keeps_its_last_action(world: Path):
    """Of a network that answers NaN for one row only: the others act, and that row stands where it was told to be."""
    broken = [False]

    def spoil(shown: Tensor, **condition: Tensor) -> Tensor:
        answer = torch.full((len(shown), 16, 2), 0.25)
        if broken[0]:
            answer[1] = float("nan")
        return answer

    policy = policy_of(world / "run", spoil)
    session = policy.session(2, [0, 1], Walk(steps=1))
    first = session.act(look_of(2, 1))
    broken[0] = True
    with pytest.warns(RuntimeWarning, match="row 1: the policy answers NaN or infinity: it keeps its last action"):
        then = session.act(look_of(2, 2))
    np.testing.assert_allclose(then[1], np.broadcast_to(first[1, -1], then[1].shape), atol=1e-6)
    session.reset(1)
    middle = policy.facts.actions(torch.zeros(1, 1, 2))[0, 0]
    np.testing.assert_allclose(session.act(look_of(2, 3))[1], np.broadcast_to(middle, then[1].shape), atol=1e-6)


def test_wishes_that_make_no_sense_are_refused(world: Path):
    run, look = Policy.load(world / "run"), Policy.load(world / "look")
    for policy, wish, message in (
        (run, {"rows": 2, "seeds": [0]}, "1 seeds for 2 rows"),
        (run, {"rows": 1, "seeds": [0], "warm": 1.5}, "warm = 1.5: must be above 0 and at most 1"),
        (look, {"rows": 1, "seeds": [0]}, r"this policy knows several, .* \(0 red, 1 blue\)"),
        (look, {"rows": 1, "seeds": [0], "tasks": [2]}, r"tasks = \[2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            policy.session(**wish)
    with pytest.raises(ValueError, match="steps = 0: must be at least 1"):
        run.session(1, [0]).act(look_of(1), steps=0)
    with pytest.raises(ValueError, match="shift = 0: must be above 0"):
        Walk(shift=0)


# ---- one robot -------------------------------------------------------------------------------------------------------------


def test_a_controller_acts_as_a_session_of_one_row(world: Path):
    policy, how = Policy.load(world / "run"), Walk(steps=2)
    controller, session = policy.controller(4, how), policy.session(1, [4], how)
    seen = [look_of(1, seed)["state"] for seed in range(20)]
    for episode in range(2):
        for start in range(0, 16, 8):
            chunk = session.act(seen[start])[0]
            for k in range(8):
                np.testing.assert_array_equal(controller.act(seen[start + k][0]), chunk[k])
                if k:
                    session.observe(seen[start + k])
        if not episode:
            controller.act({"state": seen[16][0]})
            controller.reset()  # in the middle of a chunk
            session.reset()


def test_a_deadline_is_met_by_fewer_steps(world: Path):
    calls: list[int] = []

    def count(shown: Tensor, **condition: Tensor) -> Tensor:
        calls.append(len(shown))
        return torch.zeros(16, 2)

    controller = policy_of(world / "run", count).controller(walk=Walk(steps=50))
    controller.calls.clear()
    controller.calls.append(0.010)  # as if a call took 10 ms and a chunk 5 ms besides
    controller.around = 0.005
    assert [controller.steps_within(s) for s in (None, 10.0, 0.5, 0.1, 0.02, 1e-9)] == [50, 50, 39, 7, 1, 1]
    for within, steps in ((None, 50), (0.1, 7), (1e-6, 1)):
        controller.reset()
        controller.calls.clear()
        controller.calls.append(0.010)
        calls.clear()
        controller.act(np.zeros(4), within)
        assert len(calls) == steps
        assert controller.act(np.zeros(4), within).shape == (2,)  # the rest of the chunk costs nothing
        assert len(calls) == steps
    with pytest.raises(ValueError, match="within = 0: must be above 0 seconds"):
        controller.act(np.zeros(4), 0)
