"""A policy from demonstrations, through the command line: what it leaves, what it draws, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.adapting.flow_map import Leap
from sfumato.data import DataError
from sfumato.fields.images.recipe import Images
from sfumato.fields.policy import samples
from sfumato.fields.policy.acting import Policy
from sfumato.fields.policy.data import PolicyFacts
from sfumato.fields.policy.demonstrations.episodes import Demonstrations
from sfumato.fields.policy.demonstrations.replay import open_episodes, save_episodes
from sfumato.fields.policy.recipe import ChunkAsk, PolicyRecipe
from sfumato.fields.policy.senses import chosen
from sfumato.jobs import train as job
from sfumato.jobs.config import Configuration, read_config
from sfumato.jobs.find import kind, name_of, names
from sfumato.jobs.model import load
from sfumato.jobs.strict import ConfigError
from sfumato.jobs.walk import Walk
from sfumato.training import checkpoint
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError
from tests.fields.policy.reach import QUICK, look_of, reaching
from tests.jobs.small import sfumato, write_pictures

PUSHT = Path(__file__).parents[4] / "shared" / "data" / "pusht" / "pusht_cchi_v7_replay.zarr"


# ---- the job ---------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_every_file_and_says_what_it_chose(world: Path):
    out = world / "run"
    files = [
        "config.yaml",
        "model.safetensors",
        "log.jsonl",
        "README.md",
        "data.json",
        "walk.json",
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
    facts, moving = PolicyFacts.read(run), np.isin(np.arange(12), train)
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
    assert paths == [*(f"{i:04d}.npy" for i in range(10)), "grid.png", "samples.json"]
    facts = PolicyFacts.read(Run(world / "run"))
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
                  "range     action: [", "sees state (4,) of 2 step(s)", "network   ChunkNetwork"):  # fmt: skip
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
    assert [type(each).__name__ for each in model.adaptations] == ["DistillOptions"]
    assert (model.walk.steps, model.walk.shift, model.solver(model.walk)) == (4, 0.5, Leap(mean=True))
    assert model.solver(model.walked(Walk(solver="leap"))) == Leap()
    assert not policy.ramps  # its teacher knew chunks of rising noise
    session = policy.session(2, [0, 1], Walk(steps=1), tasks=[0, 1], warm=0.5)
    for seed in range(2):  # the second is carried on from the first
        assert session.act(look_of(2, seed, policy.facts)).shape == (2, 4, 2)


def test_a_policy_acts_from_its_own_few_files_wherever_they_are(world: Path, tmp_path: Path):
    for name in ("config.yaml", "data.json", "model.safetensors"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        shutil.copy(world / "run" / name, tmp_path / "elsewhere" / name)
    here, there = (Policy.load(folder).session(2, [0, 1]) for folder in (world / "run", tmp_path / "elsewhere"))
    uniform = Walk(grid="uniform")  # the measured grid is a file of its own
    here, there = (Policy.load(f).session(2, [0, 1], uniform) for f in (world / "run", tmp_path / "elsewhere"))
    np.testing.assert_array_equal(here.act(look_of(2)), there.act(look_of(2)))


def test_few_steps_go_to_little_noise_unless_asked_otherwise(world: Path):
    model = Policy.load(world / "run").model
    for asked, stop in ((None, 1 / 3), (1.0, 1 / 2), (3.0, 3 / 4)):
        walk = model.walked(Walk(steps=2, grid="uniform", shift=asked))
        assert model.grid(walk)(model.process.schedule, 2).tolist() == pytest.approx([1, stop, 0])
    one, two = (Policy.load(world / "run").session(1, [0], Walk(steps=2, shift=k)).act(look_of(1)) for k in (0.1, 1.0))
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
    assert policy.session(1, [0], Walk(steps=1)).act(seen).shape == (1, 8, 2)
    shutil.rmtree(tmp_path / "set")
    assert sfumato("resume", tmp_path / "run") == 0


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


@pytest.mark.parametrize(
    "names", [("timestamp", "done"), ("next.reward", "frame_index"), ("REWARD", "episode/terminated")]
)
def test_book_keeping_is_no_sense(
    names: tuple[str, str], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A policy that saw the clock or the verdict would copy it: left out and said, unless asked for."""
    one = open_episodes(world / "reach.npz")
    seen = {"qpos": one.observations["state"], **{name: np.arange(one.steps) % 7 for name in names}}
    save_episodes(dataclasses.replace(one, observations=seen), tmp_path / "log.npz")
    capsys.readouterr()
    assert sfumato("train", "policy", tmp_path / "log.npz", *QUICK, "--out", tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert f"not seen  {', '.join(names)}: book-keeping" in said
    assert PolicyFacts.read(Run(tmp_path / "run")).states == ("qpos",)
    assert chosen(tmp_path / "log.npz", ("qpos", names[0]))[1] == ()
    save_episodes(dataclasses.replace(one, observations={names[0]: seen[names[0]]}), tmp_path / "blind.npz")
    with pytest.raises(DataError, match=f"actions but no observations but {names[0]}"):
        chosen(tmp_path / "blind.npz", None)


@pytest.mark.parametrize(("shape", "kind", "message"), [
    ((16, 16), np.uint8, r"looks like pictures of shape \(16, 16\).*grey pictures as bytes \(N, H, W, 1\)"),
    ((16, 16, 4), np.uint8, r"a fourth channel under a name of its own"),
    ((3, 16, 16), np.float32, r"float32, which no network here sees; give pictures as bytes"),
    ((1, 12, 20), np.float64, r"depth scaled to bytes"), ((4, 16, 16), np.uint8, "fourth channel"),
    ((9, 2), np.float32, ""), ((256,), np.uint8, ""), ((16, 16, 3), np.uint8, ""), ((1, 16, 16), np.uint8, ""),
])  # fmt: skip
def test_a_camera_that_would_be_taken_for_numbers_is_refused(shape, kind, message: str, tmp_path: Path):
    one = reaching(2)
    eye = np.random.default_rng(0).integers(0, 250, (one.steps, *shape)).astype(kind)
    save_episodes(dataclasses.replace(one, observations={"eye": eye}), tmp_path / "eye.npz")
    if message:
        with pytest.raises(DataError, match=message):
            chosen(tmp_path / "eye.npz", None)
    else:
        assert list(chosen(tmp_path / "eye.npz", None)[0].observations) == ["eye"]


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
    (path.parent / "checksums.json").unlink()  # without these it would be found as a changed file already
    with pytest.raises(RunError, match=message) as caught:
        Policy.load(tmp_path / "run")
    assert "train again" in str(caught.value)


def test_prepared_data_that_is_gone_is_named(world: Path, tmp_path: Path):
    shutil.copytree(world / "run", tmp_path / "run")
    (tmp_path / "run" / "cache" / "split.npz").unlink()
    with pytest.raises(RunError, match=r"split\.npz: is missing"):
        job.resume(tmp_path / "run")
    (tmp_path / "run" / "checksums.json").unlink()  # as in a run of an older revision
    with pytest.raises(DataError, match=r"split.npz: cannot be read \(No such file or directory\)"):
        job.resume(tmp_path / "run")


def test_samples_for_a_task(world: Path):
    model = load(world / "look")
    assert model.recipe.queries(model, ChunkAsk("blue"), 5).batch(range(5))["task"].tolist() == [1] * 5
    blue, red = (model.sample(2, label=label, steps=2) for label in ("blue", "red"))
    assert np.abs(blue[0].actions - red[0].actions).max() > 0
    with pytest.raises(ValueError, match="label = 'green': must be one of red, blue"):
        model.sample(2, label="green")
    with pytest.raises(ValueError, match="was trained without tasks"):
        load(world / "run").sample(2, label="red")


def test_samples_are_for_what_was_seen_in_windows_held_out_eight_for_each(world: Path):
    model = load(world / "run")
    held = model.recipe.open(model.run).held_out
    things = model.sample(20)
    assert [thing.window for thing in things] == [0] * 8 + [1] * 8 + [2] * 4
    known = held.batch(np.arange(3))
    asked = model.recipe.queries(model, ChunkAsk(), 20).batch(range(20))
    for i, thing in enumerate(things):
        np.testing.assert_array_equal(thing.demonstrated, known["x"][i // 8])
        np.testing.assert_array_equal(asked["state"][i], known["state"][i // 8])
        np.testing.assert_allclose(thing.actions, model.facts.ranges.restore("action", np.clip(thing.x, -1, 1)))
    assert not asked["x"].any()  # the network is not told what was done


def test_the_windows_held_out_are_read_once_for_all_that_is_drawn(world: Path, monkeypatch: pytest.MonkeyPatch):
    reads: list[Path] = []
    read = PolicyRecipe.companions
    monkeypatch.setattr(
        PolicyRecipe, "companions", lambda self, run, device: reads.append(run.path) or read(self, run, device)
    )
    model = load(world / "run")
    assert reads == []  # a policy acts without its data
    for seed in range(3):
        model.sample(2, seed=seed, steps=1)
    assert reads == [world / "run"]


def test_a_panel_shows_the_chunks_of_a_window_over_what_was_demonstrated(monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []
    monkeypatch.setattr(samples, "fans", lambda *given, **more: seen.append((given, more)))
    things = [samples.Chunk(np.zeros((4, 2)), np.full((4, 2), i), i // 8, np.full((4, 2), -i // 8)) for i in range(20)]
    samples.panels(things)
    samples.sheet(things, 5)
    (chunks, truth), _ = seen[0]
    assert [len(panel) for panel in chunks] == [8, 8, 4]
    assert [int(panel[0, 0, 0]) for panel in chunks] == [0, 8, 16]
    assert [int(each[0, 0]) for each in truth] == [0, -1, -2]
    (chunks,), more = seen[1]
    assert len(chunks) == 20
    assert more["columns"] == 5


# ---- recipes by name -------------------------------------------------------------------------------------------------------


def test_recipes_are_known_by_the_names_they_were_installed_under():
    assert {"images", "policy"} <= set(names())
    assert kind("policy") is PolicyRecipe
    assert name_of(Images(Path("x"))) == "images"
    with pytest.raises(ConfigError, match=r"no recipe 'poetry' is installed; known: .*images, policy"):
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
