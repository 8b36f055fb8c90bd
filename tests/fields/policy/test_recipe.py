"""A policy from demonstrations, through the command line and in a loop: what it sees, what it does, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.adapting.flow_map import Leap
from sfumato.data import DataError
from sfumato.diffusion import Denoiser, Gaussian, Linear, LogitNormal, loss
from sfumato.fields.images.recipe import Images
from sfumato.fields.policy.acting import Controller, Policy
from sfumato.fields.policy.chunks import Facts
from sfumato.fields.policy.cloning import Covered, Regression, Staggered, ramp
from sfumato.fields.policy.demonstrations.episodes import Demonstrations, Windows
from sfumato.fields.policy.demonstrations.replay import open_episodes, save_episodes
from sfumato.fields.policy.recipe import PolicyRecipe
from sfumato.jobs import train as job
from sfumato.jobs.config import Configuration, read_config
from sfumato.jobs.find import kind, name_of, names
from sfumato.jobs.model import load
from sfumato.jobs.strict import ConfigError
from sfumato.jobs.walk import SampleOptions
from sfumato.training import checkpoint
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError
from tests.jobs.small import sfumato, write_pictures

PUSHT = Path(__file__).parents[4] / "shared" / "data" / "pusht" / "pusht_cchi_v7_replay.zarr"
QUICK = ["--network.width", "32", "--network.depth", "1", "--batch", "16", "--steps", "6", "--previews", "1",
         "--snapshots", "2", "--held-out", "0.3", "--threads", "1"]  # fmt: skip


def reaching(episodes: int = 12, eye: bool = False, tasks: bool = False) -> Demonstrations:
    """A point walks to a goal; the action is where to be next. The state is the place (2) and the goal (2)."""
    chance, states, actions, ends, told = np.random.default_rng(0), [], [], [], []
    for number in range(episodes):
        place, goal = chance.uniform(0, 100, (2, 2))
        for _ in range(int(chance.integers(9, 16))):
            towards = place + (goal - place) * min(1, 8 / max(1e-9, np.linalg.norm(goal - place)))
            states.append(np.concatenate([place, goal]))
            actions.append(towards)
            told.append(number % 2)
            place = towards
        ends.append(len(states))
    seen: dict[str, Any] = {"state": np.array(states, np.float32), "step": np.arange(len(states))[:, None]}
    if eye:
        dots = np.zeros((len(states), 16, 16, 3), np.uint8)
        for picture, state in zip(dots, states, strict=True):
            picture[int(state[1] * 0.15), int(state[0] * 0.15)] = 255
        seen["eye"] = dots
    named: dict[str, Any] = {"tasks": ("red", "blue"), "task": np.array(told)} if tasks else {}
    return Demonstrations(np.array(actions, np.float32), np.array(ends), seen, fps=10.0, **named)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations on disk, and a policy trained for a moment on each."""
    folder = tmp_path_factory.mktemp("world")
    save_episodes(reaching(), folder / "reach.npz")
    save_episodes(reaching(eye=True, tasks=True), folder / "look.npz")
    assert sfumato("train", "policy", folder / "reach.npz", *QUICK, "--out", folder / "run") == 0
    words = ["--observations", "eye", "state", "--levels", "each", "--horizon", "8", "--acted", "4",
             "--angles", "state.1"]  # fmt: skip
    assert sfumato("train", "policy", folder / "look.npz", *words, *QUICK, "--out", folder / "look") == 0
    return folder


def policy_of(run: Path, answer: Any = None) -> Policy:
    """A trained policy; with ``answer``, one whose network always answers this chunk as the data."""
    found = Policy.load(run)
    if answer is None:
        return found

    def network(shown: Tensor, *levels: Tensor, **condition: Tensor) -> Tensor:
        return (answer(shown, **condition) if callable(answer) else answer).expand_as(shown)

    process = Gaussian(predicts="data")
    denoiser = Denoiser(network, process)
    return dataclasses.replace(found, model=dataclasses.replace(found.model, denoiser=denoiser, process=process))


def look_of(rows: int, seed: int = 0, facts: Facts | None = None) -> dict[str, np.ndarray]:
    """Observations of so many rows."""
    chance = np.random.default_rng(seed)
    seen: dict[str, np.ndarray] = {"state": chance.uniform(0, 100, (rows, 4))}
    if facts is not None and facts.pictures:
        seen["eye"] = chance.integers(0, 255, (rows, 16, 16, 3), dtype=np.uint8)
    return seen


# ---- the job ---------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_every_file_and_says_what_it_chose(world: Path):
    out = world / "run"
    files = [
        "config.yaml",
        "model.safetensors",
        "log.jsonl",
        "README.md",
        "data.json",
        "grid.json",
        "cache/episodes.npz",
    ]
    assert [name for name in files if not (out / name).is_file()] == []
    assert [path.name for path in (out / "samples").iterdir()] == ["step-00000006.png"]
    assert out.joinpath("config.yaml").read_text().startswith("policy:\n")
    recipe = read_config(Run(out)).recipe
    assert isinstance(recipe, PolicyRecipe)
    assert recipe.observations == ("state",)  # chosen: there is one of that name
    assert (recipe.network.body, recipe.network.width, recipe.network.depth) == ("mlp", 32, 1)
    assert 'sfumato.policy.load("RUN")' in (out / "README.md").read_text()


def test_the_ranges_in_the_run_are_those_of_the_episodes_trained_on(tmp_path: Path):
    """Number i moves in episode i alone, so that every episode held out would widen a range."""
    moves = np.repeat(np.eye(12, dtype=np.float32), 10, axis=0)
    moves *= np.tile(np.linspace(0, 1, 10, dtype=np.float32), 12)[:, None]
    save_episodes(Demonstrations(moves, np.arange(10, 121, 10), {"state": -moves}), tmp_path / "moves.npz")
    run = Run(tmp_path / "run")
    run.create()
    PolicyRecipe(tmp_path / "moves.npz", held_out=0.3).prepare(run, lambda text: None)
    train = np.load(run.cache / "split.npz")["train"]
    facts, moving = Facts.read(run), np.isin(np.arange(12), train)
    assert 0 < len(train) < 12
    for name, low, high in (("action", 0 * moving, moving), ("state", -1 * moving, 0 * moving)):
        np.testing.assert_array_equal(facts.ranges.low[name], low)
        np.testing.assert_array_equal(facts.ranges.high[name], high)


def test_the_configuration_of_a_run_makes_the_same_run_and_resume_finds_it_done(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert sfumato("train", "--config", world / "run" / "config.yaml", "--out", tmp_path / "two") == 0
    assert sfumato("train", "policy", "--config", world / "run" / "config.yaml", "--out", tmp_path / "three") == 0
    first = checkpoint.read_tensors(world / "run" / "model.safetensors")
    for name in ("two", "three"):
        again = checkpoint.read_tensors(tmp_path / name / "model.safetensors")
        assert all(torch.equal(value, again[key]) for key, value in first.items())
    capsys.readouterr()
    assert sfumato("resume", tmp_path / "two") == 0
    assert "finished: all 6 steps are done" in capsys.readouterr().err


def test_samples_are_chunks_in_the_units_of_the_robot(world: Path, tmp_path: Path):
    assert sfumato("sample", world / "run", "-n", 10, "--out", tmp_path / "s") == 0
    assert sfumato("sample", world / "run", "-n", 3, "--out", tmp_path / "few") == 0
    paths = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert paths == [*(f"{i:04d}.npy" for i in range(10)), "grid.png"]
    facts = Facts.read(Run(world / "run"))
    for i in range(10):
        chunk = np.load(tmp_path / "s" / f"{i:04d}.npy")
        assert chunk.shape == (16, 2)
        assert (chunk >= facts.ranges.low["action"]).all()
        assert (chunk <= facts.ranges.high["action"]).all()
        if i < 3:  # whatever their number
            assert (tmp_path / "few" / f"{i:04d}.npy").read_bytes() == (tmp_path / "s" / f"{i:04d}.npy").read_bytes()


def test_looking_at_demonstrations_leaves_nothing_behind(world: Path, capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    assert sfumato("inspect", "policy", world / "look.npz", *QUICK) == 0
    out = capsys.readouterr().out
    for words in ("12 episodes in ", "actions   2 numbers", "there is  eye, (16, 16, 3) uint8", "task      blue",
                  "range     action: [", "sees state (4,) of 2 step(s)", "network   Policy"):  # fmt: skip
        assert words in out
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before


def test_a_flow_map_of_a_policy_acts_without_its_teacher(world: Path, tmp_path: Path):
    words = ["--steps", 3, "--batch", 16, "--previews", 1, "--snapshots", 0, "--threads", 1]
    assert sfumato("distill", world / "look", *words, "--out", tmp_path / "map") == 0
    assert (tmp_path / "map" / "steps.png").is_file()
    assert (tmp_path / "map" / "trajectory.png").is_file()
    assert sfumato("sample", tmp_path / "map", "-n", 2, "--steps", 1, "--out", tmp_path / "s") == 0
    shutil.rmtree(tmp_path / "map" / "cache")
    policy = Policy.load(tmp_path / "map")
    model = policy.model
    assert model.map is not None
    assert model.solver(model.chosen(SampleOptions())) == Leap(mean=True)
    assert model.solver(model.chosen(SampleOptions(last="flow"))) == Leap()
    session = policy.session(2, [0, 1], SampleOptions(steps=1), tasks=[0, 1], warm=0.5)
    for seed in range(2):  # the second is carried on from the first
        assert session.act(look_of(2, seed, policy.facts)).shape == (2, 4, 2)


def test_a_policy_acts_from_its_own_few_files_wherever_they_are(world: Path, tmp_path: Path):
    for name in ("config.yaml", "data.json", "model.safetensors"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        shutil.copy(world / "run" / name, tmp_path / "elsewhere" / name)
    here, there = (Policy.load(folder).session(2, [0, 1]) for folder in (world / "run", tmp_path / "elsewhere"))
    uniform = SampleOptions(grid="uniform")  # the measured grid is a file of its own
    here, there = (Policy.load(f).session(2, [0, 1], uniform) for f in (world / "run", tmp_path / "elsewhere"))
    np.testing.assert_array_equal(here.act(look_of(2)), there.act(look_of(2)))


def test_few_steps_go_to_little_noise_unless_asked_otherwise(world: Path):
    model = Policy.load(world / "run").model
    for asked, stop in ((None, 1 / 3), (1.0, 1 / 2), (3.0, 3 / 4)):
        options = model.chosen(SampleOptions(steps=2, grid="uniform", shift=asked))
        assert model.stops(options)(model.process.schedule, 2).tolist() == pytest.approx([1, stop, 0])
    one, two = (
        Policy.load(world / "run").session(1, [0], SampleOptions(steps=2, shift=k)).act(look_of(1)) for k in (0.1, 1.0)
    )
    assert np.abs(one - two).max() > 1e-4


def test_pictures_in_a_video_are_unpacked_once_and_one_task_is_none(world: Path, tmp_path: Path):
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    from sfumato.fields.policy.demonstrations.lerobot_writer import save_lerobot

    found = reaching(6, eye=True)
    wide = found.observations["eye"][:].repeat(4, 1).repeat(4, 2)  # large enough for a video
    save_lerobot(
        dataclasses.replace(found, observations={"state": found.observations["state"], "eye": wide}), tmp_path / "set"
    )
    words = [*QUICK, "--observations", "eye", "state", "--steps", 1, "--previews", 0]
    assert sfumato("train", "policy", tmp_path / "set", *words, "--out", tmp_path / "run") == 0
    kept = np.load(tmp_path / "run" / "cache" / "eye.npy", mmap_mode="r")
    assert (kept.shape, kept.dtype) == (wide.shape, np.uint8)
    assert np.abs(kept[5].astype(int) - wide[5]).mean() < 8  # as far as the video kept it
    policy = Policy.load(tmp_path / "run")
    assert policy.facts.tasks == ()
    assert policy.facts.picture == (3, 64, 64)
    seen = {"state": found.observations["state"][5][None], "eye": np.asarray(kept[5])[None]}
    assert policy.session(1, [0], SampleOptions(steps=1)).act(seen).shape == (1, 8, 2)
    shutil.rmtree(tmp_path / "set")
    assert sfumato("resume", tmp_path / "run") == 0


# ---- sessions --------------------------------------------------------------------------------------------------------------


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


def test_angles_are_shown_as_sine_and_cosine_in_which_a_turn_is_no_jump(world: Path):
    facts = Facts.read(Run(world / "look"))
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
    assert (Facts.read(Run(tmp_path / "run")).angles, Facts.read(Run(tmp_path / "run")).state) == ((), 4)


def test_the_actions_are_those_of_the_chunk_from_now_on(world: Path):
    """The first action of a chunk belongs to the first observed step, not to now; all are in the demonstrations' units."""
    answer = torch.linspace(-1, 1, 16)[:, None].repeat(1, 2)
    answer[:, 1] = -0.5
    policy = policy_of(world / "run", answer)
    ranges = policy.facts.ranges
    low, high = ranges.low["action"], ranges.high["action"]
    for steps in (1, 3, 8):
        chunk = policy.session(3, [0, 1, 2], SampleOptions(steps=steps)).act(look_of(3))
        assert chunk.shape == (3, 8, 2)
        wanted = low + (answer.numpy()[1:9] + 1) / 2 * (high - low)
        np.testing.assert_allclose(chunk, np.broadcast_to(wanted, chunk.shape), atol=1e-4)
    beyond = policy_of(world / "run", torch.full((16, 2), 7.0)).session(1, [0]).act(look_of(1))
    np.testing.assert_allclose(beyond, np.broadcast_to(high, beyond.shape))  # no further than anybody went


def test_a_row_depends_on_its_own_seed_and_sight_alone(world: Path):
    policy, options = Policy.load(world / "run"), SampleOptions(steps=3)
    seen = look_of(3)
    together = policy.session(3, [5, 6, 7], options)
    alone = policy.session(1, [6], options)
    for _ in range(2):
        a, b = together.act(seen), alone.act({"state": seen["state"][1:2]})
        np.testing.assert_allclose(a[1:2], b, rtol=1e-4, atol=1e-3)
    assert np.abs(together.act(seen) - a).max() > 1e-3  # every chunk has noise of its own
    same = policy.session(2, [6, 9], options).act({"state": seen["state"][[1, 1]]})
    assert np.abs(same[0] - same[1]).max() > 1e-3  # and every seed


def test_a_row_that_is_reset_begins_anew_and_the_others_go_on(world: Path):
    policy, options = Policy.load(world / "run"), SampleOptions(steps=2)
    session = policy.session(2, [3, 4], options)
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
        session = Policy.load(world / "run").session(2, [0, 1], SampleOptions(steps=1))
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
        session = policy.session(2, [0, 1], SampleOptions(steps=1), warm=1e-4, tasks=tasks)
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
    session = policy.session(2, [0, 1], SampleOptions(steps=1), tasks=[0, 1])
    last = session.act(seen)
    session.reset()
    moved = session.act({**seen, "eye": np.moveaxis(seen["eye"], -1, 1)})
    np.testing.assert_array_equal(last, moved)
    with pytest.raises(ValueError, match="observation eye holds float64, expected bytes"):
        session.act({**seen, "eye": seen["eye"] / 255})


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
        SampleOptions(shift=0)


# ---- one robot -------------------------------------------------------------------------------------------------------------


def test_a_controller_acts_as_a_session_of_one_row(world: Path):
    policy, options = Policy.load(world / "run"), SampleOptions(steps=2)
    controller, session = Controller(policy, options, seed=4), policy.session(1, [4], options)
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

    controller = Controller(policy_of(world / "run", count), SampleOptions(steps=50))
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


# ---- methods ---------------------------------------------------------------------------------------------------------------


def fitted(process: Gaussian, steps: int = 250) -> Denoiser:
    """A small network taught that from the one observation there is, people go left or right, never ahead."""
    from sfumato.fields.policy.network import Policy as Network

    torch.manual_seed(0)
    network = Network(dim=1, horizon=2, observed=1, state=1, width=64, depth=2)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    denoiser = Denoiser(network, process)
    for _ in range(steps):
        side = torch.randint(0, 2, (128, 1, 1)) * 2.0 - 1
        found = loss(denoiser, 0.8 * side.expand(-1, 2, 1), torch.rand(128), state=torch.zeros(128, 1, 1)).mean()
        optimiser.zero_grad()
        found.backward()
        optimiser.step()
    return denoiser


def test_cloning_goes_ahead_where_people_go_left_or_right():
    """The mean of both ways, whatever the noise and the number of steps; the flow goes one way or the other."""
    from sfumato.diffusion import sample, uniform

    z, state = torch.randn(64, 2, 1), torch.zeros(64, 1, 1)
    cloned, flow = fitted(Regression()), fitted(Gaussian())
    mean = sample(cloned, z, uniform(cloned.process.schedule, 1), state=state)
    torch.testing.assert_close(mean, sample(cloned, z, uniform(cloned.process.schedule, 9), state=state))
    assert mean.abs().max() < 0.2
    ways = sample(flow, z, uniform(flow.process.schedule, 16), state=state)
    assert ((ways.abs() - 0.8).abs() < 0.25).float().mean() > 0.9
    assert 0.25 < (ways[:, 0] > 0).float().mean() < 0.75
    assert ((ways[:, 0] > 0) == (ways[:, 1] > 0)).float().mean() > 0.9  # and stays with it


def test_training_times_cover_the_start_of_every_sample_and_are_else_as_asked():
    u = (torch.arange(20_000) + 0.5) / 20_000
    found = Covered(LogitNormal(), share=0.1)(u, Linear())
    at_start, rest = found == 1, found[found < 1]
    assert at_start.double().mean().item() == pytest.approx(0.1, abs=1e-3)
    assert ((found > 0) & (found <= 1)).all()
    assert (LogitNormal()(u, Linear()) < 0.99).all()  # it alone never comes near
    plain, even = LogitNormal()(u, Linear()), u.double()
    for q in (0.05, 0.5, 0.95):  # below 1 it is the mixture of both: its distribution function is theirs, mixed
        value = rest.quantile(q)
        mixed = (0.1 * (even < value).double().mean() + 0.8 * (plain < value).double().mean()) / 0.9
        assert mixed.item() == pytest.approx(q, abs=2e-3)


def test_ramps_rise_from_low_to_noise_and_cover_what_sampling_walks_through():
    low, length = torch.tensor([[0.0], [0.3], [1.0]]), torch.tensor([[4.0], [1.0], [8.0]])
    found = ramp(low, length, 8)
    torch.testing.assert_close(found[:, :1], low)
    assert (found.diff(dim=1) >= 0).all()
    assert (found[0, 4:] == 1).all()
    assert found[0, 3] < 1
    assert (found[1, 1:] == 1).all()
    assert (found[2] == 1).all()


def test_staggered_is_the_plain_loss_where_no_chunk_has_a_ramp_and_sees_less_noise_where_it_has():
    seen: list[Tensor] = []

    def network(shown: Tensor, level: Tensor) -> Tensor:
        seen.append(level)
        return 0.1 * shown

    denoiser, x, z, t = Denoiser(network, Gaussian()), torch.randn(64, 8, 2), torch.randn(64, 8, 2), torch.rand(64)
    torch.testing.assert_close(Staggered(0.0)(denoiser, x, t, z=z), loss(denoiser, x, t, z=z))
    found = Staggered(1.0)(denoiser, x, t, z=z)
    plain, ramped = seen[1], seen[2]
    assert found.shape == (64,)
    assert ramped.shape == (64, 8)
    assert (ramped <= plain[:, None] + 1e-4).all()
    assert (ramped[:, -1] - plain).abs().lt(1e-4).float().mean() > 0.7  # the last action has all the noise, mostly
    assert (ramped[:, 0] < plain - 1e-3).float().mean() > 0.9
    assert (ramped.diff(dim=1) >= -1e-5).all()


def test_cloning_is_a_recipe_of_its_own(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert sfumato("train", "policy", world / "reach.npz", *QUICK, "--cloning", "--out", tmp_path / "run") == 0
    assert "behaviour cloning" in capsys.readouterr().err
    session = Policy.load(tmp_path / "run").session(2, [0, 1])
    assert session.options.steps == 1
    same = session.act({"state": look_of(1)["state"].repeat(2, 0)})
    np.testing.assert_allclose(same[0], same[1], rtol=1e-5)  # whatever the seed


# ---- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "message"), [
    (["--horizon", "8"], "horizon = 8: must be at least observed - 1 + acted, 9"),
    (["--observed", "0"], "observed = 0: must be at least 1"), (["--acted", "0"], "acted = 0: must be at least 1"),
    (["--angles", "state.4"], "angles = ['state.4']: must be different ones of state.0 to state.3"),
    (["--angles", "state.1", "state.1"], "angles = ['state.1', 'state.1']: must be different ones of state.0"),
    (["--observations", "nose"], "has no observation nose; it has state, step"),
    (["--cloning", "--levels", "each"], "levels = 'each': must be 'one' with cloning"),
    (["--method.process", "equilibrium"], "method.process = 'equilibrium': must be 'gaussian'"),
    (["--network.body", "unet", "--network.depth", "6"], "needs a horizon divisible by 32, not 16"),
])  # fmt: skip
def test_a_bad_wish_is_one_line(
    words: list[str], message: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    capsys.readouterr()
    try:
        code = sfumato("train", "policy", world / "reach.npz", *words, "--threads", 1, "--out", tmp_path / "run")
    except SystemExit as error:  # the parser's own way
        code = int(error.code or 0)
    err = capsys.readouterr().err
    assert code != 0
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_bad_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one = reaching(1)
    save_episodes(one, tmp_path / "one.npz")
    save_episodes(dataclasses.replace(one, observations={}), tmp_path / "blind.npz")
    (tmp_path / "notes.txt").write_text("hello")
    for name, message in (
        ("one.npz", "1 episode(s), all the same; at least two are needed"),
        ("blind.npz", "has actions but no observations; a policy must see something"),
        ("none.zarr", "not found; expected a zarr replay buffer"),
        ("notes.txt", "cannot be read as a zarr store"),
    ):
        capsys.readouterr()
        assert sfumato("train", "policy", tmp_path / name, *QUICK, "--out", tmp_path / "run") == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(("damage", "message"), [
    (lambda facts: facts["ranges"].pop("state"), "has no range of state"),
    (lambda facts: facts["ranges"].pop("action"), "has no range of action"),
    (lambda facts: facts.pop("ranges"), "'ranges'"), (lambda facts: facts.pop("acted"), "'acted'"),
])  # fmt: skip
def test_a_run_without_its_statistics_does_not_act(damage: Any, message: str, world: Path, tmp_path: Path):
    shutil.copytree(world / "run", tmp_path / "run")
    path = tmp_path / "run" / "data.json"
    facts = json.loads(path.read_text())
    damage(facts)
    path.write_text(json.dumps(facts))
    with pytest.raises(RunError, match=message) as caught:
        Policy.load(tmp_path / "run")
    assert "train again" in str(caught.value)


def test_prepared_data_that_is_gone_is_named(world: Path, tmp_path: Path):
    shutil.copytree(world / "run", tmp_path / "run")
    (tmp_path / "run" / "cache" / "split.npz").unlink()
    with pytest.raises(DataError, match="the prepared data cannot be read"):
        job.resume(tmp_path / "run")


def test_samples_for_a_task(world: Path):
    model = load(world / "look")
    condition = model.condition(SampleOptions(label="blue"))
    assert condition is not None
    assert condition(range(5))["task"].tolist() == [1] * 5
    with pytest.raises(ValueError, match="label = 'green': must be one of red, blue"):
        model.condition(SampleOptions(label="green"))
    with pytest.raises(ValueError, match="was trained without tasks"):
        load(world / "run").condition(SampleOptions(label="red"))


# ---- recipes by name -------------------------------------------------------------------------------------------------------


def test_recipes_are_known_by_the_names_they_were_installed_under():
    assert {"images", "policy"} <= set(names())
    assert kind("policy") is PolicyRecipe
    assert name_of(Images(Path("x"))) == "images"
    with pytest.raises(ConfigError, match="no recipe 'poetry' is installed; known: images, policy"):
        kind("poetry")
    with pytest.raises(ConfigError, match="is no entry point of the group"):
        name_of(TrainOptions())


def test_a_configuration_of_any_recipe_comes_back_from_yaml_as_it_was():
    for recipe in (Images(Path("a"), side=8), PolicyRecipe(Path("b"), ("state",), cloning=True)):
        made = Configuration(recipe, TrainOptions(steps=3))
        text = made.to_yaml()
        assert text.startswith(f"{name_of(recipe)}:\n")
        assert Configuration.from_yaml(text) == made
        assert Configuration.from_yaml(text, base=Configuration(Images(Path("c")))) == made
    with pytest.raises(ConfigError, match=r"config:3: unknown key 'policy.acts'; did you mean 'acted'\?"):
        Configuration.from_yaml("policy:\n  data: x\n  acts: 3\n")


@pytest.mark.parametrize(("words", "recipe"), [
    (["train", "policy", "d"], PolicyRecipe), (["train", "images", "d"], Images), (["train", "d"], Images),
    (["train", "images"], Images), (["train", "policy", "--acted", "4", "d"], PolicyRecipe),
])  # fmt: skip
def test_the_name_of_a_recipe_comes_before_its_data(
    words: list[str], recipe: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Any] = []
    monkeypatch.setattr(job, "train", lambda given, training, out: asked.append(given) or Run(out))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()  # a folder of that name is data where nothing follows
    assert sfumato(*words) == 0
    assert type(asked[0]) is recipe
    assert asked[0].data == Path(words[-1])


def test_options_of_another_recipe_are_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert sfumato("train", "images", "--config", world / "run" / "config.yaml", "--out", tmp_path / "x") == 1
    assert "is of the recipe policy, not images; leave the name out" in capsys.readouterr().err


def test_a_run_of_pictures_is_no_policy(tmp_path: Path):
    folder = write_pictures(tmp_path / "photos", 12)
    words = ["--side", 8, "--network.width", 32, "--network.depth", 1, "--batch", 4, "--steps", 1, "--previews", 0]
    assert sfumato("train", folder, *words, "--snapshots", 0, "--out", tmp_path / "run") == 0
    with pytest.raises(RunError, match="is not a policy; train one with `sfumato train policy"):
        Policy.load(tmp_path / "run")


# ---- real data -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not PUSHT.exists(), reason="the Push-T demonstrations are not here")
def test_the_real_demonstrations_of_push_t(tmp_path: Path):
    words = ["--network.width", 64, "--network.depth", 1, "--steps", 3, "--batch", 64, "--previews", 1, "--threads", 1]
    assert sfumato("train", "policy", PUSHT, *words, "--out", tmp_path / "run") == 0
    policy = Policy.load(tmp_path / "run")
    facts = policy.facts
    assert (facts.states, facts.state, facts.dim, facts.picture) == (("state",), 5, 2, None)
    assert facts.ranges.high["action"].max() <= 512
    where = np.array([[256.0, 400.0, 200.0, 300.0, 1.0]])
    chunk = policy.session(1, [0]).act(where)
    assert chunk.shape == (1, 8, 2)
    assert (chunk >= 0).all()
    assert (chunk <= 512).all()
