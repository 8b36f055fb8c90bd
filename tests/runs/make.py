"""Makes the tiny runs that later revisions must still load: `python -m tests.runs.make NAME`, from the root.

NAME is the revision they are made with, and the folder beside this file that they go to; a folder that is there is left
alone. Those in `a3fdda3` were made by this script on top of revision a3fdda3. What loading, sampling, evaluating and
resuming need stays in a run, the rest (events, pictures, checkpoints of finished runs) goes. `expected.npz` holds what
the runs gave on the day they were made, by "RUN/WHAT"; `test_runs.py` says what each number is.

The data is made here too, small and seeded. Runs find it by a path relative to the folder of the revision.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import adapters

HERE = Path(__file__).parent
KEPT = {"config.yaml", "data.json", "model.safetensors", "grid.json", "walk.json", "log.jsonl", "README.md",
        "teacher.safetensors"}  # fmt: skip
POINT = "tests.fields.policy.robots:sfumato_tests/Point-v0"

COMMON = ["--batch", "8", "--precision", "fp32", "--threads", "1", "--compile", "off", "--previews", "1", "--keep", "1"]
PICTURES = [*COMMON, "--held-out", "0.4", "--network.width", "16", "--network.depth", "1"]
POLICY = [*PICTURES, "--network.width", "8", "--observed", "2", "--horizon", "8", "--acted", "4"]
LONG = ["--steps", "60", "--optim.lr", "0.004"]
NO_SNAPSHOTS = ["--snapshots", "0"]

MADE: dict[str, tuple[str, list[str]]] = {
    "pictures": ("train", ["data/pictures", "--side", "8", "--network.kind", "unet", *PICTURES, *LONG, *NO_SNAPSHOTS,
                           "--network.width", "8"]),
    "classes": ("train", ["data/classes", "--side", "8", "--labels", *PICTURES, *LONG, *NO_SNAPSHOTS]),
    "vectors": ("train", ["data/vectors.npy", *PICTURES, *LONG, "--snapshots", "2"]),
    "labelled": ("train", ["data/labelled.npz", "--labels", "--method.schedule", "vp", "--method.predicts", "v",
                           "--method.loss-in", "None", *PICTURES, *LONG, *NO_SNAPSHOTS]),
    "equilibrium": ("train", ["data/vectors.npy", "--method.process", "equilibrium", *PICTURES, *LONG, *NO_SNAPSHOTS]),
    "policy": ("train", ["policy", "data/point.npz", *POLICY, *LONG, *NO_SNAPSHOTS]),
    "levels": ("train", ["policy", "data/look.npz", "--observations", "state", "eye", "--angles", "state.1",
                         "--levels", "each", *POLICY, *LONG, *NO_SNAPSHOTS]),
    "cloning": ("train", ["policy", "data/point.npz", "--cloning", *POLICY, *LONG, *NO_SNAPSHOTS]),
    "classes_map": ("distill", ["classes", *COMMON, *LONG, *NO_SNAPSHOTS]),
    "policy_map": ("distill", ["policy", "--kind", "semigroup", *COMMON, *LONG, *NO_SNAPSHOTS]),
    "stopped": ("stop", ["data/classes", "--side", "8", "--labels", "--method.times", "adaptive", "--method.uncertainty",
                         *PICTURES, "--steps", "24", "--ema", "0.2", "0.1", *NO_SNAPSHOTS]),
    "stopped_policy": ("stop", ["policy", "data/point.npz", *POLICY, "--steps", "24", "--ema", "0.2", "0.1", *NO_SNAPSHOTS]),
}  # fmt: skip
"""How each run is made: the verb, and its words."""

THEN: dict[str, Any] = {"solver": "dpmpp_2m", "eta": 0.5}
"""How samples of pictures and vectors were drawn unless asked otherwise, when these runs were made."""

DRAWN: dict[str, dict[str, dict[str, Any]]] = {
    "pictures": {"default": THEN, "heun": {"solver": "heun", "steps": 5}},
    "classes": {"default": THEN, "ab3": {"solver": "ab3", "steps": 6, "grid": "cosine"},
                "guided": {"w": 2.5, "steps": 6, "guide_to": 0.8, **THEN},
                "label": {"label": "green", "steps": 6, **THEN}},
    "vectors": {"default": THEN, "ancestral": {"solver": "ancestral", "steps": 6, "grid": "uniform"},
                "ema": {"ema": 0.12, "steps": 6, **THEN}},
    "labelled": {"default": THEN, "unipc": {"solver": "unipc", "steps": 6}, "guided": {"w": 2.5, "steps": 6, **THEN}},
    "equilibrium": {"default": {}},
    "policy": {"default": {}, "euler": {"solver": "euler", "steps": 4, "eta": 0.0}},
    "levels": {"default": {}, "task": {"label": "blue", "steps": 4}},
    "cloning": {"default": {}},
    "classes_map": {"default": {}, "guided": {"w": 2.0, "steps": 2}, "euler": {"solver": "euler", "steps": 5, "eta": 0.5}},
    "policy_map": {"default": {}, "one": {"steps": 1}},
}  # fmt: skip
"""Samples 0 to 3 of each finished run, by name of the options."""

ACTED: dict[str, dict[str, dict[str, Any]]] = {
    "policy": {"acts": {}, "acts_warm": {"warm": 0.5, "steps": 3, "seed": 7}},
    "levels": {"acts": {"task": "red"}, "acts_warm": {"task": "blue", "warm": 0.4, "steps": 3}},
    "cloning": {"acts": {}},
    "policy_map": {"acts": {}, "acts_once": {"steps": 1}},
}
"""What each policy does at `seen(name)`, by name of the options."""

PLAIN = ("pictures", "classes", "vectors", "labelled", "equilibrium", "policy", "cloning")
"""Runs whose held-out loss is a function of their weights and data alone."""


# ---- data --------------------------------------------------------------------------------------------------------------


def write_data(folder: Path) -> None:
    """All data that the runs learn from, seeded."""
    rng = np.random.default_rng(0)
    for i, coarse in enumerate(rng.integers(0, 256, (48, 2, 2, 3))):
        picture = Image.fromarray(np.kron(coarse, np.ones((4, 4, 1))).astype(np.uint8))
        for place in (folder / "pictures", folder / "classes" / ("red", "green", "blue")[i % 3]):
            place.mkdir(parents=True, exist_ok=True)
            picture.save(place / f"{i:03d}.png")
    np.save(folder / "vectors.npy", rng.normal(3, 2, (64, 5)).astype(np.float32))
    np.savez(folder / "labelled.npz", x=rng.normal(-1, 0.5, (64, 3, 4)).astype(np.float32), labels=np.arange(64) % 2)
    states, ends = _walks(rng)
    actions = np.clip((states[:, 2:] - states[:, :2]) / 0.1, -1, 1)
    adapters.write_demonstrations(folder / "point.npz", actions, ends, {"state": states}, fps=10.0)
    adapters.write_demonstrations(
        folder / "look.npz", actions, ends, {"state": states, "eye": _eye(states)}, fps=10.0,
        tasks=("red", "blue"), task=(np.searchsorted(ends, np.arange(len(states)), "right") % 2),
    )  # fmt: skip


def _walks(rng: np.random.Generator, episodes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Straight walks of a point to its goal, as in `tests.fields.policy.robots`: states (N, 4), place and goal, and ends."""
    states, ends = [], []
    for _ in range(episodes):
        place, goal = np.zeros(2), rng.uniform(-1, 1, 2)
        for _ in range(12):
            states.append(np.concatenate([place, goal]))
            place = place + 0.1 * np.clip((goal - place) / 0.1, -1, 1)
        ends.append(len(states))
    return np.array(states, np.float32), np.array(ends)


def _eye(states: np.ndarray) -> np.ndarray:
    """The place as a white dot: (N, 8, 8, 3) bytes."""
    eye = np.zeros((len(states), 8, 8, 3), np.uint8)
    x, y = np.clip((states[:, :2] + 1) * 4, 0, 7).astype(int).T
    eye[np.arange(len(states)), y, x] = 255
    return eye


def seen(name: str, steps: int = 10) -> list[dict[str, np.ndarray]]:
    """What the policy of this name is shown, step after step."""
    states = np.random.default_rng(5).uniform(-1, 1, (steps, 4)).astype(np.float32)
    named = {"state": states, "eye": _eye(states)} if name == "levels" else {"state": states}
    return [{key: value[i] for key, value in named.items()} for i in range(steps)]


# ---- runs --------------------------------------------------------------------------------------------------------------


def made(name: str) -> None:
    """Make the run of this name in the working directory, where its data and its teacher are."""
    verb, words = MADE[name]
    if verb == "stop":
        status = adapters.command_stopped(10, "train", *words, "--out", name)
    else:
        status = adapters.command(verb, *words, "--out", name)
    assert status == (143 if verb == "stop" else 0), (name, status)


def tidy(run: Path) -> None:
    """Leave in a run what is needed to load, sample, evaluate and resume it."""
    finished = (run / "model.safetensors").is_file()
    for path in run.iterdir():
        folders = {"cache", "snapshots"} if finished else {"cache", "checkpoints"}
        if path.is_dir() and path.name not in folders:
            shutil.rmtree(path)
        elif path.is_file() and path.name not in KEPT:
            path.unlink()


def copied(run: Path, target: Path) -> Path:
    """A run as it was made, at ``target``; git holds no empty folders, and training wants one for its pictures."""
    shutil.copytree(run, target)
    (target / "samples").mkdir(exist_ok=True)
    return target


def measured(folder: Path, name: str) -> dict[str, np.ndarray]:
    """What the finished run of this name in ``folder`` gives: samples, actions, held-out loss, by what was asked."""
    run, held_out = folder / name, {"held_out": np.array(adapters.held_out(folder / name))} if name in PLAIN else {}
    drawn = {what: adapters.samples(run, options) for what, options in DRAWN[name].items()}
    acted = {what: adapters.acts(run, seen(name), **options) for what, options in ACTED.get(name, {}).items()}
    return {**drawn, **acted, **held_out}


def resumed(run: Path) -> dict[str, np.ndarray]:
    """What an unfinished run gives, and once it has been resumed to its end: averaged weights by name, and samples."""
    then = {} if "policy" in run.name else THEN
    before = adapters.samples(run, {"steps": 6, **then})
    assert adapters.command("resume", run) == 0
    trained = {f"weights/{name}": value for name, value in adapters.weights(run).items() if "arrival" not in name}
    return {**trained, "unfinished": before, "default": adapters.samples(run, then)}


def main(revision: str) -> None:
    target = HERE / revision
    if target.exists():
        sys.exit(f"{target}: is there already; delete it first")
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        write_data(Path("data"))
        for name in MADE:
            made(name)
            tidy(Path(name))
        found = {}
        for name, (verb, _) in MADE.items():
            stopped = verb == "stop"
            given = resumed(copied(Path(name), Path("ends") / name)) if stopped else measured(Path(), name)
            found |= {f"{name}/{what}": value for what, value in given.items()}
        np.savez_compressed("expected.npz", **found)
        for gone in ("ends", "data/pictures", "data/classes", "data/point.npz", "data/look.npz"):  # cached in runs
            shutil.rmtree(gone) if Path(gone).is_dir() else Path(gone).unlink()
        shutil.copytree(temporary, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
